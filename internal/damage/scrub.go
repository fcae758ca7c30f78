package damage

import (
	"context"
	"errors"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
)

const (
	// scrubRate bounds what a scrub reads, in bytes a second.
	scrubRate = 32 << 20
	// scrubLook is how often new blocks, and noted ones, are looked for.
	scrubLook = 10 * time.Minute
	// scrubAgain is how often every block is read.
	scrubAgain = 24 * time.Hour
)

// Scrub reads the blocks of the open TSDB as a whole, each soon after it appeared and then
// every day, at most 32 MiB a second, until ctx ends. A damaged block is noted; it stays
// where it is until the next start, since the TSDB has it open. A noted one that turns out
// to be whole is taken out of the notes.
func (l *Ledger) Scrub(ctx context.Context) {
	last := make(map[ulid.ULID]time.Time)
	tick := time.NewTicker(scrubLook)
	defer tick.Stop()
	for {
		if err := l.scrub(ctx, last, scrubRate); err != nil && ctx.Err() == nil {
			l.opts.Logger.Error("Blocks could not be scrubbed; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// scrub reads the blocks that are due. last says when each was read.
func (l *Ledger) scrub(ctx context.Context, last map[ulid.ULID]time.Time, rate int) error {
	l.scrubbing.Lock() // over I/O: all that it guards is whose turn it is
	defer l.scrubbing.Unlock()
	ids, err := l.blockDirs()
	if err != nil {
		return err
	}
	known := l.loadVerified()
	maps.DeleteFunc(known, func(id ulid.ULID, _ *verified) bool { return !slices.Contains(ids, id) })
	for _, id := range ids {
		noted := l.noted(id)
		if at, ok := last[id]; ok && !noted && l.opts.Now().Sub(at) < scrubAgain {
			continue
		}
		now, cause := l.scrubBlock(ctx, id, known[id], rate)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if there, err := exists(filepath.Join(l.opts.DataDir, id.String())); err != nil || !there {
			continue // compacted, or expired
		}
		last[id] = l.opts.Now()
		if cause != nil {
			err = errors.Join(err, l.noteBlock(id, cause, known[id]))
			continue
		}
		if noted {
			l.opts.Logger.Info("A block that could not be read before is whole, and in service again", "block", id)
			err = errors.Join(err, l.Drop(func(r Range) bool { return r.Kind == Block && r.Name == id.String() }))
		}
		if known[id] == nil {
			known[id] = now
			err = errors.Join(err, l.saveVerified(known))
		}
	}
	return err
}

// noteBlock notes damage that a scrub found, once.
func (l *Ledger) noteBlock(id ulid.ULID, cause error, known *verified) error {
	r := l.blockRange(id, cause, known)
	if slices.ContainsFunc(l.Ranges(), func(n Range) bool {
		return n.Kind == r.Kind && n.Name == r.Name && n.MinTime <= r.MinTime && r.MaxTime <= n.MaxTime
	}) {
		return nil
	}
	return l.Add(r)
}

// scrubBlock reads a block as a whole.
func (l *Ledger) scrubBlock(ctx context.Context, id ulid.ULID, known *verified, rate int) (*verified, error) {
	dir := filepath.Join(l.opts.DataDir, id.String())
	meta, err := readMeta(dir, id)
	if err != nil {
		return nil, err
	}
	if known != nil {
		if err := known.compare(dir, meta); err != nil {
			return nil, err
		}
	}
	if err := openable(dir); err != nil {
		return nil, err
	}
	p := pacer{rate: rate}
	if _, err := verify(dir, meta, func(n int) error { return p.read(ctx, n) }, true); err != nil {
		return nil, err
	}
	return describe(dir, meta)
}

// pacer keeps reading to a rate.
type pacer struct {
	rate int // bytes a second
	debt int // bytes read and not waited for
}

// read waits for the time that n bytes more may take.
func (p *pacer) read(ctx context.Context, n int) error {
	const step = 1 << 20
	if p.debt += n; p.debt < step {
		return ctx.Err()
	}
	wait := time.NewTimer(time.Duration(p.debt) * time.Second / time.Duration(p.rate))
	defer wait.Stop()
	p.debt = 0
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		return nil
	}
}

// ScrubOnce reads all blocks once, as fast as the disk gives them.
func (l *Ledger) ScrubOnce(ctx context.Context) error {
	return l.scrub(ctx, make(map[ulid.ULID]time.Time), math.MaxInt)
}
