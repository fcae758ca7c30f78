package query

import (
	"context"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// errNotAlone keeps what several nodes serve together from being counted more than once.
var errNotAlone = &pushdown.UnprovenError{Reason: "not every series has an owner that is known to hold all of it"}

// Evaluate has the nodes evaluate a fragment, each over the series that it serves, and puts
// their answers together. An error that is an *pushdown.UnprovenError asks for the series as
// they are stored instead.
func (f *Fanout) Evaluate(ctx context.Context, fragment *pushdown.Fragment, g pushdown.Grid) (*pushdown.Partial, annotations.Annotations, error) {
	mint, maxt := fragment.Span(g)
	req := SelectRequest{
		Mint: mint, Maxt: maxt, Matchers: fragment.Matchers,
		Hints: &storage.SelectHints{Start: mint, End: maxt, Step: g.Step, Range: fragment.Range, DisableTrimming: true},
	}
	ask := func(req SelectRequest) question[*pushdown.Partial] {
		return func(ctx context.Context, n Node, sh *share) (*pushdown.Partial, error) {
			return n.Source.Evaluate(ctx, EvaluateRequest{SelectRequest: req.clone(), Fragment: fragment, Grid: g, Take: sh.take})
		}
	}
	rows := func(p *pushdown.Partial) int { return len(p.Values) }
	b := f.newBudget()
	answers, err := measured(ctx, f, "evaluate", func(ctx context.Context, view View) (gathered[*pushdown.Partial], error) {
		defer req.note(ctx, noSelector)()
		return readServing(ctx, f, view, b, req, noted(ask, req.read, rows), true)
	})
	if err != nil {
		return nil, answers.warnings, err
	}
	whole, err := fragment.Merge(g, answers.answers, func() error { return context.Cause(ctx) })
	return whole, answers.warnings, err
}
