package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// creator orders the creation of series.
//
// In the TSDB, the appender that first names a series creates it in memory and logs its
// record when it commits. Until then another appender finds the series, commits samples of
// it, and they stand in the log before the series that they refer to: a replay drops them.
// Here a new series is therefore created and logged by a transaction of its own, and who
// finds one that is being created waits for that.
type creator struct {
	active atomic.Int64 // claimed hashes; spares everybody else the mutex

	mu     sync.Mutex
	claims map[uint64]*claim // by hash of the labels; a collision only costs a wait

	// room is held from the look whether there is room for a series until the series is
	// there. It is never held over I/O.
	room       sync.Mutex
	complained time.Time
}

// complainEvery bounds how often the log says that there is no room for a new series.
const complainEvery = time.Minute

// claim is the right to create some series; done is closed when they are logged, or when
// that failed.
type claim struct{ done chan struct{} }

// take claims a hash for c and returns who holds it; fresh is set if that is new.
func (cr *creator) take(hash uint64, c *claim) (holder *claim, fresh bool) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	if holder := cr.claims[hash]; holder != nil {
		return holder, false
	}
	if cr.claims == nil {
		cr.claims = make(map[uint64]*claim)
	}
	cr.claims[hash] = c
	cr.active.Add(1)
	return c, true
}

// holder returns who is creating the series with this hash, or nil.
func (cr *creator) holder(hash uint64) *claim {
	if cr.active.Load() == 0 {
		return nil
	}
	cr.mu.Lock()
	defer cr.mu.Unlock()
	return cr.claims[hash]
}

func (cr *creator) release(hashes []uint64, c *claim) {
	cr.mu.Lock()
	for _, h := range hashes {
		delete(cr.claims, h)
	}
	cr.active.Add(-int64(len(hashes)))
	cr.mu.Unlock()
	close(c.done)
}

// lookup is the state of finding the series of one batch.
type lookup struct {
	tried  []bool       // by index, of series that this lookup has created, or could not; nil for none
	full   map[int]bool // those of them that are too many
	own    *claim
	hashes []uint64 // claimed by own
	create []int    // what own is for
	wait   []*claim
}

// appender returns an appender, and has w refer to the batch's series, all of which are in
// the log. A reference is 0 where no sample may be stored or the labels are invalid.
func (s *Store) appender(ctx context.Context, w *write) (promstorage.AppenderV2, error) {
	l := &lookup{}
	for {
		app := s.db.AppenderV2(ctx)
		l.own = &claim{done: make(chan struct{})}
		l.hashes, l.create, l.wait = nil, nil, nil
		s.find(app.(promstorage.GetRef), w, l)
		if len(l.create) == 0 && len(l.wait) == 0 {
			w.full = l.full
			return app, nil
		}
		if err := s.rollback(app); err != nil {
			s.creator.release(l.hashes, l.own)
			return nil, err
		}
		if err := s.createClaimed(ctx, w, l); err != nil {
			return nil, err
		}
		if err := s.await(ctx, l.wait); err != nil {
			return nil, err
		}
	}
}

// What a handle remembers is the TSDB's reference, in the low bits, and the number of the
// opening that it is good for: a replay may give it to another series. The reference is 0 where
// the head did not have the series.
const refBits = 40

// remember has a handle, if there is one, tell the reference of a series that is in the log.
func (s *Store) remember(h *series.Handle, ref promstorage.SeriesRef) {
	if h != nil && ref != 0 && ref>>refBits == 0 {
		h.SetStored(s.opening<<refBits | uint64(ref))
	}
}

// recall returns the reference that a handle remembers of a series that was in the log, or
// that the head did not have the series. Neither is remembered where the head has dropped a
// series since the batch was first tried: it may be this one.
func (s *Store) recall(w *write, h *series.Handle) (ref promstorage.SeriesRef, absent bool) {
	if h == nil || w.moved {
		return 0, false
	}
	known := h.Stored()
	if known>>refBits != s.opening {
		return 0, false
	}
	ref = promstorage.SeriesRef(known & (1<<refBits - 1))
	return ref, ref == 0
}

// Interner gives handles the labels that the head keeps of series, so that who remembers them
// need not keep others, and has the handles remember what it finds.
type Interner struct {
	store *Store
	// app is what the look-up takes; nothing is appended to it. It is nil in a closed store.
	app promstorage.AppenderV2
}

// Interner must be closed soon: the store waits for that when it is.
func (s *Store) Interner() *Interner {
	n := &Interner{store: s}
	if s.appends.enter() == nil {
		n.app = s.db.AppenderV2(context.Background())
	}
	return n
}

// Intern implements series.Interner.
func (n *Interner) Intern(h *series.Handle) {
	if n.app == nil {
		return
	}
	hash := h.Labels.Hash()
	ref, known := n.app.(promstorage.GetRef).GetRef(h.Labels, hash)
	if ref == 0 {
		h.SetStored(n.store.opening << refBits)
		return
	}
	h.Labels = known
	if n.store.creator.holder(hash) == nil {
		n.store.remember(h, ref)
	}
}

// Close ends it.
func (n *Interner) Close() {
	if n.app == nil {
		return
	}
	_ = n.store.rollback(n.app) // a failure fences the store, which says so
	n.app = nil
	n.store.appends.leave()
}

// await returns when all claims have been released.
func (s *Store) await(ctx context.Context, claims []*claim) error {
	for _, c := range claims {
		select {
		case <-c.done:
		case <-s.fence.dead:
		case <-ctx.Done():
			return fmt.Errorf("wait for a series to be created: %w", context.Cause(ctx))
		}
	}
	return s.fence.death()
}

