package query

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/partial"
	"github.com/starling-tsdb/starling/internal/tracing"
)

const (
	// maxAttempts bounds how often one read begins because of a changing table. A
	// change takes a moment to reach everybody, and changes are rare.
	maxAttempts = 5

	// firstBackoff is the wait before the second attempt if the table is still the
	// same; it doubles with each further attempt, to 300 ms in all. A node that is
	// behind learns and syncs the table meanwhile.
	firstBackoff = 20 * time.Millisecond
)

var errTimeout = errors.New("no answer within the time allowed to a node")

// question is what a fan-out asks of each node. It takes the bytes of the answer from the
// share before it holds them.
type question[T any] func(ctx context.Context, n Node, sh *share) (T, error)

// patience is how long the nodes are waited for.
type patience struct {
	// timeout is how long a node may take before it counts as failed.
	timeout time.Duration
	// grace is how long the others are waited for once the answers are complete.
	grace time.Duration
}

// gathered is the answers that a read goes on with, in the order of the table.
type gathered[T any] struct {
	view     View
	answers  []T
	warnings annotations.Annotations
}

// gather asks all nodes and returns their answers if they are complete, or partial and
// allowed to be. Then a warning says so, and what is missing is noted in the context too,
// for those whose answers have no room for warnings. The answers it returns, and nothing
// else, stay counted in the budget.
func gather[T any](ctx context.Context, f *Fanout, b *budget, operation string, q question[T]) (gathered[T], error) {
	return measured(ctx, f, operation, func(ctx context.Context, view View) (gathered[T], error) {
		return gatherAttempts(ctx, f, view, b, patience{f.opts.Timeout, f.opts.Grace}, q)
	})
}

func gatherAttempts[T any](ctx context.Context, f *Fanout, view View, b *budget, wait patience, q question[T]) (gathered[T], error) {
	var err error
	for n := 1; err == nil; n++ {
		r := newRound[T](f, view, b, wait, n == maxAttempts)
		if g, again, err := r.run(ctx, q); !again {
			return g, err
		}
		f.metrics.restarts.Inc()
		view, err = f.nextView(ctx, view.Epoch, firstBackoff<<(n-1))
	}
	return gathered[T]{}, err
}

func (f *Fanout) view() (View, error) {
	view, err := f.opts.View()
	if err != nil {
		return View{}, fmt.Errorf("reading the table of nodes: %w", err)
	}
	return view, nil
}

// nextView returns a view to begin again with: at once if the table has changed, after
// the backoff if it has not.
func (f *Fanout) nextView(ctx context.Context, epoch uint64, backoff time.Duration) (View, error) {
	view, err := f.view()
	if err != nil || view.Epoch != epoch {
		return view, err
	}
	timer := time.NewTimer(backoff)
	defer timer.Stop()
	select {
	case <-timer.C:
		return f.view()
	case <-ctx.Done():
		return View{}, ctx.Err()
	}
}

// reply is what became of one node's question.
type reply[T any] struct {
	node  int
	value T
	err   error
}

// round is one attempt: all nodes of one view, asked once.
type round[T any] struct {
	tally
	f       *Fanout
	view    View
	wait    patience
	last    bool        // there will be no further attempt
	shares  []share     // by node
	replies []*reply[T] // by node, nil while there is none
	behind  bool        // a node refused because its own table is older
}

func newRound[T any](f *Fanout, view View, b *budget, wait patience, last bool) *round[T] {
	r := &round[T]{
		tally:   view.tally(),
		f:       f,
		view:    view,
		wait:    wait,
		last:    last,
		shares:  make([]share, len(view.Nodes)),
		replies: make([]*reply[T], len(view.Nodes)),
	}
	for i := range r.shares {
		r.shares[i].budget = b
	}
	return r
}

// run asks all nodes and turns what became of it into a result, unless the read has to
// begin again.
func (r *round[T]) run(ctx context.Context, q question[T]) (g gathered[T], again bool, err error) {
	used := false
	defer func() { r.closeShares(used) }()
	if err := r.ask(ctx, q); err != nil {
		return gathered[T]{}, false, err
	}
	if r.restart() {
		return gathered[T]{}, true, nil
	}
	g, err = r.conclude(ctx)
	used = err == nil
	return g, false, err
}

// closeShares ends what the nodes take, and gives back what is not part of an answer
// that is used: what the questions still open hold is garbage as soon as they notice.
func (r *round[T]) closeShares(used bool) {
	var taken int64
	for i, rep := range r.replies {
		taken += r.shares[i].close(used && rep != nil && rep.err == nil)
	}
	r.f.metrics.bytes.Add(float64(taken))
}

