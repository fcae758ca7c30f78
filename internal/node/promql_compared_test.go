package node

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/pushdown"
)

// comparedEngine answers scripts by Prometheus's engine, with the features that they need, and
// has each query evaluated twice more, without these: as a whole, and in parts.
type comparedEngine struct {
	*promql.Engine
	t              *testing.T
	evaluator      *scriptEvaluator
	whole, inParts promql.QueryEngine
}

func (e *comparedEngine) open(evaluator *scriptEvaluator) promql.QueryEngine {
	opts := api.EngineOptions{
		Parser:     e.evaluator.parser.Parser,
		MaxSamples: promqltest.DefaultMaxSamplesPerQuery, Timeout: 100 * time.Second, LookbackDelta: 5 * time.Minute, MaxConcurrent: 10,
	}
	if evaluator != nil {
		opts.Evaluator = evaluator
	}
	engine, err := api.NewEngine(opts)
	if err != nil {
		e.t.Fatal(err)
	}
	return engine
}

// NewInstantQuery implements promql.QueryEngine.
func (e *comparedEngine) NewInstantQuery(ctx context.Context, q promstorage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	e.compare(ctx, fmt.Sprintf("%s at %d", qs, ts.UnixMilli()), func(engine promql.QueryEngine) (promql.Query, error) {
		return engine.NewInstantQuery(ctx, q, opts, qs, ts)
	})
	return e.Engine.NewInstantQuery(ctx, q, opts, qs, ts)
}

// NewRangeQuery implements promql.QueryEngine.
func (e *comparedEngine) NewRangeQuery(ctx context.Context, q promstorage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, interval time.Duration) (promql.Query, error) {
	e.compare(ctx, fmt.Sprintf("%s from %d to %d by %s", qs, start.UnixMilli(), end.UnixMilli(), interval), func(engine promql.QueryEngine) (promql.Query, error) {
		return engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	})
	return e.Engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
}

func (e *comparedEngine) compare(ctx context.Context, name string, open func(promql.QueryEngine) (promql.Query, error)) {
	e.t.Helper()
	run := func(engine promql.QueryEngine) outcome {
		q, err := open(engine)
		if err != nil {
			return outcome{err: err.Error()}
		}
		defer q.Close()
		return outcomeOf(q, q.Exec(ctx))
	}
	whole, inParts := run(e.whole), run(e.inParts)
	if diff := whole.diff(inParts); diff != "" {
		e.t.Errorf("%s, in parts: %s", name, diff)
	}
}

// outcome is what a query gives, in a form to compare.
type outcome struct {
	err      string
	warnings []string
	looked   int64
	values   map[string]float64 // by series and time
	others   map[string]string  // histograms, as those
}

func outcomeOf(q promql.Query, res *promql.Result) outcome {
	o := outcome{values: map[string]float64{}, others: map[string]string{}, looked: q.Stats().Samples.TotalSamples}
	warnings, infos := res.Warnings.AsStrings(q.String(), 0, 0)
	o.warnings = slices.Sorted(slices.Values(append(warnings, infos...)))
	if res.Err != nil {
		o.err = res.Err.Error()
		return o
	}
	add := func(ls labels.Labels, t int64, f float64, h any, float bool) {
		key := fmt.Sprintf("%s at %d", ls, t)
		if float {
			o.values[key] = f
		} else {
			o.others[key] = fmt.Sprint(h)
		}
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		for _, s := range v {
			add(s.Metric, s.T, s.F, s.H, s.H == nil)
		}
	case promql.Matrix:
		for _, s := range v {
			for _, p := range s.Floats {
				add(s.Metric, p.T, p.F, nil, true)
			}
			for _, p := range s.Histograms {
				add(s.Metric, p.T, 0, p.H, false)
			}
		}
	default:
		o.others["value"] = fmt.Sprint(res.Value)
	}
	return o
}

// diff describes a difference that rounding does not explain.
func (o outcome) diff(other outcome) string {
	switch {
	case o.err != other.err:
		return fmt.Sprintf("error %q instead of %q", other.err, o.err)
	case !slices.Equal(o.warnings, other.warnings):
		return fmt.Sprintf("warnings %q instead of %q", other.warnings, o.warnings)
	case o.looked != other.looked:
		return fmt.Sprintf("%d samples looked at instead of %d", other.looked, o.looked)
	case len(o.values) != len(other.values) || fmt.Sprint(o.others) != fmt.Sprint(other.others):
		return fmt.Sprintf("%v %v instead of %v %v", other.values, other.others, o.values, o.others)
	}
	for key, v := range o.values {
		w, ok := other.values[key]
		if !ok || !alike(v, w) {
			return fmt.Sprintf("%s: %v (%t) instead of %v", key, w, ok, v)
		}
	}
	return ""
}

// alike tells whether two numbers differ by rounding at most.
func alike(a, b float64) bool {
	return a == b || math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) <= 1e-12*max(math.Abs(a), math.Abs(b))
}

// scriptEvaluator evaluates fragments over the present generation.
type scriptEvaluator struct {
	parser          pushdown.Parser
	storage         *scriptStorage
	parts, unproven int
}

// Evaluate implements api.Evaluator.
func (e *scriptEvaluator) Evaluate(ctx context.Context, f *pushdown.Fragment, g pushdown.Grid) (*pushdown.Partial, annotations.Annotations, error) {
	expr, err := e.parser.Parser.ParseExpr(f.Text)
	if err != nil {
		return nil, nil, err
	}
	own := labels.MustNewMatcher(labels.MatchEqual, generation, e.storage.generation)
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			s.LabelMatchers = append(s.LabelMatchers, own)
		}
		return nil
	})
	if f, err = e.parser.Read(expr.String()); err != nil {
		return nil, nil, err
	}
	part, warnings, err := e.storage.reader.reads.Evaluate(ctx, f, g)
	if err != nil {
		e.unproven++
		return nil, warnings, err
	}
	e.parts++
	for i := range part.Values {
		v := &part.Values[i]
		v.Labels = labels.NewBuilder(v.Labels).Del(generation).Labels()
	}
	return part, warnings, nil
}
