package node

import (
	"context"
	"errors"
	"runtime"

	"github.com/starling-tsdb/starling/internal/evaluate"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/transport"
)

// Evaluate implements transport.Reader.
func (r reader) Evaluate(ctx context.Context, sel transport.Selection, fragment string, g pushdown.Grid) (*pushdown.Partial, error) {
	f, err := r.node.promql.Read(fragment)
	if err != nil {
		// Another version, or other features, may know it.
		return nil, &pushdown.UnprovenError{Reason: "a node cannot evaluate it: " + err.Error()}
	}
	return r.evaluate(ctx, sel, f, g)
}

// evaluate evaluates a fragment over the series that a selection of it leaves. They are not
// sorted: nothing depends on their order.
func (r reader) evaluate(ctx context.Context, sel transport.Selection, f *pushdown.Fragment, g pushdown.Grid) (_ *pushdown.Partial, err error) {
	set, err := r.selected(ctx, sel, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	return evaluate.Series(ctx, set, evaluate.Options{
		Fragment: f, Grid: g, MaxSamples: r.node.opts.Config.Query.MaxSamples, Workers: runtime.GOMAXPROCS(0),
	})
}
