package frame

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

// scrape makes batches of n series that are sent again and again: counters, and gauges with
// two decimals, all of one time.
func scrape(n int) func(round int64) *series.Batch {
	rng := rand.New(rand.NewPCG(3, 4))
	b := &series.Batch{Series: make([]series.Series, n)}
	counters := make([]int64, n)
	for i := range b.Series {
		// What one peer owns of a few hundred thousand series, in the order of the sender.
		h := &series.Handle{Labels: benchLabels(i), Index: uint32(3*i + rng.IntN(3)), Serial: uint64(i)}
		b.Series[i] = series.Series{Labels: h.Labels, Handle: h, Samples: make([]series.Sample, 1)}
		counters[i] = rng.Int64N(1 << (1 + rng.IntN(34)))
	}
	return func(round int64) *series.Batch {
		for i := range b.Series {
			v := float64(counters[i] + round*int64(i%100))
			if i%3 == 0 {
				v = float64(rng.Int64N(1_000_000)) / 100
			}
			b.Series[i].Samples[0] = series.Sample{T: 1_700_000_000_000 + 15_000*round, V: v}
		}
		return b
	}
}

func benchLabels(i int) labels.Labels {
	return labels.FromStrings("__name__", "http_requests_total", "instance", fmt.Sprintf("host-%d:9100", i/100), "job", "node", "path", fmt.Sprintf("/api/v1/%d", i%100))
}

// A sample of a known series takes six bytes at most, and neither end allocates for it.
func TestKnownSeriesAreCheap(t *testing.T) {
	const n = 2000
	next := scrape(n)
	e, d := &Encoder{}, NewDecoder(nil)
	carry(t, e, d, next(0))
	b := next(1)
	out, _, err := e.Append(nil, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.2f bytes per sample", float64(len(out))/n)
	if len(out) > 6*n {
		t.Errorf("%d bytes for %d samples", len(out), n)
	}
	if allocs := testing.AllocsPerRun(20, func() {
		if out, _, err = e.Append(out[:0], b, 0); err != nil {
			t.Fatal(err)
		}
	}); allocs > 0 {
		t.Errorf("%v allocations to encode a frame", allocs)
	}
	if allocs := testing.AllocsPerRun(20, func() {
		got, err := d.Decode(out)
		if err != nil {
			t.Fatal(err)
		}
		got.Release()
	}); allocs > 10 {
		t.Errorf("%v allocations to decode a frame", allocs)
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{100, 2000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			batch, e := scrape(n)(0), &Encoder{}
			out, _, err := e.Append(nil, batch, 0)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if out, _, err = e.Append(out[:0], batch, 0); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sample")
			b.ReportMetric(float64(len(out))/float64(n), "B/sample")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{100, 2000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			batch, e, d := scrape(n)(0), &Encoder{}, NewDecoder(nil)
			carry(b, e, d, batch)
			out, _, err := e.Append(nil, batch, 0)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				got, err := d.Decode(out)
				if err != nil {
					b.Fatal(err)
				}
				got.Release()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sample")
		})
	}
}
