package evaluate

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// list is a set of series that lie in memory.
type list struct {
	series []storage.ChunkSeries
	next   int
	err    error
}

func (l *list) Next() bool {
	l.next++
	return l.next <= len(l.series)
}
func (l *list) At() storage.ChunkSeries           { return l.series[l.next-1] }
func (l *list) Err() error                        { return l.err }
func (l *list) Warnings() annotations.Annotations { return nil }

// divisible is a list that can be divided.
type divisible struct{ list }

func (d *divisible) Divide(most int) (parts []storage.ChunkSeriesSet) {
	for i := range most {
		parts = append(parts, &list{series: d.series[i*len(d.series)/most : (i+1)*len(d.series)/most], err: d.err})
	}
	d.series = nil
	return parts
}

// collect reads a set into memory.
func collect(tb testing.TB, set storage.ChunkSeriesSet) []storage.ChunkSeries {
	tb.Helper()
	var all []storage.ChunkSeries
	for set.Next() {
		var metas []chunks.Meta
		it := set.At().Iterator(nil)
		for it.Next() {
			metas = append(metas, it.At())
		}
		if it.Err() != nil {
			tb.Fatal(it.Err())
		}
		all = append(all, &storage.ChunkSeriesEntry{
			Lset:            set.At().Labels(),
			ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator { return storage.NewListChunkSeriesIterator(metas...) },
		})
	}
	if set.Err() != nil {
		tb.Fatal(set.Err())
	}
	return all
}

// BenchmarkSeries evaluates 10,000 series of 100 samples each at 20 steps: by the engine, over
// the chunks that the database answers with, and over the same chunks in memory.
func BenchmarkSeries(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	db := openDB(b)
	const seriesN, samples = 10_000, 100
	for i := range seriesN {
		ls := labels.FromStrings(labels.MetricName, "m_total", "instance", fmt.Sprintf("host-%d:9100", i/10),
			"job", fmt.Sprintf("job-%d", i%10), "cluster", "eu-west-1", "method", "GET")
		v, ps := 0., make([]promql.FPoint, samples)
		for j := range ps {
			v += float64(r.IntN(1000))
			ps[j] = promql.FPoint{T: first + int64(j)*interval, F: v}
		}
		add(b, db, ls, ps)
	}
	end := int64(first + (samples-1)*interval)
	g := pushdown.Grid{Start: end - 19*60_000, End: end, Step: 60_000, Lookback: 300_000}
	for _, text := range []string{
		"sum (rate(m_total[5m]))", "sum by (job) (rate(m_total[5m]))", "rate(m_total[5m])",
		"sum (m_total)", "max by (job) (sum_over_time(m_total[5m]))", "sum (irate(m_total[5m]))",
	} {
		benchmark(b, db, text, g)
	}
}

// BenchmarkSeriesOfHistograms does that with 500 series of native histograms.
func BenchmarkSeriesOfHistograms(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	db := openDB(b)
	const seriesN, samples = 500, 100
	for i := range seriesN {
		ls := labels.FromStrings(labels.MetricName, "m", "instance", fmt.Sprintf("host-%d:9100", i), "job", fmt.Sprintf("job-%d", i%10))
		n := &native{integer: true, threshold: 1e-128, positive: make([]int64, 20)}
		app := db.Appender(context.Background())
		for j := range int64(samples) {
			for k := range n.positive {
				n.positive[k] += r.Int64N(20)
			}
			n.sum += 100 * r.Float64()
			h, fh := n.at()
			if _, err := app.AppendHistogram(0, ls, first+j*interval, h, fh); err != nil {
				b.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	end := int64(first + (samples-1)*interval)
	g := pushdown.Grid{Start: end - 19*60_000, End: end, Step: 60_000, Lookback: 300_000}
	for _, text := range []string{"sum (rate(m[5m]))", "rate(m[5m])", "sum by (job) (m)"} {
		benchmark(b, db, text, g)
	}
}

// benchmark evaluates a text by the engine, over the chunks that the database answers with, and
// over the same chunks in memory.
func benchmark(b *testing.B, db *tsdb.DB, text string, g pushdown.Grid) {
	o := Options{Fragment: mustFragment(b, text), Grid: g, MaxSamples: math.MaxInt, Workers: 1}
	all := collect(b, selected(b, db, o))
	evaluate := func(b *testing.B, set func() (storage.ChunkSeriesSet, func())) {
		b.ReportAllocs()
		for b.Loop() {
			s, done := set()
			if _, err := Series(context.Background(), s, o); err != nil {
				b.Fatal(err)
			}
			done()
		}
	}
	b.Run(text+"/engine", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			execute(b, db, text, g).Close()
		}
	})
	b.Run(text+"/database", func(b *testing.B) {
		evaluate(b, func() (storage.ChunkSeriesSet, func()) {
			mint, maxt := o.Fragment.Span(g)
			q, err := db.ChunkQuerier(mint, maxt)
			if err != nil {
				b.Fatal(err)
			}
			hints := &storage.SelectHints{Start: mint, End: maxt, DisableTrimming: true}
			return q.Select(context.Background(), false, hints, o.Fragment.Matchers...), func() { _ = q.Close() }
		})
	})
	b.Run(text+"/memory", func(b *testing.B) {
		evaluate(b, func() (storage.ChunkSeriesSet, func()) { return &list{series: all}, func() {} })
	})
}

// BenchmarkXOR decodes chunks of 120 samples, by the chunk's iterator and by appendXOR.
func BenchmarkXOR(b *testing.B) {
	for _, kind := range []struct {
		name string
		next func(r *rand.Rand, v float64) float64
	}{
		{"counter", func(r *rand.Rand, v float64) float64 { return v + float64(r.IntN(1000)) }},
		{"gauge of two decimals", func(r *rand.Rand, _ float64) float64 { return float64(r.IntN(10_000)) / 100 }},
		{"constant", func(_ *rand.Rand, _ float64) float64 { return 1 }},
	} {
		r := rand.New(rand.NewPCG(1, 1))
		var all []*chunkenc.XORChunk
		for range 1000 {
			c := chunkenc.NewXORChunk()
			app, err := c.Appender()
			if err != nil {
				b.Fatal(err)
			}
			v := float64(r.IntN(1000))
			for i := range int64(120) {
				v = kind.next(r, v)
				app.Append(0, first+i*interval, v)
			}
			all = append(all, c)
		}
		for _, way := range []struct {
			name   string
			decode func(ps []promql.FPoint, c *chunkenc.XORChunk) []promql.FPoint
		}{
			{"iterator", func(ps []promql.FPoint, c *chunkenc.XORChunk) []promql.FPoint {
				for it := c.Iterator(nil); it.Next() != chunkenc.ValNone; {
					t, v := it.At()
					ps = append(ps, promql.FPoint{T: t, F: v})
				}
				return ps
			}},
			{"bytes", func(ps []promql.FPoint, c *chunkenc.XORChunk) []promql.FPoint {
				ps, _ = appendXOR(ps, c.Bytes(), math.MinInt64, math.MaxInt64, true)
				return ps
			}},
		} {
			b.Run(kind.name+"/"+way.name, func(b *testing.B) {
				var ps []promql.FPoint
				n := 0
				for b.Loop() {
					for _, c := range all {
						ps = way.decode(ps[:0], c)
						n += len(ps)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
			})
		}
	}
}
