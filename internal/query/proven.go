package query

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/tracing"
)

const (
	// stateTimeout bounds how long a node may take to say what it holds. It reads nothing
	// for that.
	stateTimeout = 5 * time.Second
	// stateGrace is how long the others are waited for when enough have said it, so that
	// all of a healthy cluster serve.
	stateGrace = 25 * time.Millisecond

	// watchInterval is how often a node that serves is asked whether it is still there, and
	// silence is how long it may take to answer that.
	watchInterval = time.Second
	silence       = 2 * time.Second
)

var (
	errDamaged = errors.New("what the node holds of this range is damaged")
	errExpired = errors.New("samples of this range are expired on the node that are not expired here; is --storage.tsdb.retention.time the same, and the clock?")
	errSilent  = errors.New("the node fell silent")
)

// selected reads series: each from one owner, if the view allows that, and from all nodes if
// not.
func (f *Fanout) selected(ctx context.Context, b *budget, req SelectRequest) (gathered[answer], error) {
	rows := func(a answer) int { return len(a.series) }
	return measured(ctx, f, "select", func(ctx context.Context, view View) (gathered[answer], error) {
		defer req.note(ctx, selectorText(req.Matchers))()
		return readServing(ctx, f, view, b, req, noted(f.readAll, req.read, rows), false)
	})
}

// measured runs a read by the present view, in a span of its own, and counts it.
func measured[T any](ctx context.Context, f *Fanout, operation string, do func(context.Context, View) (gathered[T], error)) (gathered[T], error) {
	ctx, span := tracing.Start(ctx, operation)
	view, err := f.view()
	var g gathered[T]
	if err == nil {
		g, err = do(ctx, view)
	}
	span.End(err)
	f.metrics.requests.WithLabelValues(operation, result(err, len(g.warnings) > 0)).Inc()
	return g, err
}

// asking makes the question of a request.
type asking[T any] func(SelectRequest) question[T]

// readServing asks who serves. With alone set it fails with an *pushdown.UnprovenError unless each
// series is served by one node.
func readServing[T any](ctx context.Context, f *Fanout, view View, b *budget, req SelectRequest, ask asking[T], alone bool) (gathered[T], error) {
	switch {
	case view.Assignment != nil:
		return proven(ctx, f, view, b, req, ask, alone)
	case alone:
		return gathered[T]{}, errNotAlone
	default:
		return gatherAttempts(ctx, f, view, b, patience{f.opts.Timeout, f.opts.Grace}, ask(req))
	}
}

// readAll asks a node for the series that it holds, or that it serves under the proof.
func (f *Fanout) readAll(req SelectRequest) question[answer] {
	return func(ctx context.Context, n Node, sh *share) (answer, error) {
		return collect(ctx, n.Source, req.clone(), sh)
	}
}

// stated is what a node said in round one.
type stated struct {
	Node
	state proof.State
}

// proven reads each series once. Round one asks all nodes what they hold, round two asks
// those that answered for what each of them serves. If one of them fails then, the query
// begins again without it: answers to different proofs are never mixed.
func proven[T any](ctx context.Context, f *Fanout, view View, b *budget, req SelectRequest, ask asking[T], alone bool) (gathered[T], error) {
	failed := map[table.NodeID]error{}
	for n := 1; ; n++ {
		states, err := f.prove(ctx, view, b, &req, failed)
		if err != nil {
			return gathered[T]{warnings: states.warnings}, err
		}
		if states.view.Assignment == nil {
			// The table has changed meanwhile.
			return readServing(ctx, f, states.view, b, req, ask, alone)
		}
		g, err := serve(ctx, f, b, req, states, ask, alone)
		if err == nil {
			return g, nil
		}
		node, ok := errors.AsType[NodeError](err)
		if !ok {
			return gathered[T]{}, err
		}
		f.metrics.restarts.Inc()
		if refused, _ := epochRefusal(node.Err, 0); !refused {
			failed[node.Node] = node.Err
			if view, err = f.view(); err != nil {
				return gathered[T]{}, err
			}
			continue
		}
		if n >= maxAttempts {
			counted := states.view.tally()
			return gathered[T]{}, &IncompleteError{
				Nodes: len(states.view.Nodes), Copies: 1, Allowed: counted.allowed(), Missing: []NodeError{node}, Epoch: true,
			}
		}
		if view, err = f.nextView(ctx, states.view.Epoch, firstBackoff<<(n-1)); err != nil {
			return gathered[T]{}, err
		}
	}
}

// prove is round one.
func (f *Fanout) prove(ctx context.Context, view View, b *budget, req *SelectRequest, failed map[table.NodeID]error) (gathered[stated], error) {
	began := time.Now()
	ctx, span := tracing.Start(ctx, "prove")
	states, err := gatherAttempts(ctx, f, view, b, patience{stateTimeout, stateGrace}, f.askState(req.span(), failed))
	span.End(err)
	req.read.Proved(time.Since(began))
	return states, err
}

