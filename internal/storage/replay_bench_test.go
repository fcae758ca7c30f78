package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

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
		handles := benchHandles(i)
		for step := range replayScrapes {
			batch := benchBatch(handles, at(time.Duration(step)*benchInterval))
			start := time.Now()
			if _, err := s.Append(context.Background(), batch); err != nil {
				b.Fatal(err)
			}
			took += time.Since(start)
		}
	}
	return took
}
