package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// TestLateSamplesAreLookedAtAlone: no commit is under way while the TSDB looks which late samples it is to
// compact, whatever comes before. It fails where another version of the TSDB logs other messages.
func TestLateSamplesAreLookedAtAlone(t *testing.T) {
	for _, tc := range []struct {
		what        string
		hours       int
		gap         int // hours without samples, after the first
		segmentSize int
	}{
		{"a block of the head", 2, 0, 0},
		{"several blocks of the head", 5, 0, 0},
		{"a gap in the samples", 2, 7, 0},
		{"a checkpoint of the log", 2, 0, 32 << 10},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var log strings.Builder
			o := importOptions(t.TempDir())
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			s := mustOpen(t, o, hooks{segmentSize: tc.segmentSize})
			s.db.DisableCompactions()
			for m := range tc.hours * 60 {
				if m >= 60 {
					m += tc.gap * 60
				}
				mustAppend(t, s, batch(manySeries(200, m)...))
			}
			mustAppend(t, s, batch(floats(name("s1"), float64(at(time.Minute)), 1)))
			if err := s.db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := s.compactor.late.alone.Load(); n != 1 {
				t.Errorf("late samples were looked at alone %d times, want 1", n)
			}
			if checkpoint := strings.Contains(log.String(), "WAL checkpoint complete"); checkpoint != (tc.segmentSize > 0) {
				t.Errorf("a checkpoint was made: %t", checkpoint)
			}
			if strings.Contains(log.String(), "beside writes") {
				t.Errorf("the log has\n%s", &log)
			}
			// Nothing is left shut.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := s.Append(ctx, batch(floats(name("s1"), float64(at(2*time.Minute)), 1))); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLateGate(t *testing.T) {
	record := func(message string, attrs ...slog.Attr) slog.Record {
		r := slog.NewRecord(time.Now(), slog.LevelInfo, message, 0)
		r.AddAttrs(attrs...)
		return r
	}
	truncated := record("Head GC completed", slog.String("caller", "truncateMemory"))
	var due atomic.Bool
	steps := map[string]func(g *lateGate){
		"block":             (*lateGate).begin,
		"truncated":         func(g *lateGate) { g.heard(truncated) },
		"late truncated":    func(g *lateGate) { g.heard(record("Head GC completed", slog.String("caller", "truncateOOO"))) },
		"more due":          func(*lateGate) { due.Store(true) },
		"no more due":       func(*lateGate) { due.Store(false) },
		"checkpoint begins": func(g *lateGate) { g.heard(record("Creating checkpoint")) },
		"checkpoint ends":   func(g *lateGate) { g.heard(record("WAL checkpoint complete")) },
		"looked":            func(g *lateGate) { g.heard(record("out-of-order compaction started")) },
		"failed":            func(g *lateGate) { g.heard(record("compaction failed")) },
		"plan":              (*lateGate).end,
		"a second":          func(*lateGate) { time.Sleep(shortly); synctest.Wait() },
		"a minute":          func(*lateGate) { time.Sleep(shortly + longestLook); synctest.Wait() },
	}
	for _, tc := range []struct {
		steps string
		shut  bool
	}{
		{"truncated", false}, // of whoever does so without a block
		{"block", false},
		{"block, truncated", true},
		{"block, truncated, truncated", true},
		{"block, late truncated", false},
		{"block, truncated, checkpoint begins", false},
		{"block, truncated, checkpoint begins, checkpoint ends", true},
		{"block, truncated, looked", false},
		{"block, truncated, looked, checkpoint ends", false},
		{"more due, block, truncated", true},
		{"more due, block, truncated, no more due, a second", true}, // the head begins later than it could be told
		{"more due, block, truncated, a second", false},
		{"more due, block, truncated, a second, block, no more due, truncated", true},
		{"block, truncated, a second", true},
		{"block, truncated, looked, a minute, block, truncated", true},
		{"block, truncated, block", false},
		{"block, truncated, failed", false},
		{"block, truncated, plan", false},
		{"block, truncated, a minute", false},
		{"block, truncated, looked, block, truncated, looked", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			logger := slog.New(slog.DiscardHandler)
			due.Store(false)
			g := &lateGate{commits: newSlots(1), fence: newFence("", logger, nil), logger: logger, due: due.Load}
			for step := range strings.SplitSeq(tc.steps, ", ") {
				steps[step](g)
			}
			if shut := !g.commits.try(); shut != tc.shut {
				t.Errorf("%s: shut %t, want %t", tc.steps, shut, tc.shut)
			} else if !shut {
				g.commits.give()
			}
			g.end()
			if !g.commits.try() {
				t.Errorf("%s: shut for good", tc.steps)
			}
		})
	}
}

