package storage

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/series"
)

// wait is something that an append of batch waits for after block, until the function that
// this returns is called.
type wait struct {
	what  string
	batch *series.Batch
	block func(*Store, *disk) (release func())
}

func waits() []wait {
	known := batch(floats(name("a"), float64(at(time.Second)), 1))
	fresh := batch(floats(name("b"), float64(at(time.Second)), 1))
	fill := func(sl *slots) func() {
		n := 0
		for ; sl.try(); n++ {
		}
		return func() {
			for range n {
				sl.give()
			}
		}
	}
	return []wait{
		{"commit", known, func(s *Store, _ *disk) func() { return fill(s.commits) }},
		{"creation", fresh, func(s *Store, _ *disk) func() { return fill(s.creations) }},
		{"same series", fresh, func(s *Store, _ *disk) func() {
			other, hash := &claim{done: make(chan struct{})}, name("b").Hash()
			s.creator.take(hash, other)
			return func() { s.creator.release([]uint64{hash}, other) }
		}},
		{"sync", known, func(_ *Store, d *disk) func() {
			gate := make(chan struct{})
			d.before = func() error { <-gate; return nil }
			return func() { close(gate) }
		}},
	}
}

// A disk that stalls must not hold those who have given up.
func TestWaitsEndWithTheContext(t *testing.T) {
	for _, tc := range waits() {
		t.Run(tc.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				o := testOptions(t.TempDir())
				reg := prometheus.NewRegistry()
				o.Registerer = reg
				s := mustOpen(t, o, hooks{fsync: d.fsync})
				mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
				release := tc.block(s, d)
				cause := errors.New("the client has gone")
				for range 3 {
					ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, cause)
					before := time.Now()
					if _, err := s.Append(ctx, tc.batch); !errors.Is(err, cause) || errors.Is(err, ErrFenced) {
						t.Errorf("got %v", err)
					}
					if waited := time.Since(before); waited != time.Second {
						t.Errorf("waited for %s", waited)
					}
					cancel()
				}
				if n := openAppenders(t, reg); n != 0 {
					t.Errorf("%v appenders are left open: they hold compaction up", n)
				}
				stored := len(read(t, s))
				if want := map[bool]int{false: 1, true: 2}[tc.what == "sync"]; stored != want {
					t.Errorf("%d samples in memory, want %d", stored, want)
				}
				release()
				if got := mustAppend(t, s, tc.batch); len(got) != 0 {
					t.Errorf("afterwards: %+v", got)
				}
				if got := read(t, s); len(got) != 2 {
					t.Errorf("stored: %v", got)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func openAppenders(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	mfs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, mf := range mfs {
		if mf.GetName() == "prometheus_tsdb_head_active_appenders" {
			return mf.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("no metric of open appenders")
	return 0
}

// Every place is used, by one at a time, and no waiter is forgotten.
func TestSlots(t *testing.T) {
	for _, places := range []int64{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			sl, f := newSlots(int(places)), newFence("", nil, nil)
			var inside atomic.Int64
			before := time.Now()
			var wg sync.WaitGroup
			for range 30 {
				wg.Go(func() {
					for range 10 {
						if err := sl.take(context.Background(), f); err != nil {
							t.Error(err)
						}
						if n := inside.Add(1); n > places {
							t.Errorf("%d hold one of %d places", n, places)
						}
						time.Sleep(time.Second)
						inside.Add(-1)
						sl.give()
					}
				})
			}
			wg.Wait()
			// Who has rounds left at the end may be alone with all the places.
			if got, want := time.Since(before), 300*time.Second/time.Duration(places); got < want || got > want+10*time.Second {
				t.Errorf("took %s, want %s: a place was left unused", got, want)
			}
		})
	}
}
