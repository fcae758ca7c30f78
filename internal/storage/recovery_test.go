package storage

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/series"
)

// gauge returns what a metric of a registry stands at; names have their label values
// behind them.
func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	mfs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, mf := range mfs {
		for _, m := range mf.GetMetric() {
			key := mf.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			if key == name {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// one is a batch with one sample.
func one(n string, d time.Duration) *series.Batch { return batch(floats(name(n), float64(at(d)), 1)) }

// TestReopensAfterAFailedSync breaks the disk for a while. What was acknowledged before and
// after must be on it, of what was not acknowledged at most what is read.
func TestReopensAfterAFailedSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		d := newDisk()
		o := testOptions(t.TempDir())
		var log bytes.Buffer
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		reg := prometheus.NewRegistry()
		o.Registerer = reg
		s := mustOpen(t, o, hooks{fsync: d.fsync})
		mustAppend(t, s, one("before", 0))
		mustAppend(t, s, one("before", -time.Minute)) // out of order

		var broken atomic.Bool
		broken.Store(true)
		eio := errors.New("input/output error")
		d.before = func() error {
			if broken.Load() {
				return eio
			}
			return nil
		}
		if _, err := s.Append(ctx, one("unsure", time.Second)); !errors.Is(err, eio) || !errors.Is(err, ErrFenced) {
			t.Fatalf("append: %v", err)
		}
		if v := gauge(t, reg, "starling_storage_fenced failure"); v != 1 {
			t.Errorf("fenced: %v", v)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if err := s.Ready(); !errors.Is(err, eio) || !strings.Contains(err.Error(), "disk is not usable") {
			t.Errorf("ready with a broken disk: %v", err)
		}
		if got := read(t, s); len(got) < 2 {
			t.Errorf("a fenced store reads %v", got)
		}
		if n := strings.Count(log.String(), "cannot be opened again yet"); n < 3 || n > 5 {
			t.Errorf("%d attempts were logged in 20 s, want them after 1, 3, 7 and 15 s:\n%s", n, &log)
		}

		broken.Store(false)
		time.Sleep(lastPause + time.Second)
		synctest.Wait()
		if err := s.Ready(); err != nil {
			t.Fatalf("ready with a healthy disk: %v", err)
		}
		if f, n := gauge(t, reg, "starling_storage_fenced failure"), gauge(t, reg, "starling_storage_reopenings_total"); f != 0 || n != 1 {
			t.Errorf("fenced %v, reopened %v times", f, n)
		}
		// The sender repeats what was not confirmed: it is a duplicate now.
		mustAppend(t, s, one("unsure", time.Second))
		mustAppend(t, s, one("after", 2*time.Second))
		if got := read(t, s); len(got) != 4 {
			t.Errorf("stored: %v", got)
		}
		after := mustOpen(t, testOptions(d.image(t, o.Dir)), hooks{})
		if got := read(t, after); len(got) != 4 {
			t.Errorf("a power loss leaves %v of four acknowledged samples", got)
		}
		if err := errors.Join(s.Close(), after.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestRestartAfterAFailedSync ends the process instead of waiting: the next one finds the
// samples in the page cache, and must not confirm them from there.
func TestRestartAfterAFailedSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		o := testOptions(t.TempDir())
		s := mustOpen(t, o, hooks{fsync: d.fsync})
		mustAppend(t, s, one("before", 0))
		d.before = func() error { return errors.New("input/output error") }
		for _, b := range []*series.Batch{one("unsure", time.Second), one("unsure", -time.Minute)} {
			if _, err := s.Append(context.Background(), b); !errors.Is(err, ErrFenced) {
				t.Fatalf("append: %v", err)
			}
		}
		d.before = nil
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, o, hooks{fsync: d.fsync})
		mustAppend(t, s, one("unsure", time.Second))
		after := mustOpen(t, testOptions(d.image(t, o.Dir)), hooks{})
		if got := read(t, after); len(got) != 2 {
			t.Errorf("a power loss leaves %v of two acknowledged samples", got)
		}
		if left, err := filepath.Glob(filepath.Join(o.Dir, "w*", "*[a-z]")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if err := errors.Join(s.Close(), after.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestReopensAfterAFailedLogWrite puts something into the way of the next segment.
func TestReopensAfterAFailedLogWrite(t *testing.T) {
	for _, tc := range []struct {
		dir    string
		offset time.Duration
	}{{"wal", 0}, {"wbl", -time.Hour}} {
		t.Run(tc.dir, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				o := testOptions(t.TempDir())
				s := mustOpen(t, o, hooks{fsync: d.fsync, segmentSize: 32 << 10})
				mustAppend(t, s, one("a", time.Minute))
				obstacle := filepath.Join(o.Dir, tc.dir, "00000001")
				if err := os.Symlink(filepath.Join(t.TempDir(), "no", "such"), obstacle); err != nil {
					t.Fatal(err)
				}
				acked := 1
				var err error
				for i := 0; i < 2000 && err == nil; i++ {
					b := &series.Batch{}
					for j := range 50 {
						b.Series = append(b.Series, floats(name("a"), float64(at(tc.offset))+float64(50*i+j), float64(i*j)*1.1))
					}
					if _, err = s.Append(context.Background(), b); err == nil {
						acked += 50
					}
				}
				if !errors.Is(err, ErrFenced) || acked < 1000 {
					t.Fatalf("after %d samples: %v", acked, err)
				}
				if err := os.Remove(obstacle); err != nil {
					t.Fatal(err)
				}
				time.Sleep(firstPause + time.Millisecond)
				synctest.Wait()
				if err := s.Ready(); err != nil {
					t.Fatal(err)
				}
				mustAppend(t, s, one("a", 2*time.Minute))
				acked++
				after := mustOpen(t, testOptions(d.image(t, o.Dir)), hooks{})
				for _, st := range []*Store{s, after} {
					if got := len(read(t, st)); got < acked || got > acked+50 {
						t.Errorf("%d samples are stored, %d acknowledged", got, acked)
					}
					if err := st.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestReopeningWaitsForQueriers: the memory of a head must not go away beneath a reader.
func TestReopeningWaitsForQueriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
		mustAppend(t, s, one("a", 0))
		q, err := s.ChunkQuerier(math.MinInt64, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		exemplars, err := s.ExemplarQuerier(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.fence.raise(errors.New("input/output error"))
		time.Sleep(firstPause + time.Second)
		if _, err := s.Querier(0, 1); !errors.Is(err, ErrFenced) {
			t.Errorf("a new querier: %v", err)
		}
		if _, err := s.BlockMetas(); !errors.Is(err, ErrFenced) {
			t.Errorf("BlockMetas: %v", err)
		}
		if _, err := s.Stats("__name__", 1); !errors.Is(err, ErrFenced) {
			t.Errorf("Stats: %v", err)
		}
		if set := q.Select(context.Background(), false, nil, everything()); !set.Next() {
			t.Errorf("the open querier finds nothing: %v", set.Err())
		}
		time.Sleep(closeTimeout)
		if got := read(t, s); len(got) != 1 { // given up for now
			t.Errorf("stored: %v", got)
		}
		if err := s.Ready(); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "queriers") {
			t.Errorf("ready: %v", err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(lastPause)
		synctest.Wait()
		if err := s.Ready(); err != nil {
			t.Errorf("ready: %v", err)
		}
		if got := read(t, s); len(got) != 1 {
			t.Errorf("stored: %v", got)
		}
		if _, err := exemplars.Select(0, 1); err != nil {
			t.Errorf("a querier of exemplars from before: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseWhileFenced ends a store at every point of a recovery.
func TestCloseWhileFenced(t *testing.T) {
	for _, tc := range []struct {
		what  string
		after time.Duration
		prep  func(*testing.T, *Store)
	}{
		{"before the first attempt", 0, nil},
		{"between attempts", firstPause + time.Second, func(_ *testing.T, s *Store) {
			s.hooks.usage = func(string) (usage, error) { return usage{free: 0, total: 1 << 40}, nil }
		}},
		{"waiting for queriers", firstPause + time.Second, func(t *testing.T, s *Store) {
			q, err := s.Querier(0, 1)
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(firstPause+2*time.Second, func() { q.Close() })
		}},
		{"with the TSDB closed", firstPause + time.Second, func(t *testing.T, s *Store) {
			if err := os.Mkdir(filepath.Join(s.opts.Dir, "wal", "00000000"+keptSuffix), 0o777); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
				mustAppend(t, s, one("a", 0))
				if tc.prep != nil {
					tc.prep(t, s)
				}
				_ = s.fence.raise(errors.New("input/output error"))
				time.Sleep(tc.after)
				before := time.Now()
				if err := s.Close(); err != nil && tc.what != "with the TSDB closed" {
					t.Error(err)
				}
				if waited := time.Since(before); waited > 2*time.Second {
					t.Errorf("Close took %s", waited)
				}
				if err := s.Ready(); !errors.Is(err, ErrClosed) {
					t.Errorf("ready: %v", err)
				}
			})
		})
	}
}

// TestInterruptedRepair leaves what a repair of a torn segment leaves that the disk had no
// room for: the TSDB alone would start without the segment.
func TestInterruptedRepair(t *testing.T) {
	for _, dir := range []string{"wal", "wbl"} {
		t.Run(dir, func(t *testing.T) {
			o := testOptions(t.TempDir())
			s := mustOpen(t, o, hooks{})
			mustAppend(t, s, one("a", 0))
			mustAppend(t, s, one("a", -time.Minute))
			mustAppend(t, s, one("a", -time.Hour))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			segment := filepath.Join(o.Dir, dir, "00000000")
			if err := keepLog(filepath.Join(o.Dir, dir)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Rename(segment, segment+repairSuffix), os.WriteFile(segment, nil, 0o666)); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, o, hooks{})
			if got := read(t, s); len(got) != 3 {
				t.Errorf("stored: %v", got)
			}
			if left, err := filepath.Glob(filepath.Join(o.Dir, dir, "*[a-z]")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestFencedHeadLeavesNoSnapshot: it would skip the torn end of the log, and a start without
// it would cut off there what was acknowledged later.
func TestFencedHeadLeavesNoSnapshot(t *testing.T) {
	for _, recovers := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := testOptions(t.TempDir())
			o.Features = []string{"memory-snapshot-on-shutdown"}
			snapshots := func() int {
				found, err := filepath.Glob(filepath.Join(o.Dir, "chunk_snapshot.*"))
				if err != nil {
					t.Fatal(err)
				}
				return len(found)
			}
			s := mustOpen(t, o, hooks{})
			mustAppend(t, s, one("a", 0))
			if err := s.Close(); err != nil || snapshots() != 1 {
				t.Fatalf("%d snapshots of a healthy head, %v", snapshots(), err)
			}
			s = mustOpen(t, o, hooks{})
			mustAppend(t, s, one("a", time.Second))
			_ = s.fence.raise(errors.New("input/output error"))
			if recovers {
				time.Sleep(firstPause + time.Millisecond)
				synctest.Wait()
				if err := s.Ready(); err != nil {
					t.Error(err)
				}
			} else if err := s.Close(); err != nil {
				t.Error(err)
			}
			if n := snapshots(); n != 0 {
				t.Errorf("%d snapshots of a fenced head", n)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			s = mustOpen(t, o, hooks{})
			if got := read(t, s); len(got) != 2 {
				t.Errorf("stored: %v", got)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
