package storage

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// BenchmarkQuerier reads 2000 series of the head, and of the head and four blocks, where
// nothing overlaps: samples, and chunks.
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
		b.Run(fmt.Sprintf("chunks/blocks=%d", blocks), func(b *testing.B) { benchChunks(b, s, hours*60*benchSeries) })
	}
}

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

func benchChunks(b *testing.B, s *Store, want int) {
	b.ReportAllocs()
	for b.Loop() {
		q, err := s.ChunkQuerier(math.MinInt64, math.MaxInt64)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		var it chunks.Iterator
		for set := q.Select(b.Context(), true, nil, everything()); set.Next(); {
			for it = set.At().Iterator(it); it.Next(); n += it.At().Chunk.NumSamples() {
			}
		}
		if err := q.Close(); err != nil || n != want {
			b.Fatalf("%d samples, want %d; %v", n, want, err)
		}
	}
}
