package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// lost runs many appends at once, in order and out of order, over several small segments,
// cuts the power in the middle, and returns how many of how many acknowledged samples are
// gone.
func lost(t *testing.T, mode SyncMode) (gone, acked int) {
	t.Helper()
	const writers, batches, perBatch = 8, 40, 40
	d := newDisk()
	o := testOptions(filepath.Join(t.TempDir(), "data"))
	o.WALSync = mode
	s := mustOpen(t, o, hooks{fsync: d.fsync, segmentSize: 32 << 10})

	var mu sync.Mutex
	ack := make(map[point]string)
	var wg sync.WaitGroup
	half := make(chan struct{}, writers)
	for w := range writers {
		wg.Go(func() {
			for i := range batches {
				b := &series.Batch{}
				for j := range perBatch {
					ls := labels.FromStrings("__name__", "m", "w", fmt.Sprint(w), "j", fmt.Sprint(j), "pad", strings.Repeat("p", 50))
					if j%4 == 0 { // all writers create and write these
						ls = labels.FromStrings("__name__", "shared", "j", fmt.Sprint(j), "i", fmt.Sprint(i/10))
					}
					in := time.Duration(i*writers+w) * time.Second
					b.Series = append(b.Series, floats(ls, float64(at(in)), float64(i), float64(at(in-time.Hour)), float64(j)*1.1, float64(at(in-time.Hour+time.Millisecond)), float64(i)*1.7))
				}
				out, err := s.Append(context.Background(), b)
				if err != nil || len(out.Refusals) > 0 {
					t.Errorf("append: %v %+v", err, out.Refusals)
					return
				}
				mu.Lock()
				for _, sr := range b.Series {
					for _, p := range sr.Samples {
						ack[point{sr.Labels.String(), p.T}] = fmt.Sprint(p.V)
					}
				}
				mu.Unlock()
				if i == batches/2 {
					half <- struct{}{}
				}
			}
		})
	}
	check := func() {
		mu.Lock()
		want := make(map[point]string, len(ack))
		for k, v := range ack {
			want[k] = v
		}
		mu.Unlock()
		after := testOptions(d.image(t, o.Dir))
		got := read(t, mustOpen(t, after, hooks{}))
		for p, v := range want {
			acked++
			if got[p] != v {
				gone++
			}
		}
	}
	for range writers {
		<-half
	}
	check() // while the others go on
	wg.Wait()
	check()
	for _, dir := range []string{"wal", "wbl"} {
		segments, err := filepath.Glob(filepath.Join(o.Dir, dir, "0*"))
		if err != nil || len(segments) < 3 {
			t.Errorf("want several segments in %s, got %v, %v", dir, segments, err)
		}
	}
	return gone, acked
}

func TestPowerLoss(t *testing.T) {
	if gone, acked := lost(t, SyncCommit); gone > 0 {
		t.Errorf("%d of %d acknowledged samples are lost", gone, acked)
	}
	// The test must be able to fail.
	if gone, acked := lost(t, SyncOff); gone == 0 {
		t.Errorf("without syncs none of %d samples is lost: the image holds what was not synced", acked)
	}
}

func TestDuplicateIsConfirmedAfterASync(t *testing.T) {
	o := testOptions(t.TempDir())
	b := batch(floats(name("a"), float64(at(0)), 1))

	o.WALSync = SyncOff
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, b) // stays in the page cache
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	d := newDisk()
	o.WALSync = SyncCommit
	s = mustOpen(t, o, hooks{fsync: d.fsync})
	mustAppend(t, s, b)
	if got := read(t, mustOpen(t, testOptions(d.image(t, o.Dir)), hooks{})); len(got) != 1 {
		t.Errorf("a confirmed duplicate is lost: %v", got)
	}
}

func TestSyncInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		o := testOptions(t.TempDir())
		o.WALSync = SyncInterval
		s := mustOpen(t, o, hooks{fsync: d.fsync})
		mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
		stored := func() int {
			s := mustOpen(t, testOptions(d.image(t, o.Dir)), hooks{})
			defer s.Close()
			return len(read(t, s))
		}
		if n := stored(); n != 0 {
			t.Errorf("%d samples are synced at once", n)
		}
		time.Sleep(syncInterval + time.Millisecond)
		synctest.Wait()
		if n := stored(); n != 1 {
			t.Errorf("%d samples are synced after the interval, want 1", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestGroupCommit(t *testing.T) {
	const writers, appends = 8, 50
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
		d.mu.Lock()
		opening := d.syncs
		d.mu.Unlock()
		// With a slow disk, in virtual time, all writers meet in every round.
		d.before = func() error { time.Sleep(10 * time.Millisecond); return nil }
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range appends {
					if _, err := s.Append(context.Background(), batch(floats(name(fmt.Sprint("w", w)), float64(at(time.Duration(i)*time.Second)), 1))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		d.mu.Lock()
		syncs := d.syncs - opening
		d.mu.Unlock()
		// Nobody joins a round under way, so a writer may need every second one.
		if most := 2*appends + 2; syncs < appends || syncs > most {
			t.Errorf("%d syncs for %d appends, want %d to %d", syncs, writers*appends, appends, most)
		}
		d.before = nil
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestRoundBeginsAfterTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
		gate := make(chan struct{})
		d.before = func() error { <-gate; return nil }
		done := make(chan int, 2)
		appendOne := func(n int) {
			mustAppend(t, s, batch(floats(name(fmt.Sprint("s", n)), float64(at(0)), 1)))
			done <- n
		}
		go appendOne(1)
		synctest.Wait() // round 1 is under way
		go appendOne(2)
		synctest.Wait()
		gate <- struct{}{}
		synctest.Wait()
		if n := <-done; n != 1 || len(done) != 0 {
			t.Errorf("append %d ended first, %d more did: the second must wait for a round of its own", n, len(done))
		}
		close(gate)
		<-done
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestRoundIsOneAfterTheCommit: an append whose commit takes long is not confirmed by a round
// that has begun meanwhile.
func TestRoundIsOneAfterTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
		if err := s.commits.take(t.Context(), s.fence); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
		}()
		synctest.Wait() // it is about to commit
		if err := s.sync.wait(t.Context(), s.sync.upcoming()); err != nil {
			t.Fatal(err)
		}
		before := d.syncs
		s.commits.give()
		<-done
		if d.syncs == before {
			t.Error("the append was confirmed without a sync after its commit")
		}
	})
}

func TestFailedSyncFences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
		mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
		broken := errors.New("input/output error")
		gate := make(chan error, 1)
		d.before = func() error { return <-gate }
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				_, err := s.Append(context.Background(), batch(floats(name(fmt.Sprint("w", i)), float64(at(0)), 1)))
				if !errors.Is(err, ErrFenced) || !errors.Is(err, broken) {
					t.Errorf("append %d: %v", i, err)
				}
			})
		}
		synctest.Wait() // some wait for the failing round, some for the next
		gate <- broken
		wg.Wait()
		d.before = nil // the disk is well again, what is in the page cache is not
		if _, err := s.Append(context.Background(), batch(floats(name("a"), float64(at(0)), 1))); !errors.Is(err, ErrFenced) {
			t.Errorf("a later append: %v", err)
		}
		if err := s.Ready(); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "--storage.tsdb.path") {
			t.Errorf("ready: %v", err)
		}
		if len(read(t, s)) == 0 {
			t.Error("a fenced store must answer reads")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestFailedLogWriteFences takes the directory of a log away, so that its next segment
// cannot be made. Of the out-of-order log the TSDB does not return the error.
func TestFailedLogWriteFences(t *testing.T) {
	for _, tc := range []struct {
		dir    string
		mode   SyncMode
		offset time.Duration
	}{
		{"wal", SyncCommit, 0},
		{"wbl", SyncCommit, -time.Hour},
		{"wbl", SyncOff, -time.Hour},
	} {
		t.Run(tc.dir+" "+string(tc.mode), func(t *testing.T) {
			o := testOptions(t.TempDir())
			o.WALSync = tc.mode
			s := mustOpen(t, o, hooks{segmentSize: 32 << 10})
			mustAppend(t, s, batch(floats(name("a"), float64(at(time.Minute)), 1)))
			if err := os.RemoveAll(filepath.Join(o.Dir, tc.dir)); err != nil {
				t.Fatal(err)
			}
			var err error
			acked := 0
			for i := 0; i < 2000 && err == nil; i++ {
				b := &series.Batch{}
				for j := range 50 {
					b.Series = append(b.Series, floats(name("a"), float64(at(tc.offset))+float64(50*i+j), float64(i*j)*1.1))
				}
				if _, err = s.Append(context.Background(), b); err == nil {
					acked++
				}
			}
			if !errors.Is(err, ErrFenced) {
				t.Fatalf("after %d appends: %v", acked, err)
			}
			if err := s.Ready(); !errors.Is(err, ErrFenced) {
				t.Errorf("ready: %v", err)
			}
		})
	}
}

// TestSeriesBeforeTheirSamples is the reason for creator: in the TSDB a sample can stand
// in the log before its series.
func TestSeriesBeforeTheirSamples(t *testing.T) {
	ctx := context.Background()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		o := testOptions(t.TempDir())
		s := mustOpen(t, o, hooks{fsync: d.fsync})
		ls := name("a")
		own := &claim{done: make(chan struct{})}
		s.creator.take(ls.Hash(), own)
		app := s.db.AppenderV2(ctx)
		if _, err := app.Append(0, ls, 0, at(0), 0, nil, nil, promstorage.AOptions{}); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			mustAppend(t, s, batch(floats(ls, float64(at(0)), 1)))
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("a sample of a series that is not in the log was confirmed")
		default:
		}
		if err := s.rollback(app); err != nil {
			t.Fatal(err)
		}
		s.creator.release([]uint64{ls.Hash()}, own)
		<-done
		after := mustOpen(t, testOptions(d.image(t, o.Dir)), hooks{})
		if got := read(t, after); len(got) != 1 {
			t.Errorf("stored: %v", got)
		}
		for _, s := range []*Store{s, after} {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestTSDBLosesSamplesBeforeTheirSeries pins the trap itself: if it is gone, creator can go.
func TestTSDBLosesSamplesBeforeTheirSeries(t *testing.T) {
	ctx := context.Background()
	o := testOptions(t.TempDir())
	s := mustOpen(t, o, hooks{})
	first, second := s.db.AppenderV2(ctx), s.db.AppenderV2(ctx)
	for i, app := range []promstorage.AppenderV2{first, second} {
		if _, err := app.Append(0, name("a"), 0, at(time.Duration(i)*time.Second), 1, nil, nil, promstorage.AOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(second.Commit(), first.Commit(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, mustOpen(t, o, hooks{})); len(got) != 1 {
		t.Errorf("the TSDB keeps samples that precede their series: %v", got)
	}
}

// TestReplayFindsConcurrentAppends is the reason for Store.commits: writers that share
// series must not insert in another order than they log.
func TestReplayFindsConcurrentAppends(t *testing.T) {
	const writers, appends, shared = 8, 200, 10
	o := testOptions(t.TempDir())
	o.WALSync = SyncOff // the order is wanted here, the more of it the better
	s := mustOpen(t, o, hooks{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range appends {
				b := &series.Batch{}
				for j := range shared {
					b.Series = append(b.Series, floats(name(fmt.Sprint("s", j, "_", i/20)), float64(at(time.Duration(i*writers+w)*time.Millisecond)), 1))
				}
				if out, err := s.Append(context.Background(), b); err != nil || len(out.Refusals) > 0 {
					t.Errorf("append: %v %+v", err, out.Refusals)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(read(t, mustOpen(t, o, hooks{}))); n != writers*appends*shared {
		t.Errorf("%d of %d samples are there after a restart", n, writers*appends*shared)
	}
}

// Samples are in answers before they are synced, and Sync waits for that.
func TestSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stalled atomic.Bool
		release := make(chan struct{})
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: func(f *os.File) error {
			if stalled.Load() {
				<-release
			}
			return f.Sync()
		}})
		stalled.Store(true)
		confirmed, synced := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := s.Append(t.Context(), batch(floats(name("a"), float64(at(0)), 1)))
			confirmed <- err
		}()
		synctest.Wait()
		if got := read(t, s); len(got) != 1 || len(confirmed) > 0 {
			t.Fatalf("%d samples are seen, %d appends confirmed, want one and none", len(got), len(confirmed))
		}
		go func() { synced <- s.Sync(t.Context()) }()
		synctest.Wait()
		if len(synced) > 0 {
			t.Error("Sync did not wait")
		}
		stalled.Store(false)
		close(release)
		if err := errors.Join(<-synced, <-confirmed); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Sync(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("in a closed store: %v", err)
		}
	})
}