// ask asks all nodes of the view. It returns when every node has answered or failed, a
// grace after the answers are complete, or when they cannot become complete and a
// partial answer is not wanted. Questions still open are canceled and not waited for:
// what they would return is dropped.
func (r *round[T]) ask(ctx context.Context, q question[T]) error {
	actx, cancel := context.WithCancel(ctx)
	defer cancel()

	replies := make(chan *reply[T], len(r.outcomes))
	for i, node := range r.view.Nodes {
		go func() {
			value, err := askNode(actx, r.f, node, &r.shares[i], q)
			replies <- &reply[T]{node: i, value: value, err: err}
		}()
	}

	wantAll := partial.Allowed(ctx)
	timeout := time.NewTimer(r.wait.timeout)
	defer timeout.Stop()
	var grace <-chan time.Time
	for !r.settled() {
		select {
		case rep := <-replies:
			// A canceled read makes nodes fail: that is not their fault.
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.add(rep); err != nil {
				return err
			}
		case <-grace:
			r.f.metrics.abandoned.Add(float64(r.count(isOpen)))
			return nil
		case <-timeout.C:
			r.failOpen(errTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case r.ahead && !r.last, r.hopeless() && (!wantAll || r.behind && !r.last):
			return nil
		case r.complete() && grace == nil:
			timer := time.NewTimer(r.wait.grace)
			defer timer.Stop()
			grace = timer.C
		}
	}
	return nil
}

// askNode asks one node. A panic is that node's failure: corrupt data that is mapped
// into memory shows itself in this way.
func askNode[T any](ctx context.Context, f *Fanout, node Node, sh *share, q question[T]) (value T, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends a stream that was not read to its end
	ctx, span := tracing.Ask(ctx, "ask", tracing.Peer(node.ID))
	defer func() { endAsked(ctx, span, err) }()

	// A mapped file that lost its end raises a fault, which ends the process unless
	// the goroutine asks for a panic.
	debug.SetPanicOnFault(true)
	defer func() {
		if err != nil {
			// What failed is dropped, and must not fail the others.
			sh.close(false)
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			f.opts.Logger.Error("panic while reading from a node",
				"node", node.ID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic while reading: %v", p)
		}
	}()
	return q(ctx, node, sh)
}

// add takes a reply into account. It returns an error that ends the read as a whole.
func (r *round[T]) add(rep *reply[T]) error {
	r.replies[rep.node] = rep
	if rep.err == nil {
		r.outcomes[rep.node] = hasAnswered
		return nil
	}
	if ofQuery(rep.err) {
		return rep.err
	}
	r.outcomes[rep.node] = hasFailed
	reason := "error"
	if refused, behind := epochRefusal(rep.err, r.view.Epoch); refused {
		reason = "epoch"
		r.behind = r.behind || behind
		r.ahead = r.ahead || !behind
	}
	r.f.fail(r.view.Nodes[rep.node], reason, rep.err)
	return nil
}

// failOpen fails all nodes that have not answered.
func (r *round[T]) failOpen(err error) {
	for i := range r.replies {
		if r.replies[i] == nil {
			r.replies[i] = &reply[T]{node: i, err: err}
			r.outcomes[i] = hasFailed
			r.f.fail(r.view.Nodes[i], "timeout", err)
		}
	}
}

func (f *Fanout) fail(n Node, reason string, err error) {
	f.metrics.nodeFailures.WithLabelValues(reason).Inc()
	f.opts.Logger.Debug("a node did not answer a read", "node", n.ID, "reason", reason, "err", err)
}

// restart tells whether the read has to begin again. A node that is behind is no more
// than missing: if the others are enough, nobody waits for it. The last attempt counts
// whatever came of it.
func (r *round[T]) restart() bool {
	return !r.last && (r.ahead || r.behind && !r.complete())
}

// conclude turns the round into a result.
func (r *round[T]) conclude(ctx context.Context) (gathered[T], error) {
	g := gathered[T]{view: r.view}
	var missing []NodeError
	for i, rep := range r.replies {
		switch {
		case rep == nil:
		case rep.err != nil:
			missing = append(missing, NodeError{Node: r.view.Nodes[i].ID, Err: rep.err})
		default:
			g.answers = append(g.answers, rep.value)
		}
	}
	if r.complete() {
		return g, nil
	}
	if partial.Allowed(ctx) && r.count(hasAnswered) > 0 {
		for _, m := range missing {
			partial.Note(ctx, m.Error())
		}
		g.warnings.Add(&PartialWarning{Nodes: len(r.outcomes), Missing: missing})
		return g, nil
	}
	return gathered[T]{}, &IncompleteError{
		Nodes: len(r.outcomes), Copies: r.lacking(), Allowed: r.allowed(), Missing: missing, Epoch: r.ahead,
	}
}

// epochRefusal tells whether a node refused because it is not at our epoch, and whether
// it is known to be at an older one.
func epochRefusal(err error, epoch uint64) (refused, behind bool) {
	var changed interface{ EpochChanged() bool }
	if !errors.As(err, &changed) || !changed.EpochChanged() {
		return false, false
	}
	var at interface{ NodeEpoch() uint64 }
	return true, errors.As(err, &at) && at.NodeEpoch() < epoch
}