// askState is the question of round one. Nodes that failed in round two fail at once.
func (f *Fanout) askState(span proof.Range, failed map[table.NodeID]error) question[stated] {
	failed = maps.Clone(failed)
	return func(ctx context.Context, n Node, _ *share) (stated, error) {
		if err := failed[n.ID]; err != nil {
			return stated{}, err
		}
		state, err := n.Source.State(ctx)
		kept := span.From(f.opts.Horizon()) // as it is with what this one said
		switch {
		case err != nil:
		case state.Damaged(kept):
			err = errDamaged
		case state.Past(kept):
			err = errExpired
		}
		return stated{n, state}, err
	}
}

// serve is round two. An error that is a NodeError says which node failed.
func serve[T any](ctx context.Context, f *Fanout, b *budget, req SelectRequest, states gathered[stated], ask asking[T], alone bool) (gathered[T], error) {
	assigned := states.view.Assignment
	bySlot := make([]*proof.State, len(assigned.Slots))
	for i := range states.answers {
		bySlot[states.answers[i].Slot] = &states.answers[i].state
	}
	req.keep(f.opts.Horizon())
	req.Proof = proof.New(assigned, bySlot, req.span().Max)
	if alone && !req.Proof.Alone(assigned) {
		return gathered[T]{}, errNotAlone
	}
	if near, ok := f.nearby(req, states); ok {
		g, err := askServing(ctx, f, b, near.req, near.states, ask)
		f.metrics.nearby.WithLabelValues(nearbyResult(err)).Inc()
		if !errors.Is(err, ErrManySeries) {
			return g, err
		}
	}
	return askServing(ctx, f, b, req, states, ask)
}

// askServing asks all that serve under the proof of the request.
func askServing[T any](ctx context.Context, f *Fanout, b *budget, req SelectRequest, states gathered[stated], ask asking[T]) (gathered[T], error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shares := make([]share, len(states.answers))
	replies := make(chan *reply[T], len(states.answers))
	for i, s := range states.answers {
		shares[i].budget = b
		go func() {
			value, err := askWatched(ctx, f, s.Node, &shares[i], ask(req))
			replies <- &reply[T]{node: i, value: value, err: err}
		}()
	}
	g := gathered[T]{view: states.view, warnings: states.warnings, answers: make([]T, len(states.answers))}
	err := await(ctx, f, states.answers, replies, g.answers)
	var taken int64
	for i := range shares {
		taken += shares[i].close(err == nil)
	}
	f.metrics.bytes.Add(float64(taken))
	return g, err
}

// await fills in the answers of all that serve. It returns with the first failure; what the
// others would answer is dropped.
func await[T any](ctx context.Context, f *Fanout, serving []stated, replies <-chan *reply[T], answers []T) error {
	for range serving {
		select {
		case rep := <-replies:
			// A canceled read makes nodes fail: that is not their fault.
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if rep.err != nil {
				return f.blame(serving[rep.node].Node, rep.err)
			}
			answers[rep.node] = rep.value
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// blame turns the failure of a node into the error of a round.
func (f *Fanout) blame(n Node, err error) error {
	if ofQuery(err) {
		return err
	}
	reason := "error"
	if refused, _ := epochRefusal(err, 0); refused {
		reason = "epoch"
	}
	f.fail(n, reason, err)
	return NodeError{Node: n.ID, Err: err}
}

// ofQuery tells whether an error is one of the query, whoever it comes from.
func ofQuery(err error) bool {
	return overLimit(err) || isUnproven(err) || errors.Is(err, ErrManySeries)
}

// overLimit tells whether a read needs more than its query may have.
func overLimit(err error) bool {
	if _, tooMany := errors.AsType[*TooManyBytesError](err); tooMany {
		return true
	}
	if _, tooMany := errors.AsType[promql.ErrTooManySamples](err); tooMany {
		return true
	}
	_, tooMany := errors.AsType[*series.TooManyLabelsError](err)
	return tooMany
}

func isUnproven(err error) bool {
	_, unproven := errors.AsType[*pushdown.UnprovenError](err)
	return unproven
}

// askWatched asks a node and gives it up when it falls silent: one that takes its time still
// says what it holds, one that hangs does not.
func askWatched[T any](ctx context.Context, f *Fanout, n Node, sh *share, q question[T]) (T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go watch(tracing.Without(ctx), n, cancel)
	a, err := askNode(ctx, f, n, sh, q)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = context.Cause(ctx)
	}
	return a, err
}

func watch(ctx context.Context, n Node, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		asked, done := context.WithTimeout(ctx, silence)
		_, err := n.Source.State(asked)
		done()
		if err != nil && ctx.Err() == nil {
			if refused, _ := epochRefusal(err, 0); !refused {
				cancel(fmt.Errorf("%w: %w", errSilent, err))
				return
			}
		}
	}
}
