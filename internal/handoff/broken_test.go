package handoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/series"
)

// brokenStore stores nothing as long as it has an error.
type brokenStore struct {
	Store
	err error
}

func (s *brokenStore) Import(ctx context.Context, b *series.Batch) error {
	if s.err != nil {
		return s.err
	}
	return s.Store.Import(ctx, b)
}

func (s *brokenStore) Sync(ctx context.Context) error {
	if s.err != nil {
		return s.err
	}
	return s.Store.Sync(ctx)
}

// What could not be stored is still missed: the gap stays as it is.
func TestGapStaysOpenUntilItsWindowIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		<-time.After(time.Hour)
		start := time.Now().Add(-30 * time.Minute)
		r.put(r.theirs, "a", start, 20)
		r.note(start)
		before := r.book.Open()
		broken := &brokenStore{Store: r.own, err: errors.New("input/output error")}
		r.taker.opts.Store = broken
		if _, err := r.taker.take(t.Context(), r.table, "giver", r); !errors.Is(err, broken.err) {
			t.Errorf("take: %v", err)
		}
		if open := r.book.Open(); len(open) != 1 || open[0] != before[0] {
			t.Errorf("the gap was %v, and is %v", before, open)
		}
		broken.err = nil
		r.visit()
		r.wantEqual()
	})
}

// What is here already, and perhaps not synced, does not close a gap before it is.
func TestGapStaysOpenUntilItsWindowIsSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		start := time.Now().Add(-30 * time.Minute)
		r.put(r.theirs, "a", start, 20)
		r.put(r.own, "a", start, 20)
		r.note(start)
		broken := &brokenStore{Store: r.own, err: errors.New("input/output error")}
		r.taker.opts.Store = broken
		if _, err := r.taker.take(t.Context(), r.table, "giver", r); !errors.Is(err, broken.err) {
			t.Errorf("take: %v", err)
		}
		if open := r.book.Open(); len(open) != 1 {
			t.Errorf("open gaps: %v, want one", open)
		}
	})
}
