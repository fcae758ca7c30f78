package history

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// A series of a window is in one batch, since batches overtake each other, unless it is too large for
// any.
func TestBatchesDivideNoSeries(t *testing.T) {
	for _, tc := range []struct{ samples, batches, parts int }{
		{samples: 150, batches: 3, parts: 1},
		{samples: fullSamples, batches: 40, parts: 1},
		{samples: maxSamples + 1, batches: 41, parts: 2},
	} {
		t.Run(fmt.Sprint(tc.samples), func(t *testing.T) {
			parts, sent, batchesSent := map[string]int{}, 0, 0
			b := batches{mint: 0, maxt: 1 << 40, seen: func(labels.Labels) {}, send: func(b *batch) error {
				batchesSent++
				for _, s := range b.series {
					parts[fmt.Sprint(b.symbols.Symbols()[s.LabelsRefs[1]])]++
					sent += len(s.Samples)
				}
				return nil
			}}
			for i := range 40 {
				samples := make([]chunks.Sample, tc.samples)
				for n := range samples {
					samples[n] = floatSample{t: int64(n), v: float64(n)}
				}
				if _, err := b.add(storage.NewListSeries(labels.FromStrings("number", fmt.Sprint(i)), samples), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.flush(); err != nil {
				t.Fatal(err)
			}
			if sent != 40*tc.samples || batchesSent != tc.batches || len(parts) != 40 {
				t.Errorf("%d samples of %d series in %d batches, want %d of 40 in %d", sent, len(parts), batchesSent, 40*tc.samples, tc.batches)
			}
			for series, n := range parts {
				if n != tc.parts {
					t.Errorf("series %s is in %d batches, want %d", series, n, tc.parts)
				}
			}
		})
	}
}
