package api

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// Evaluator evaluates a fragment of a query where its series are. An error that is an
// *pushdown.UnprovenError says that the fragment has to be evaluated over the series as they
// are stored.
type Evaluator interface {
	Evaluate(ctx context.Context, f *pushdown.Fragment, g pushdown.Grid) (*pushdown.Partial, annotations.Annotations, error)
}

// pushingEngine leaves the fragments of a query to an evaluator and the rest to Prometheus's
// engine, which finds the answers of fragments where it looks for series.
type pushingEngine struct {
	// rest has a parser that takes the fragments out, whole has not, and no queue: what it
	// evaluates is a part of a query that has had its turn.
	rest, whole *promql.Engine
	parser      pushdown.Parser
	evaluator   Evaluator
	lookback    time.Duration
	// outcomes counts fragments by what became of them.
	outcomes *prometheus.CounterVec
	// verifier is optional.
	verifier *verifier
}

// NewInstantQuery implements promql.QueryEngine.
func (e *pushingEngine) NewInstantQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	p, err := e.plan(q, opts, qs, ts, ts, 0)
	if err != nil {
		return nil, err
	}
	p.open = func(ctx context.Context, engine promql.QueryEngine) (promql.Query, error) {
		return engine.NewInstantQuery(ctx, q, opts, qs, ts)
	}
	return p.query(e.rest.NewInstantQuery(ctx, p, opts, qs, ts))
}

// NewRangeQuery implements promql.QueryEngine.
func (e *pushingEngine) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, interval time.Duration) (promql.Query, error) {
	p, err := e.plan(q, opts, qs, start, end, interval)
	if err != nil {
		return nil, err
	}
	p.open = func(ctx context.Context, engine promql.QueryEngine) (promql.Query, error) {
		return engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	}
	return p.query(e.rest.NewRangeQuery(ctx, p, opts, qs, start, end, interval))
}

func (e *pushingEngine) plan(q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, interval time.Duration) (*pushed, error) {
	plan, err := e.parser.Plan(qs)
	if err != nil {
		return nil, err
	}
	p := &pushed{
		engine: e, fragments: plan.Fragments, queryable: q, start: start, end: end, interval: interval,
		stats: map[*pushdown.Fragment]*FragmentStats{},
	}
	lookback := e.lookback
	if opts != nil && opts.LookbackDelta() > 0 {
		lookback = opts.LookbackDelta()
	}
	p.opts = promql.NewPrometheusQueryOpts(false, lookback)
	p.grid = pushdown.Grid{
		Start: start.UnixMilli(), End: end.UnixMilli(), Step: max(1, interval.Milliseconds()), Lookback: lookback.Milliseconds(),
	}
	p.whole = explainedSelectors(plan.Whole(&p.grid))
	for _, f := range plan.Fragments {
		if !f.Stored(p.grid) {
			p.stats[f] = &FragmentStats{Text: f.Trimmed(), Reads: []ReadStats{}}
		}
	}
	return p, nil
}

// pushed is a query whose fragments are evaluated elsewhere. It implements storage.Queryable.
type pushed struct {
	engine *pushingEngine
	// open opens the query that it is of with another engine.
	open       func(context.Context, promql.QueryEngine) (promql.Query, error)
	fragments  []*pushdown.Fragment
	queryable  storage.Queryable
	opts       promql.QueryOpts
	start, end time.Time
	interval   time.Duration
	grid       pushdown.Grid
	// spared are the samples that were looked at for the fragments, beyond those of their
	// answers.
	spared atomic.Int64
	// whole are the selectors whose series are read as they are stored.
	whole []ExplainedSelector

	mu sync.Mutex
	// stats are those of the fragments that are evaluated.
	stats map[*pushdown.Fragment]*FragmentStats
}

func (p *pushed) query(q promql.Query, err error) (promql.Query, error) {
	if err != nil {
		return nil, err
	}
	return pushedQuery{q, p}, nil
}

