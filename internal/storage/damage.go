package storage

import (
	"context"
	"fmt"

	"github.com/starling-tsdb/starling/internal/damage"
)

// Damage returns the ranges of time for which this store may lack samples that it confirmed.
// It is cheap. The slice is shared and must not be changed.
func (s *Store) Damage() []damage.Range { return s.damage.Ranges() }

// intact is ErrDamaged if a read of mint to maxt could lack samples: no answer is better
// than one that looks complete. Suspect ranges are left to the caller of Damage.
func (s *Store) intact(mint, maxt int64) error {
	if r, damaged := s.damage.OutOfService(mint, maxt); damaged {
		return fmt.Errorf("%w: %s", ErrDamaged, r)
	}
	return nil
}

// noteExtent remembers how long the logs are, now that they are synced and nobody writes.
func (s *Store) noteExtent() error {
	if s.opts.WALSync == SyncOff || s.fence.check() != nil {
		return nil
	}
	return s.damage.NoteExtent()
}

func (o *Options) inspectOptions() damage.InspectOptions {
	return damage.InspectOptions{
		OutOfOrderWindow: o.OutOfOrderWindow,
		BlockDuration:    o.MinBlockDuration,
		MaxFuture:        o.MaxFuture,
		Synced:           o.WALSync == SyncCommit,
		Retention:        o.RetentionTime,
		Compression:      o.tsdbOptions().WALCompression,
	}
}

// scrub is the task that reads the blocks in the background.
type scrub struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func startScrub(l *damage.Ledger) *scrub {
	ctx, cancel := context.WithCancel(context.Background())
	s := &scrub{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		l.Scrub(ctx)
	}()
	return s
}

func (s *scrub) stop() {
	s.cancel()
	<-s.done
}
