package query

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// note has what the request takes noted, if the context of its query says that somebody wants to
// know, or has a span that is to say it. Who calls it calls what it returns when the read has ended.
// A read of series has a selector.
func (r *SelectRequest) note(ctx context.Context, selector func() string) (ended func()) {
	wanted, span := spent.Of(ctx), tracing.Of(ctx)
	switch {
	case wanted != nil:
		r.read = wanted.Begin(selector())
	case span != nil:
		r.read = &spent.Read{Selector: selector()} // The spans say what is noted.
	default:
		return func() {}
	}
	if r.read.Selector != "" {
		span.Set(tracing.Text("starling.selector", r.read.Selector))
	}
	began := time.Now()
	return func() { r.read.Ended(time.Since(began)) }
}

// selectorText is how PromQL has matchers.
func selectorText(ms []*labels.Matcher) func() string {
	return func() string {
		s := parser.VectorSelector{LabelMatchers: ms}
		for _, m := range ms {
			if m.Name == labels.MetricName && m.Type == labels.MatchEqual {
				s.Name = m.Value
			}
		}
		return s.String()
	}
}

// noSelector is of parts of queries, which have a text of their own.
func noSelector() string { return "" }

// noted notes what each node takes that is asked, in a read that may be nil. Rows says how many
// an answer has.
func noted[T any](ask asking[T], read *spent.Read, rows func(T) int) asking[T] {
	if read == nil {
		return ask
	}
	return func(req SelectRequest) question[T] {
		return func(ctx context.Context, n Node, sh *share) (T, error) {
			node := &spent.Node{ID: n.ID}
			own := req
			own.Spent = node
			began := time.Now()
			answer, err := ask(own)(ctx, n, sh)
			if errors.Is(err, ErrManySeries) {
				return answer, err // the node is about to be asked for its share
			}
			node.Took = time.Since(began)
			if err != nil {
				node.Failed = err.Error()
			} else {
				node.Series = int64(rows(answer))
			}
			read.Answered(*node)
			node.Tell(tracing.Of(ctx))
			return answer, err
		}
	}
}

// endAsked ends the span of what a node was asked in ctx.
func endAsked(ctx context.Context, span *tracing.Span, err error) {
	if span == nil {
		return
	}
	if silent := context.Cause(ctx); err != nil && errors.Is(silent, errSilent) {
		err = silent // and not what asking it ended with then
	}
	outcome := "answered"
	refused, _ := epochRefusal(err, 0)
	switch {
	case err == nil:
	case refused:
		outcome = "other epoch"
	case errors.Is(err, ErrManySeries):
		outcome, err = "divided", nil // all nodes are asked instead
	case ofQuery(err):
		outcome = "refused"
	case errors.Is(err, context.Canceled):
		outcome = "given up"
	default:
		outcome = "failed"
	}
	span.Set(tracing.Outcome(outcome))
	span.End(err)
}
