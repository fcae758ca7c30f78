//go:build linux

package floor

import (
	"testing"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/workload"
)

func TestRun(t *testing.T) {
	s := workload.Shape{
		Series: 1000, Scrapes: 40, Batch: 300, Step: 15 * time.Second, Start: 1_700_000_000_000,
		OutOfOrder: 0.1, Histograms: 0.2, ReplaceEvery: 20,
	}
	for _, senders := range []int{1, 3} {
		r, err := Run(t.Context(), s, senders, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if r.Series != s.Created() || r.PerSeries <= 0 || r.PerSample <= 0 || r.Heap <= 0 || r.Peak < r.Resident {
			t.Errorf("%d senders: %+v", senders, r)
		}
	}
}