// pushedQuery counts what was looked at elsewhere.
type pushedQuery struct {
	promql.Query
	pushed *pushed
}

// Exec implements promql.Query.
func (q pushedQuery) Exec(ctx context.Context) *promql.Result {
	res := q.Query.Exec(ctx)
	q.Stats().Samples.TotalSamples += q.pushed.spared.Swap(0)
	if wanted := wantedStats(ctx); wanted != nil {
		wanted.fragments, wanted.whole = q.pushed.told(), q.pushed.whole
	}
	if whole, ok := errors.AsType[*wholeError](res.Err); ok {
		res.Err = whole.error
	}
	q.pushed.engine.verifier.consider(ctx, q, res)
	return res
}

// wholeError is what the engine says of a fragment, to which it adds nothing a second time.
type wholeError struct{ error }

// Unwrap returns what it was made of.
func (e *wholeError) Unwrap() error { return e.error }

// Querier implements storage.Queryable.
func (p *pushed) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := p.queryable.Querier(mint, maxt)
	return &pushedQuerier{q, p}, err
}

type pushedQuerier struct {
	storage.Querier
	query *pushed
}

// Select implements storage.Querier.
func (q *pushedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	if fragment, ok := pushdown.Answer(ms); ok {
		f := q.query.fragments[fragment]
		if !f.Stored(q.query.grid) {
			return q.query.begin(ctx, f)
		}
		ms = f.Matchers
	}
	return q.Querier.Select(ctx, sorted, hints, ms...)
}

// begin evaluates a fragment while the engine asks for others.
func (p *pushed) begin(ctx context.Context, f *pushdown.Fragment) *answerSet {
	s := &answerSet{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.rest, s.warnings, s.err = p.evaluate(ctx, f)
	}()
	return s
}

