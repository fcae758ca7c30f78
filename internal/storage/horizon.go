package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/statefile"
)

const (
	// horizonFile keeps the horizon, below the data directory.
	horizonFile = "horizon"
	// expireInterval is how often a store looks what has expired, as the TSDB looks which
	// blocks to delete.
	expireInterval = time.Minute
)

// Horizon returns what is expired. It never falls: it is on disk before anything is answered,
// left out or deleted by it. Samples before it are in no answer, whatever is still on disk, and
// are not stored; what comes from other nodes leaves them out without an error.
func (s *Store) Horizon() expiry.Horizon { return *s.horizon.Load() }

// Word is what other nodes are told.
func (s *Store) Word() expiry.Word { return expiry.Word{Horizon: s.Horizon(), Limits: s.expiry.Limits} }

// AdoptHorizon raises the horizon by what another node says of its own, as far as that is
// believed. It returns when that is on disk, and ends with ctx.
func (s *Store) AdoptHorizon(ctx context.Context, told expiry.Horizon) error {
	return s.raiseHorizon(ctx, func(own expiry.Horizon) expiry.Horizon {
		return s.expiry.Adopt(own, told, s.opts.Now().UnixMilli())
	})
}

// raiseHorizon has the horizon be what next makes of it.
func (s *Store) raiseHorizon(ctx context.Context, next func(expiry.Horizon) expiry.Horizon) error {
	if own := s.Horizon(); next(own) == own {
		return nil
	}
	if err := s.raises.take(ctx, s.fence); err != nil {
		return err
	}
	defer s.raises.give()
	own := s.Horizon()
	raised := next(own).Max(own)
	if raised == own {
		return nil
	}
	// The disk at the path may be another one.
	if err := s.fence.check(); err != nil {
		return err
	}
	content, err := statefile.Encode(horizonFile, raised)
	if err != nil {
		return err
	}
	if err := statefile.ReplaceWith(filepath.Join(s.opts.Dir, horizonFile), bytes.NewReader(content), s.hooks.fsync); err != nil {
		return err
	}
	s.horizon.Store(&raised)
	if raised.Size > max(own.Size, raised.Time) {
		s.opts.Logger.Info("Samples expire for lack of the space that --storage.tsdb.retention.size allows, here or on another node",
			"before", formatTime(raised.Size))
	}
	return nil
}

// loadHorizon reads the horizon of the last run. A damaged file is set aside: by its clock the
// node raises the horizon to where it was, and its peers tell it the rest before they ask it
// for samples.
func (s *Store) loadHorizon() error {
	s.expiry = expiry.Rule{
		Limits: expiry.Limits{Time: s.opts.RetentionTime.Milliseconds(), Size: s.opts.RetentionSize},
		// A head is cut when it spans one and a half blocks, and blocks are cut before long.
		Head: 2 * s.opts.MinBlockDuration.Milliseconds(),
	}
	h := expiry.Never()
	err := statefile.Load(s.opts.Dir, horizonFile, &h)
	if errors.Is(err, statefile.ErrDamaged) {
		path := filepath.Join(s.opts.Dir, horizonFile)
		s.opts.Logger.Warn("The file of the horizon is damaged; it is set aside, and the horizon taken from the clock and from other nodes",
			"file", path, "aside", path+".damaged", "err", err)
		h, err = expiry.Never(), os.Rename(path, path+".damaged")
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the horizon: %w", err)
	}
	now := s.opts.Now().UnixMilli()
	if s.expiry.Limits.Time > 0 && s.expiry.Adopt(expiry.Never(), h, now).Time != h.Time {
		s.opts.Logger.Warn("Samples have expired already that --storage.tsdb.retention.time would keep: it was shorter, or the clock was ahead; none older is stored or answered",
			"before", formatTime(h.Time), "retention", s.opts.RetentionTime)
	}
	s.horizon.Store(&h)
	return nil
}

// expire raises the horizon as far as the clock and the size of the blocks ask for. It is not done
// when the TSDB asks which blocks to delete, as that is under the lock of its compactions. The
// keeper calls it.
func (s *Store) expire() {
	if s.db == nil || s.fence.check() != nil {
		return
	}
	due := s.due(s.db, s.db.Blocks())
	if err := s.raiseHorizon(s.keeper.ctx, due.Max); err != nil && s.keeper.ctx.Err() == nil {
		s.opts.Logger.Warn("The horizon is not raised yet, and no more is deleted than before", "err", oneLine(err))
	}
}

// expired returns the blocks behind the horizon.
func (s *Store) expired(blocks []*tsdb.Block) map[ulid.ULID]struct{} {
	horizon := s.Horizon().At()
	gone := make(map[ulid.ULID]struct{})
	for _, b := range blocks {
		if meta := b.Meta(); meta.Compaction.Deletable || meta.MaxTime <= horizon {
			gone[meta.ULID] = struct{}{}
		}
	}
	return gone
}

// due is the horizon by this node alone. What a block replaces that is there, too, goes anyway,
// and does not count.
func (s *Store) due(db *tsdb.DB, blocks []*tsdb.Block) expiry.Horizon {
	now, newest := s.opts.Now().UnixMilli(), db.Head().MaxTime()
	replaced := make(map[ulid.ULID]bool)
	for _, b := range blocks {
		for _, parent := range b.Meta().Compaction.Parents {
			replaced[parent.ULID] = true
		}
	}
	var kept []expiry.Block
	for _, b := range blocks {
		meta := b.Meta()
		newest = max(newest, meta.MaxTime-1)
		if !replaced[meta.ULID] {
			kept = append(kept, expiry.Block{End: meta.MaxTime, Bytes: b.Size()})
		}
	}
	return expiry.Horizon{
		Time: s.expiry.ByTime(now, newest),
		// As Prometheus counts: logs and the head's chunks are part of it.
		Size: s.expiry.BySize(now, newest, db.Head().Size(), kept),
	}
}

// clip has hints not reach behind the horizon that a querier was opened at, and tells whether
// anything is left of them.
func clip(hints *promstorage.SelectHints, horizon int64) (_ *promstorage.SelectHints, left bool) {
	if hints == nil || hints.Start >= horizon {
		return hints, true
	}
	own := *hints
	own.Start, own.DisableTrimming = horizon, false
	return &own, own.Start <= own.End
}