// find looks all series up and claims those that have to be created.
func (s *Store) find(head promstorage.GetRef, w *write, l *lookup) {
	for i := range w.batch.Series {
		sr := &w.batch.Series[i]
		var absent bool
		if w.refs[i], absent = s.recall(w, sr.Handle); w.refs[i] != 0 {
			continue
		}
		hash, storable := sr.Labels.Hash(), w.firstStorable(sr) != nil
		// A series that is not to be created, as for exemplars alone, may be there by now.
		if !absent || !storable {
			w.refs[i], _ = head.GetRef(sr.Labels, hash)
		}
		if w.refs[i] != 0 {
			// Asked after the look-up: who has found a series whose creator is
			// gone by now knows that it is in the log.
			if c := s.creator.holder(hash); c != nil && c != l.own {
				l.wait = append(l.wait, c)
			} else {
				s.remember(sr.Handle, w.refs[i])
			}
			continue
		}
		if !storable || l.tried != nil && l.tried[i] {
			continue
		}
		c, fresh := s.creator.take(hash, l.own)
		if c != l.own {
			l.wait = append(l.wait, c)
			continue
		}
		if fresh {
			l.hashes = append(l.hashes, hash)
		}
		l.create = append(l.create, i)
	}
}

// createClaimed makes the claimed series and logs them. The sample that the TSDB wants for
// that is rolled back; the records of series are logged all the same, which is what
// Rollback promises.
func (s *Store) createClaimed(ctx context.Context, w *write, l *lookup) error {
	if len(l.create) == 0 {
		return nil
	}
	defer s.creator.release(l.hashes, l.own)
	// Taken before a series exists that has to be logged, whatever ctx says.
	if err := s.creations.take(ctx, s.fence); err != nil {
		return err
	}
	defer s.creations.give()
	app := s.db.AppenderV2(ctx)
	if l.tried == nil {
		l.tried = make([]bool, len(w.batch.Series))
	}
	err := s.fence.guard("create series in the TSDB", func() error {
		for _, i := range l.create {
			sr := &w.batch.Series[i]
			l.tried[i] = true
			ref, room := s.create(app, sr, w.firstStorable(sr).T, w.imported)
			if !room {
				if l.full == nil {
					l.full = make(map[int]bool)
				}
				l.full[i] = true
			}
			w.refs[i] = ref
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.rollback(app); err != nil {
		return err
	}
	for _, i := range l.create {
		s.remember(w.batch.Series[i].Handle, w.refs[i])
	}
	return nil
}

// create makes a series in memory, unless it is new, one too many and not imported. The
// reference is 0 where the labels are invalid.
func (s *Store) create(app promstorage.AppenderV2, sr *series.Series, t int64, imported bool) (ref promstorage.SeriesRef, room bool) {
	ls := sr.Labels
	if limit := uint64(s.opts.MaxSeries); limit > 0 && !imported {
		s.creator.room.Lock()
		defer s.creator.room.Unlock()
		if s.db.Head().NumSeries() >= limit {
			// The batch may name a series twice that it has just made.
			if ref, _ := app.(promstorage.GetRef).GetRef(ls, ls.Hash()); ref == 0 {
				s.creator.complain(s.opts.Logger, limit)
				return 0, false
			}
		}
	}
	// The head keeps the labels for the life of the series: a copy does not keep the
	// memory of a whole request alive. A handle has labels of its own, which they share. An
	// error is met again, and answered, when the sample itself is appended.
	if sr.Handle == nil {
		ls = ls.Copy()
	}
	ref, err := app.Append(0, ls, 0, t, 0, nil, nil, promstorage.AOptions{})
	if err != nil {
		// Another may have made the series since the head did not have it, and with a sample
		// that this one conflicts with.
		ref, _ = app.(promstorage.GetRef).GetRef(ls, ls.Hash())
	}
	return ref, true
}

// complain says, at most once a minute, that there is no room. The lock is held.
func (cr *creator) complain(log *slog.Logger, limit uint64) {
	if now := time.Now(); now.Sub(cr.complained) >= complainEvery {
		cr.complained = now
		log.Warn("The limit of series is reached: new series are refused, those there are go on", "limit", limit)
	}
}

// rollback gives an appender up. It writes to the log, so its failure fences the store.
// In a dead store it does nothing but say so.
func (s *Store) rollback(app promstorage.AppenderTransaction) error {
	if err := s.fence.death(); err != nil {
		return err
	}
	err := s.fence.guard("roll back in the TSDB", app.Rollback)
	if err != nil && !errors.Is(err, ErrFenced) {
		return s.fence.raise(fmt.Errorf("write new series to the write-ahead log: %w", err))
	}
	return err
}

// undo rolls app back because of err, and returns err.
func (s *Store) undo(app promstorage.AppenderTransaction, err error) error {
	if failed := s.rollback(app); failed != nil && !errors.Is(err, failed) {
		return errors.Join(err, failed)
	}
	return err
}

// firstStorable returns the first sample that is neither too far ahead nor too old, or nil:
// such a one would move the head's time window for everybody.
func (w *write) firstStorable(sr *series.Series) *series.Sample {
	for i := range sr.Samples {
		if t := sr.Samples[i].T; w.taken.min <= t && t <= w.taken.max {
			return &sr.Samples[i]
		}
	}
	return nil
}
