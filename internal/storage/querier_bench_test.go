package storage

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// BenchmarkQuerier reads 2000 series of the head, and of the head and four blocks, where
// nothing overlaps: samples, chunks, and chunks of a third of the series, before and after a hundredth
// of the series has a late sample.
func BenchmarkQuerier(b *testing.B) {
	for _, hours := range []int{1, 9} {
		o := benchOptions(b, SyncOff)
		o.Dir = filepath.Join(b.TempDir(), "data")
		s := mustOpen(b, o, hooks{})
		handles := benchHandles(1)
		for m := range hours * 60 {
			mustAppend(b, s, benchBatch(handles, at(time.Duration(m)*time.Minute)))
		}
		if err := s.db.Compact(b.Context()); err != nil {
			b.Fatal(err)
		}
		blocks := len(s.db.Blocks())
		b.Run(fmt.Sprintf("samples/blocks=%d", blocks), func(b *testing.B) { benchSamples(b, s, hours*60*benchSeries) })
		kept := func(key uint64) bool { return key%3 == 0 }
		untrimmed := &promstorage.SelectHints{Start: 0, End: allTime, DisableTrimming: true}
		for _, way := range []struct {
			name  string
			keep  func(uint64) bool
			hints *promstorage.SelectHints
		}{
			{"chunks", nil, nil},
			{"chunks of a third", kept, untrimmed},
		} {
			b.Run(fmt.Sprintf("%s/blocks=%d", way.name, blocks), func(b *testing.B) {
				benchChunks(b, s, way.keep, way.hints, hours*60*benchSeries)
			})
		}
		last := at(time.Duration(hours*60-1) * time.Minute)
		mustAppend(b, s, benchBatch(handles[:benchSeries/100], last-1))
		b.Run(fmt.Sprintf("chunks of a third, some late/blocks=%d", blocks), func(b *testing.B) {
			benchChunks(b, s, kept, untrimmed, hours*60*benchSeries)
		})
	}
}

// allTime is long after all samples, and not so long that the TSDB takes it to meet late ones
// where there are none.
const allTime = math.MaxInt64 / 2

func benchSamples(b *testing.B, s *Store, want int) {
	b.ReportAllocs()
	for b.Loop() {
		q, err := s.Querier(math.MinInt64, math.MaxInt64)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		var it chunkenc.Iterator
		for set := q.Select(b.Context(), true, nil, everything()); set.Next(); {
			for it = set.At().Iterator(it); it.Next() != chunkenc.ValNone; n++ {
			}
		}
		if err := q.Close(); err != nil || n != want {
			b.Fatalf("%d samples, want %d; %v", n, want, err)
		}
	}
}

func benchChunks(b *testing.B, s *Store, keep func(uint64) bool, hints *promstorage.SelectHints, want int) {
	b.ReportAllocs()
	for b.Loop() {
		q, err := s.ChunkQuerierOf(0, allTime, Want{Keep: infallible(keep)})
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		var it chunks.Iterator
		for set := q.Select(b.Context(), hints == nil, hints, everything()); set.Next(); {
			for it = set.At().Iterator(it); it.Next(); n += it.At().Chunk.NumSamples() {
			}
		}
		if err := q.Close(); err != nil || keep == nil && n != want || n < want/4 {
			b.Fatalf("%d samples, of %d; %v", n, want, err)
		}
	}
}
