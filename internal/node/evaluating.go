package node

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/util/gate"

	"github.com/starling-tsdb/starling/internal/evaluate"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/transport"
)

// turns bound how many reads of a kind run at once on a node, its own as those for peers: each may
// hold what --query.max-samples allows, and keep all cores busy.
type turns struct {
	gate             *gate.Gate
	running, waiting prometheus.Gauge
}

// readsAtOnce is how many run at once: enough that cores have work while the disk is waited for.
func readsAtOnce() int { return max(2, 2*runtime.GOMAXPROCS(0)) }

func newTurns(limit int, r prometheus.Registerer, name, running, waiting string) *turns {
	f := promauto.With(r)
	return &turns{
		gate:    gate.New(limit),
		running: f.NewGauge(prometheus.GaugeOpts{Name: name + "_running", Help: running}),
		waiting: f.NewGauge(prometheus.GaugeOpts{Name: name + "_waiting", Help: waiting}),
	}
}

// newEvaluations bounds evaluations. A turn is held while the own store is read and never while
// something is waited for, so two nodes cannot wait for each other.
func newEvaluations(limit int, r prometheus.Registerer) *turns {
	return newTurns(limit, r, "starling_query_evaluations",
		"Parts of queries, of this node and of peers, that are being evaluated over this node's series.",
		"Parts of queries that wait for others to be evaluated over this node's series.")
}

// newLabelLists bounds lists of label names and values. A turn is held until the list has been sent,
// as it is in memory until then; who is sent one takes it whatever else it waits for, or breaks off.
func newLabelLists(limit int, r prometheus.Registerer) *turns {
	return newTurns(limit, r, "starling_query_label_lists",
		"Lists of label names or values of this node's series that are being made, for this node and for peers.",
		"Lists of label names or values that wait for others to be made of this node's series.")
}

// begin waits for a turn while ctx lasts. Who gets one calls end.
func (t *turns) begin(ctx context.Context) (end func(), err error) {
	t.waiting.Inc()
	err = t.gate.Start(ctx)
	t.waiting.Dec()
	if err != nil {
		return nil, context.Cause(ctx)
	}
	t.running.Inc()
	return func() {
		t.running.Dec()
		t.gate.Done()
	}, nil
}

// Evaluate implements transport.Reader.
func (r reader) Evaluate(ctx context.Context, sel transport.Selection, fragment string, g pushdown.Grid) (*pushdown.Partial, error) {
	f, err := r.node.promql.Read(fragment)
	if err != nil {
		// Another version, or other features, may know it.
		return nil, &pushdown.UnprovenError{Reason: "a node cannot evaluate it: " + err.Error()}
	}
	return r.evaluate(ctx, reading{Selection: sel}, f, g)
}

// evaluate evaluates a fragment over the series that a selection of it leaves. They need not be
// sorted: nothing depends on their order.
func (r reader) evaluate(ctx context.Context, sel reading, f *pushdown.Fragment, g pushdown.Grid) (_ *pushdown.Partial, err error) {
	came := time.Now()
	end, err := r.node.evaluations.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	turn := time.Now()
	sel.labels, sel.looks = f.LabelsRead(), f.Looks(g)
	set, err := r.selected(ctx, sel)
	if sel.Spent != nil {
		defer func() { noteEvaluation(sel.Spent, set, turn.Sub(came), turn) }()
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	return evaluate.Series(ctx, set, evaluate.Options{
		Fragment: f, Grid: g, MaxSamples: r.node.opts.Config.Query.MaxSamples, Workers: runtime.GOMAXPROCS(0),
	})
}
