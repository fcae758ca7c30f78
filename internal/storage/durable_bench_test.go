package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// BenchmarkDurable compares --storage.wal-sync=commit with off: eight senders append scrapes
// of 2000 known series each, for short whiles in turn to a store of either kind, so that
// what else the machine does meets both. One operation is a while for each. The figures are
// medians: samples per second with either, the ratio of whiles that followed each other, and
// the time of a sync of 64 KiB.
//
//	go test -run '^$' -bench Durable -benchtime 20x ./internal/storage
func BenchmarkDurable(b *testing.B) {
	for _, tc := range []struct {
		name  string
		fsync func(*os.File) error
	}{
		{"this disk", (*os.File).Sync},
		{"sync=1ms", func(*os.File) error { <-time.After(time.Millisecond); return nil }},
		{"sync=2ms", func(*os.File) error { <-time.After(2 * time.Millisecond); return nil }},
	} {
		b.Run(tc.name, func(b *testing.B) {
			off := newPair(b, SyncOff, tc.fsync)
			commit := newPair(b, SyncCommit, tc.fsync)
			for i := range b.N {
				// Who is first is in the state that the other has left the machine in.
				for _, p := range [][]*pair{{off, commit}, {commit, off}}[i%2] {
					p.run(b)
				}
			}
			b.ReportMetric(0, "ns/op")
			var ratios []float64
			for i := range b.N {
				ratios = append(ratios, 100*commit.rates[i]/off.rates[i])
			}
			b.ReportMetric(median(ratios), "commit-%-of-off")
			b.ReportMetric(median(off.rates), "off-samples/s")
			b.ReportMetric(median(commit.rates), "commit-samples/s")
			b.ReportMetric(syncTime(b, tc.fsync), "sync-us")
		})
	}
}

// pair is one of the two stores that are compared, with its eight senders.
type pair struct {
	store   *Store
	senders [8][]labels.Labels
	step    int       // the newest scrape: one clock for all senders
	rates   []float64 // of each while, in samples a second
}

func newPair(b *testing.B, mode SyncMode, fsync func(*os.File) error) *pair {
	b.Helper()
	p := &pair{store: mustOpen(b, benchOptions(b, mode), hooks{fsync: fsync})}
	for i := range p.senders {
		p.senders[i] = benchLabels(i)
	}
	p.run(b) // creates the series
	p.rates = nil
	return p
}

// run lets the senders append a number of scrapes together: to the end, all of them send.
func (p *pair) run(b *testing.B) {
	b.Helper()
	const scrapes = 200
	var begun atomic.Int64
	start := time.Now()
	var wg sync.WaitGroup
	for _, ls := range p.senders {
		wg.Go(func() {
			for n := begun.Add(1); n <= scrapes; n = begun.Add(1) {
				out, err := p.store.Append(context.Background(), benchBatch(ls, p.step+int(n)))
				if err != nil || len(out.Refusals) > 0 {
					b.Errorf("append: %v, %d refusals", err, len(out.Refusals))
				}
			}
		})
	}
	wg.Wait()
	p.step += scrapes
	p.rates = append(p.rates, scrapes*benchSeries/time.Since(start).Seconds())
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// syncTime is the median time in microseconds that a sync takes after 64 KiB were appended to
// a file.
func syncTime(b *testing.B, fsync func(*os.File) error) float64 {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var took []float64
	for range 50 {
		if _, err := f.Write(make([]byte, 64<<10)); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := fsync(f); err != nil {
			b.Fatal(err)
		}
		took = append(took, float64(time.Since(start).Microseconds()))
	}
	return median(took)
}

const (
	replayTargets = 10
	replayScrapes = 50
	replaySamples = replayTargets * replayScrapes * benchSeries
)

// BenchmarkReplay compares the time that opening a store takes after a crash and after a
// stop with the time that appending took: 20,000 series of 50 samples. One operation is an
// opening.
//
//	go test -run '^$' -bench Replay -benchtime 5x ./internal/storage
func BenchmarkReplay(b *testing.B) {
	for _, tc := range []struct {
		name     string
		features []string
		clean    bool
	}{
		{"crash", nil, false},
		{"stop", nil, true},
		{"stop with snapshot", []string{"memory-snapshot-on-shutdown"}, true},
	} {
		b.Run(tc.name, func(b *testing.B) {
			o := benchOptions(b, SyncOff)
			o.Features = tc.features
			s := mustOpen(b, o, hooks{})
			appending := fillStore(b, s)
			if tc.clean {
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
			var opening time.Duration
			for i := range b.N {
				o := o
				o.Dir = filepath.Join(b.TempDir(), fmt.Sprint(i))
				if err := os.CopyFS(o.Dir, os.DirFS(s.opts.Dir)); err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				again := mustOpen(b, o, hooks{})
				opening += time.Since(start)
				if n := again.db.Head().NumSeries(); n != replayTargets*benchSeries {
					b.Fatalf("%d series after the replay", n)
				}
				if err := again.Close(); err != nil {
					b.Fatal(err)
				}
			}
			perAppend := float64(appending.Nanoseconds()) / replaySamples
			perReplay := float64(opening.Nanoseconds()) / float64(b.N*replaySamples)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(perAppend, "append-ns/sample")
			b.ReportMetric(perReplay, "replay-ns/sample")
			b.ReportMetric(perReplay/perAppend, "replay/append")
		})
	}
}

// fillStore returns how long its appends took, one after the other.
func fillStore(b *testing.B, s *Store) (took time.Duration) {
	b.Helper()
	for i := range replayTargets {
		ls := benchLabels(i)
		for step := range replayScrapes {
			batch := benchBatch(ls, step)
			start := time.Now()
			if _, err := s.Append(context.Background(), batch); err != nil {
				b.Fatal(err)
			}
			took += time.Since(start)
		}
	}
	return took
}
