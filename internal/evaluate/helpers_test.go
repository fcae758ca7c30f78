package evaluate

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

const (
	interval = 15_000
	// first and last are the times of the oldest and the newest sample of the tests.
	first = 1_000_000 * interval
	last  = first + 400*interval
)

func openDB(tb testing.TB) *tsdb.DB {
	tb.Helper()
	opts := tsdb.DefaultOptions()
	opts.RetentionDuration = math.MaxInt64
	opts.OutOfOrderTimeWindow = 2 * (last - first)
	opts.MinBlockDuration = 24 * 3_600_000
	opts.MaxBlockDuration = opts.MinBlockDuration
	db, err := tsdb.Open(tb.TempDir(), nil, nil, opts, nil)
	if err != nil {
		tb.Fatal(err)
	}
	db.DisableCompactions()
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// add adds samples to a series.
func add(tb testing.TB, db *tsdb.DB, ls labels.Labels, points []promql.FPoint) {
	tb.Helper()
	app := db.Appender(context.Background())
	for _, p := range points {
		if _, err := app.Append(0, ls, p.T, p.F); err != nil {
			tb.Fatal(ls, p, err)
		}
	}
	if err := app.Commit(); err != nil {
		tb.Fatal(err)
	}
}

// kinds are how the values of a series go on.
var kinds = []func(r *rand.Rand, was float64) float64{
	func(r *rand.Rand, was float64) float64 { return was + float64(r.IntN(100)) },
	func(r *rand.Rand, was float64) float64 {
		if r.IntN(20) == 0 {
			return float64(r.IntN(10))
		}
		return was + 1000*r.Float64()
	},
	func(r *rand.Rand, _ float64) float64 { return r.NormFloat64() * 100 },
	func(_ *rand.Rand, was float64) float64 { return was },
	func(r *rand.Rand, _ float64) float64 { return r.Float64() * 1e300 },
	func(r *rand.Rand, was float64) float64 {
		odd := []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 0, 1, was + 1}
		return odd[r.IntN(len(odd))]
	},
}

// points returns the samples of a random series.
func points(r *rand.Rand) []promql.FPoint {
	start, end := int64(first), int64(last)
	if r.IntN(3) == 0 {
		start += r.Int64N(last - first)
	}
	if r.IntN(3) == 0 {
		end -= r.Int64N(last - first)
	}
	if r.IntN(2) == 0 {
		start -= start % interval
	}
	next, v := kinds[r.IntN(len(kinds))], float64(r.IntN(1000))
	jitter, gaps, stale := r.IntN(3) == 0, r.IntN(3) == 0, r.IntN(3) == 0
	var ps []promql.FPoint
	for t := start; t <= end; t += interval {
		at := t
		if jitter {
			at += r.Int64N(interval / 2)
		}
		v = next(r, v)
		ps = append(ps, promql.FPoint{T: at, F: v})
		if stale && r.IntN(20) == 0 {
			ps[len(ps)-1].F = math.Float64frombits(value.StaleNaN)
		}
		if gaps && r.IntN(20) == 0 {
			t += r.Int64N(60) * interval
		}
	}
	return ps
}

// fill fills a database with series of a counter m_total and a gauge g, and deletes some of
// their samples.
func fill(tb testing.TB, r *rand.Rand, db *tsdb.DB) {
	tb.Helper()
	for _, name := range []string{"m_total", "g"} {
		for i := range 12 {
			b := labels.NewBuilder(labels.FromStrings(labels.MetricName, name, "instance", fmt.Sprint(i)))
			if job := r.IntN(4); job > 0 {
				b.Set("job", fmt.Sprint(job))
			}
			if zone := r.IntN(3); zone > 0 {
				b.Set("zone", fmt.Sprint(zone))
			}
			ps := points(r)
			if r.IntN(4) > 0 || len(ps) < 10 {
				add(tb, db, b.Labels(), ps)
				continue
			}
			// Some come late.
			var late, timely []promql.FPoint
			for _, p := range ps {
				if r.IntN(10) == 0 {
					late = append(late, p)
				} else {
					timely = append(timely, p)
				}
			}
			add(tb, db, b.Labels(), timely)
			add(tb, db, b.Labels(), late)
		}
	}
	if r.IntN(3) == 0 {
		from := first + r.Int64N(last-first)
		if err := db.Delete(context.Background(), from, from+r.Int64N(20*interval),
			labels.MustNewMatcher(labels.MatchRegexp, "instance", "[1-4]")); err != nil {
			tb.Fatal(err)
		}
	}
	if r.IntN(3) == 0 {
		if err := db.CompactHead(tsdb.NewRangeHead(db.Head(), first, first+200*interval)); err != nil {
			tb.Fatal(err)
		}
	}
}

var parse = parser.NewParser(parser.Options{EnableExperimentalFunctions: true})

