package storage

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/series"
)

// BenchmarkImportBlock imports two hours of 2000 series, a sample each 15 s, as a block and
// sample by sample through the head, as a hand-off does.
func BenchmarkImportBlock(b *testing.B) {
	const perSeries, perChunk = 480, 120
	handles := benchHandles(1)
	sorted := make([]promstorage.ChunkSeries, len(handles))
	for i := range handles {
		var chks []chunks.Meta
		for c := range perSeries / perChunk {
			chk := chunkenc.NewXORChunk()
			app, err := chk.Appender()
			if err != nil {
				b.Fatal(err)
			}
			first := at(-30*time.Hour) + int64(c*perChunk)*15_000
			for n := range int64(perChunk) {
				app.Append(0, first+n*15_000, float64(i)+float64(n*n))
			}
			chks = append(chks, chunks.Meta{Chunk: chk, MinTime: first, MaxTime: first + (perChunk-1)*15_000})
		}
		sorted[i] = chunkSeries(handles[i].Labels, chks...)
	}
	slices.SortFunc(sorted, func(a, b promstorage.ChunkSeries) int { return labels.Compare(a.Labels(), b.Labels()) })
	var took [2]time.Duration
	for b.Loop() {
		for i, imports := range []func(*Store) error{
			func(s *Store) error { return importByBlock(b, s, sorted) },
			func(s *Store) error { return importBySample(b, s, sorted) },
		} {
			b.StopTimer()
			s := mustOpen(b, testOptions(filepath.Join(b.TempDir(), "data")), hooks{})
			mustAppend(b, s, batch(sampleAt(name("live"), at(0))))
			b.StartTimer()
			start := time.Now()
			if err := imports(s); err != nil {
				b.Fatal(err)
			}
			took[i] += time.Since(start)
			b.StopTimer()
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
	samples := float64(b.N * len(handles) * perSeries)
	b.ReportMetric(float64(took[0].Nanoseconds())/samples, "block-ns/sample")
	b.ReportMetric(float64(took[1].Nanoseconds())/samples, "head-ns/sample")
	b.ReportMetric(float64(took[1])/float64(took[0]), "head/block")
}

func importByBlock(b *testing.B, s *Store, sorted []promstorage.ChunkSeries) error {
	_, err := s.ImportBlock(b.Context(), at(-30*time.Hour), at(-28*time.Hour), chunkSetOf(sorted...))
	return err
}

func importBySample(b *testing.B, s *Store, sorted []promstorage.ChunkSeries) error {
	bt, pending := new(series.Batch), 0
	for i, cs := range sorted {
		sr := series.Series{Labels: cs.Labels()}
		for it := cs.Iterator(nil); it.Next(); {
			for samples := it.At().Chunk.Iterator(nil); samples.Next() != chunkenc.ValNone; {
				t, v := samples.At()
				sr.Samples = append(sr.Samples, series.Sample{T: t, V: v})
			}
		}
		bt.Series = append(bt.Series, sr)
		if pending += len(sr.Samples); pending < 5000 && i < len(sorted)-1 {
			continue
		}
		if err := s.Import(b.Context(), bt); err != nil {
			return err
		}
		bt, pending = new(series.Batch), 0
	}
	return nil
}