// TestLateGateWaits for the commit that is under way.
func TestLateGateWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger := slog.New(slog.DiscardHandler)
		g := &lateGate{commits: newSlots(1), fence: newFence("", logger, nil), logger: logger, due: func() bool { return false }}
		if err := g.commits.take(t.Context(), g.fence); err != nil {
			t.Fatal(err)
		}
		g.begin()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			g.close()
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("did not wait for a commit")
		default:
		}
		g.commits.give()
		<-closed
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.commits.take(ctx, g.fence); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a commit was let in: %v", err)
		}
		g.end()
	})
}

// TestLateSamplesBesideCompaction writes late samples while a compaction runs, and reads all meanwhile and
// afterwards. Where commits are not kept out it fails once in some 30 rounds.
func TestLateSamplesBesideCompaction(t *testing.T) {
	const rounds = 2 // of three seconds
	for seed := range uint64(rounds) {
		testLateSamples(t, rand.New(rand.NewPCG(seed, uint64(time.Now().UnixNano()))))
	}
}

func testLateSamples(t *testing.T, rnd *rand.Rand) {
	const n, step = 40, 10_000
	o := testOptions(t.TempDir())
	o.MinBlockDuration, o.OutOfOrderWindow, o.WALSync = 16*time.Minute, 3*time.Hour, SyncOff
	o.Now = func() time.Time { return time.UnixMilli(at(2 * time.Hour)) }
	s := mustOpen(t, o, hooks{})
	s.db.DisableCompactions()
	defer s.Close()
	var times []int64
	var onTime, late series.Batch
	for ts := at(0); ts < at(110*time.Minute); ts += step {
		times = append(times, ts)
	}
	for i := range n {
		from := rnd.IntN(len(times))
		to := min(len(times)-1, from+rnd.IntN(150))
		samples := func(times []int64) series.Series {
			sr := series.Series{Labels: name(fmt.Sprint("s", i))}
			for _, ts := range times {
				sr.Samples = append(sr.Samples, series.Sample{T: ts, V: float64(ts)})
			}
			return sr
		}
		onTime.Series = append(onTime.Series, samples(slices.Concat(times[:from], times[to:])))
		late.Series = append(late.Series, samples(times[from:to]))
	}
	mustAppend(t, s, &onTime)
	ended := make(chan error, 1)
	go func() { ended <- s.db.Compact(t.Context()) }()
	time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond) // so that it has come somewhere
	mustAppend(t, s, &late)
	for done := false; !done && !t.Failed(); {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			done = true
		default:
		}
		for _, keep := range []func(uint64) bool{nil, func(uint64) bool { return true }} {
			for _, missing := range lacking(t, s, keep, times, n) {
				t.Errorf("with a filter %t: %s", keep != nil, missing)
			}
		}
	}
}

// lacking tells what is missing of n series with samples at some times.
func lacking(t *testing.T, s *Store, keep func(key uint64) bool, times []int64, n int) (missing []string) {
	t.Helper()
	hints := &promstorage.SelectHints{Start: times[0], End: times[len(times)-1], DisableTrimming: true}
	q, err := s.ChunkQuerierOf(hints.Start, hints.End, Want{Keep: infallible(keep)})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(t.Context(), keep == nil, hints, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for ; set.Next(); n-- {
		var have []int64
		samples, _ := decoded(t, set.At())
		for _, p := range samples {
			have = append(have, p.T)
		}
		if !slices.Equal(have, times) {
			missing = append(missing, fmt.Sprintf("%s has %d samples, want %d", set.At().Labels(), len(have), len(times)))
		}
	}
	if err := set.Err(); err != nil || n != 0 {
		missing = append(missing, fmt.Sprintf("%d series, and %v", n, err))
	}
	return missing
}
