package evaluate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
)

// TestSpecialFunctionsGiveWhatTheEnginesGive compares, bit by bit, on windows that slide over
// random series.
func TestSpecialFunctionsGiveWhatTheEnginesGive(t *testing.T) {
	for name := range special {
		t.Run(name, func(t *testing.T) {
			for _, offset := range []string{"", " offset 90s", " offset -1m"} {
				f := mustFragment(t, fmt.Sprintf("%s(m[5m]%s)", name, offset))
				fn, stock := newFunction(f), newFunction(f)
				for seed := range 300 {
					r := rand.New(rand.NewPCG(uint64(seed), 3))
					ps := withoutStale(points(r))
					fn.reset(labels.EmptyLabels(), ps)
					stock.reset(labels.EmptyLabels(), ps)
					for lo, hi := 0, 1; hi <= len(ps); hi += r.IntN(20) {
						lo = min(lo+r.IntN(20), hi-1)
						// Samples may be at the right edge of the window, not at
						// its left.
						at := ps[hi-1].T + f.Offset
						if latest := ps[lo].T + f.Range - 1 + f.Offset; latest > at && r.IntN(2) == 0 {
							at = latest
						}
						got, ok, err := fn.at(fn, lo, hi, at)
						want, wantOK, wantErr := stock.engine(lo, hi, at)
						if math.Float64bits(got) != math.Float64bits(want) || ok != wantOK || err != nil || wantErr != nil {
							t.Fatalf("seed %d, %v at %d: have %v %v %v, want %v %v %v", seed, ps[lo:hi], at, got, ok, err, want, wantOK, wantErr)
						}
					}
				}
			}
		})
	}
}

// TestExtrapolationAtItsThreshold has samples that are exactly as far from the ends of the range
// as decides on how far to extrapolate.
func TestExtrapolationAtItsThreshold(t *testing.T) {
	f := mustFragment(t, "rate(m[5m])")
	fn, stock := newFunction(f), newFunction(f)
	for between := int64(10); between < 10_000; between += 10 {
		ps := []promql.FPoint{{T: first, F: 1e6}, {T: first + between, F: 1e6 + 1}}
		fn.reset(labels.EmptyLabels(), ps)
		stock.reset(labels.EmptyLabels(), ps)
		for _, at := range []int64{ps[0].T + f.Range - between*11/10, ps[1].T + between*11/10} {
			got, _, _ := fn.at(fn, 0, 2, at)
			want, _, _ := stock.engine(0, 2, at)
			if got != want {
				t.Fatalf("%dms apart, at %d: have %v, want %v", between, at-first, got, want)
			}
		}
	}
}

func withoutStale(ps []promql.FPoint) []promql.FPoint {
	var kept []promql.FPoint
	for _, p := range ps {
		if !value.IsStaleNaN(p.F) {
			kept = append(kept, p)
		}
	}
	return kept
}

func TestNoAllocationForEachSeries(t *testing.T) {
	for _, text := range []string{"sum by (job) (rate(m[5m]))", "max without (instance) (m)", "avg(avg_over_time(m[5m]))"} {
		o := options(t, text)
		var b batch
		read := reader{set: &list{series: floats(t, 100)}, mint: math.MinInt64, maxt: math.MaxInt64}
		if _, err := read.fill(&b); err != nil {
			t.Fatal(err)
		}
		w := newWorker(newRun(o))
		evaluate := func() {
			if err := w.evaluate(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
		}
		evaluate()
		if n := testing.AllocsPerRun(10, evaluate); n > 0 {
			t.Errorf("%s: %v allocations for 100 series", text, n)
		}
	}
}