// fragment returns the fragment that a text is.
func fragment(text string) (*pushdown.Fragment, error) {
	expr, err := parse.ParseExpr(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	return pushdown.Of(expr)
}

func mustFragment(tb testing.TB, text string) *pushdown.Fragment {
	tb.Helper()
	f, err := fragment(text)
	if err != nil {
		tb.Fatal(text, err)
	}
	return f
}

// options returns those to evaluate a fragment at every interval of the tests' time.
func options(tb testing.TB, text string) Options {
	tb.Helper()
	return Options{
		Fragment: mustFragment(tb, text), MaxSamples: 1e9, Workers: 1,
		Grid: pushdown.Grid{Start: first, End: last, Step: interval, Lookback: 5 * 60_000},
	}
}

// selected returns the series of a database that a fragment needs.
func selected(tb testing.TB, db storage.ChunkQueryable, o Options) storage.ChunkSeriesSet {
	tb.Helper()
	mint, maxt := o.Fragment.Span(o.Grid)
	q, err := db.ChunkQuerier(mint, maxt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = q.Close() })
	hints := &storage.SelectHints{Start: mint, End: maxt, DisableTrimming: true}
	return q.Select(context.Background(), true, hints, o.Fragment.Matchers...)
}

// split is the series of a set that fall to one of many owners.
type split struct {
	storage.ChunkSeriesSet
	owner, of uint64
	// names are those of the labels that series have, nil for all.
	names []string
}

// splitOf is what one of several owners has. Every second one gives no labels that are not read.
func splitOf(set storage.ChunkSeriesSet, owner, of uint64, f *pushdown.Fragment) split {
	s := split{ChunkSeriesSet: set, owner: owner, of: of}
	if owner%2 == 0 {
		s.names = f.LabelsRead()
	}
	return s
}

func (s split) Next() bool {
	for s.ChunkSeriesSet.Next() {
		if s.ChunkSeriesSet.At().Labels().Hash()%s.of == s.owner {
			return true
		}
	}
	return false
}

func (s split) At() storage.ChunkSeries {
	if s.names == nil {
		return s.ChunkSeriesSet.At()
	}
	return reducedSeries{s.ChunkSeriesSet.At(), s.names}
}

// reducedSeries has labels of some names only.
type reducedSeries struct {
	storage.ChunkSeries
	names []string
}

func (n reducedSeries) Labels() labels.Labels {
	return labels.NewBuilder(n.ChunkSeries.Labels()).Keep(n.names...).Labels()
}

var engine = promql.NewEngine(promql.EngineOpts{
	MaxSamples: 1e9, Timeout: time.Hour, EnableAtModifier: true, EnableNegativeOffset: true, Parser: parse,
})

// untrimmed has the engine read series in the order of their labels, so that sums are rounded
// in the same way, and chunks as a whole: cutting off what it does not look at panics
// if samples in between are deleted (tombstones.Intervals.Add).
type untrimmed struct{ storage.Queryable }

func (u untrimmed) Querier(int64, int64) (storage.Querier, error) {
	q, err := u.Queryable.Querier(math.MinInt64, math.MaxInt64)
	return wholeQuerier{q}, err
}

type wholeQuerier struct{ storage.Querier }

func (q wholeQuerier) Select(ctx context.Context, _ bool, _ *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(ctx, true, nil, ms...)
}

// executed is a query with its result, which is valid until it is closed.
type executed struct {
	promql.Query
	result *promql.Result
}

// execute has the engine evaluate a text.
func execute(tb testing.TB, db storage.Queryable, text string, g pushdown.Grid) executed {
	tb.Helper()
	ctx := context.Background()
	opts := promql.NewPrometheusQueryOpts(false, time.Duration(g.Lookback)*time.Millisecond)
	q, err := engine.NewRangeQuery(ctx, db, opts, text, time.UnixMilli(g.Start), time.UnixMilli(g.End),
		time.Duration(g.Step)*time.Millisecond)
	if g.Len() == 1 {
		q, err = engine.NewInstantQuery(ctx, db, opts, text, time.UnixMilli(g.Start))
	}
	if err != nil {
		tb.Fatal(text, err)
	}
	res := q.Exec(ctx)
	if res.Err != nil {
		tb.Fatal(text, res.Err)
	}
	return executed{q, res}
}

// ask asks the engine, and returns its answer by labels and time, and the samples that it
// looked at.
func ask(tb testing.TB, db storage.Queryable, text string, g pushdown.Grid) (map[string]map[int64]float64, int64) {
	tb.Helper()
	q := execute(tb, untrimmed{db}, text, g)
	defer q.Close()
	got := map[string]map[int64]float64{}
	put := func(ls labels.Labels, t int64, v float64) {
		if got[ls.String()] == nil {
			got[ls.String()] = map[int64]float64{}
		}
		got[ls.String()][t] = v
	}
	switch v := q.result.Value.(type) {
	case promql.Matrix:
		for _, s := range v {
			for _, p := range s.Floats {
				put(s.Metric, p.T, p.F)
			}
		}
	case promql.Vector:
		for _, s := range v {
			put(s.Metric, s.T, s.F)
		}
	}
	return got, q.Stats().Samples.TotalSamples
}

// always has a merge go on.
func always() error { return nil }
