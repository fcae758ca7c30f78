package query

import (
	"context"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// LabelNames implements storage.LabelQuerier.
func (r *reader) LabelNames(ctx context.Context, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return r.labels(ctx, "label_names", "", hints, matchers)
}

// LabelValues implements storage.LabelQuerier.
func (r *reader) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	if name == "" {
		return nil, nil, nil // No series has it, and names are asked for like this.
	}
	return r.labels(ctx, "label_values", name, hints, matchers)
}

// labels asks all nodes and returns what any of them knows, in order. Each node may stop at the limit, since the first
// strings of all are among the first of each. As with Prometheus's own queriers the caller asks for
// one more than it wants and warns if it gets it.
func (r *reader) labels(ctx context.Context, operation, name string, hints *storage.LabelHints, matchers []*labels.Matcher) ([]string, annotations.Annotations, error) {
	q := series.LabelQuery{Name: name, Mint: r.mint, Maxt: r.maxt, Matchers: slices.Clone(matchers)}
	if hints != nil {
		q.Limit = max(0, hints.Limit)
	}
	g, err := measured(ctx, r.f, operation, func(ctx context.Context, view View) (gathered[[]string], error) {
		return r.f.list(ctx, view, r.budget, q)
	})
	if err != nil {
		return nil, nil, err
	}
	longest := 0
	for _, a := range g.answers {
		longest = max(longest, len(a))
	}
	all := make([]string, 0, longest)
	merge.Strings(g.answers, func(s string) bool {
		if q.Limit > 0 && len(all) == q.Limit {
			return false
		}
		if len(all)%lookEvery == 0 && ctx.Err() != nil {
			err = ctx.Err()
			return false
		}
		all = append(all, s)
		return true
	})
	return all, g.warnings, err
}

// lookEvery is after how many strings the context is looked at.
const lookEvery = 1 << 12

// list asks for labels in two rounds. In the first one the nodes say in which state they are, so
// that one which came back from an old copy of its directory is found out. Who serves what is of
// no matter: each lists all that it holds, and when the lists are complete one of them has every
// acknowledged series.
func (f *Fanout) list(ctx context.Context, view View, b *budget, q series.LabelQuery) (gathered[[]string], error) {
	roll := &rollCall{ask: f.askState(proof.Range{Min: q.Mint, Max: q.Maxt}, nil), said: map[table.NodeID]said{}}
	for _, n := range view.Nodes {
		roll.said[n.ID] = said{err: errSilent}
	}
	states, err := gatherAttempts(ctx, f, view, b, patience{stateTimeout, stateGrace}, roll.call)
	if err != nil {
		return gathered[[]string]{}, err
	}
	// It may have risen by what they said.
	if q.Mint = max(q.Mint, f.opts.Horizon()); q.Mint > q.Maxt {
		return gathered[[]string]{warnings: states.warnings}, nil
	}
	roll.end()
	return gatherAttempts(ctx, f, states.view, b, patience{f.opts.Timeout, f.opts.Grace}, func(ctx context.Context, n Node, sh *share) ([]string, error) {
		session, err := roll.session(ctx, n, sh)
		if err != nil {
			return nil, err
		}
		own := q
		own.Session = session
		return n.Source.Labels(ctx, own, sh.take)
	})
}

// rollCall is what the nodes said of themselves. Several goroutines use it.
type rollCall struct {
	ask question[stated]

	mu   sync.Mutex
	said map[table.NodeID]said
	over bool
}

// said is the session of a node, or why it is not known.
type said struct {
	session uint64
	err     error
}

// call is the question of the first round.
func (r *rollCall) call(ctx context.Context, n Node, sh *share) (stated, error) {
	s, err := r.ask(ctx, n, sh)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.said[n.ID] = said{s.state.Session, err}
	}
	return s, err
}

// end has those that have not answered count as silent.
func (r *rollCall) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
}

// session returns what a node said. One that has come meanwhile is asked.
func (r *rollCall) session(ctx context.Context, n Node, sh *share) (uint64, error) {
	r.mu.Lock()
	s, called := r.said[n.ID]
	r.mu.Unlock()
	if called {
		return s.session, s.err
	}
	state, err := r.ask(ctx, n, sh)
	return state.state.Session, err
}