// evaluate evaluates a fragment one way or the other, and notes which and what it took.
func (p *pushed) evaluate(ctx context.Context, f *pushdown.Fragment) ([]promql.Series, annotations.Annotations, error) {
	began := time.Now()
	stats := FragmentStats{Text: f.Trimmed(), Evaluated: evaluatedInParts}
	outcome := "parts"
	var reads *spent.Query
	if spent.Of(ctx) != nil {
		ctx, reads = spent.With(ctx)
	}
	ctx, span := tracing.Start(ctx, "fragment")
	series, warnings, err := p.evaluateInParts(ctx, f, &stats)
	if unproven, ok := errors.AsType[*pushdown.UnprovenError](err); ok {
		stats.Evaluated, stats.Reason, outcome = evaluatedWhole, unproven.Reason, "whole"
		series, warnings, err = p.evaluateWhole(ctx, f, &stats)
	}
	if err != nil {
		outcome = "failed"
	}
	if f.Bare != nil && f.Offset != 0 {
		offset(series, f.Offset)
	}
	p.engine.outcomes.WithLabelValues(outcome).Inc()
	stats.Series, stats.Seconds, stats.Reads = len(series), time.Since(began).Seconds(), readStats(reads)
	endFragment(span, &stats, outcome, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	*p.stats[f] = stats
	return series, warnings, err
}

// told returns what is known of the fragments, in their order.
func (p *pushed) told() (all []FragmentStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.fragments {
		if s, evaluated := p.stats[f]; evaluated {
			all = append(all, *s)
		}
	}
	return all
}

// evaluateInParts evaluates a fragment where its series are. An error may be an
// *pushdown.UnprovenError.
func (p *pushed) evaluateInParts(ctx context.Context, f *pushdown.Fragment, stats *FragmentStats) ([]promql.Series, annotations.Annotations, error) {
	part, warnings, err := p.engine.evaluator.Evaluate(ctx, f, p.grid)
	if err != nil {
		return nil, warnings, err
	}
	stats.Samples = part.Samples
	if doubt := f.Doubt(); doubt != nil && part.Found {
		warnings.Add(doubt)
	}
	series := make([]promql.Series, 0, len(part.Values))
	var present int64
	for i := range part.Values {
		s, n := p.series(&part.Values[i], f.Op)
		series, present = append(series, s), present+n
	}
	p.spared.Add(part.Samples - present)
	return series, warnings, nil
}

// series returns what comes out of values, with stale markers at the steps without samples, and
// what the engine counts the samples as.
func (p *pushed) series(v *pushdown.Values, op parser.ItemType) (s promql.Series, present int64) {
	s = promql.Series{Metric: v.Labels, Floats: make([]promql.FPoint, 0, p.grid.Len())}
	absent := 0
	for step := range p.grid.Len() {
		t := p.grid.Start + int64(step)*p.grid.Step
		f, h, ok := v.At(op, step)
		if h != nil {
			s.Histograms = append(s.Histograms, promql.HPoint{T: t, H: h})
			continue
		}
		if !ok {
			f = stale
			absent++
		}
		s.Floats = append(s.Floats, promql.FPoint{T: t, F: f})
	}
	return s, int64(promql.Matrix{s}.TotalSamples() - absent)
}

// offset moves samples to where a selector with an offset, in milliseconds, looks for those of a step.
func offset(all []promql.Series, ms int64) {
	for _, s := range all {
		for i := range s.Floats {
			s.Floats[i].T -= ms
		}
		for i := range s.Histograms {
			s.Histograms[i].T -= ms
		}
	}
}

// stale is what keeps the engine from looking further back where there is no sample.
var stale = math.Float64frombits(value.StaleNaN)

// evaluateWhole evaluates a fragment over the series as they are stored.
func (p *pushed) evaluateWhole(ctx context.Context, f *pushdown.Fragment, stats *FragmentStats) ([]promql.Series, annotations.Annotations, error) {
	q, err := p.engine.whole.NewRangeQuery(ctx, p.queryable, p.opts, f.Text, p.start, p.end, max(p.interval, time.Millisecond))
	if err != nil {
		return nil, nil, err
	}
	// It is not closed: its samples are the answer.
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, res.Warnings, &wholeError{res.Err}
	}
	matrix, err := res.Matrix()
	stats.Samples = q.Stats().Samples.TotalSamples
	p.spared.Add(stats.Samples - int64(matrix.TotalSamples()))
	for i := range matrix {
		matrix[i].Floats = p.filled(&matrix[i])
	}
	return matrix, res.Warnings, err
}

// filled returns the floats of a series with stale markers at the steps where it has no sample.
func (p *pushed) filled(s *promql.Series) []promql.FPoint {
	filled := make([]promql.FPoint, 0, p.grid.Len()-len(s.Histograms))
	floats, histograms := s.Floats, s.Histograms
	for t := p.grid.Start; t <= p.grid.End; t += p.grid.Step {
		switch {
		case len(floats) > 0 && floats[0].T == t:
			filled, floats = append(filled, floats[0]), floats[1:]
		case len(histograms) > 0 && histograms[0].T == t:
			histograms = histograms[1:]
		default:
			filled = append(filled, promql.FPoint{T: t, F: stale})
		}
	}
	return filled
}

// answerSet implements storage.SeriesSet over the answer of a fragment. Its fields are set when
// done is closed.
type answerSet struct {
	done     chan struct{}
	rest     []promql.Series
	current  promql.Series
	warnings annotations.Annotations
	err      error
}

// Next implements storage.SeriesSet.
func (s *answerSet) Next() bool {
	<-s.done
	if s.err != nil || len(s.rest) == 0 {
		return false
	}
	s.current, s.rest = s.rest[0], s.rest[1:]
	return true
}

// At implements storage.SeriesSet.
func (s *answerSet) At() storage.Series { return promql.NewStorageSeries(s.current) }

// Err implements storage.SeriesSet.
func (s *answerSet) Err() error {
	<-s.done
	return s.err
}

// Warnings implements storage.SeriesSet.
func (s *answerSet) Warnings() annotations.Annotations {
	<-s.done
	return s.warnings
}
