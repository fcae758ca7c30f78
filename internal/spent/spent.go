// Package spent carries through the context of a query that who asks wants to know what it takes,
// and back what it took: of each node, of each read.
//
// Without that wish nothing is measured, and the methods of what is nil do nothing.
package spent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// Owner is what a node measured of a read of its own series.
type Owner struct {
	// Waiting is the time until the read had its turn, Reading that in which series and chunks
	// were looked up and read, and Evaluating the rest until the answer was complete.
	Waiting, Reading, Evaluating time.Duration
	// Series and Samples were read, those too that turn out to be of no use.
	Series, Samples int64
}

// Tell has a span say what was measured. It does nothing of nil.
func (o *Owner) Tell(s *tracing.Span) {
	if o == nil {
		return
	}
	s.Set(tracing.Samples(o.Samples), tracing.Int("starling.series.read", o.Series), tracing.Seconds("starling.waiting", o.Waiting),
		tracing.Seconds("starling.reading", o.Reading), tracing.Seconds("starling.evaluating", o.Evaluating))
}

// Node is what a read took of one node.
type Node struct {
	ID table.NodeID
	// Took is the time from the question to the end of the answer.
	Took time.Duration
	// Bytes came from the node, as messages are encoded; 0 from the node that asks.
	Bytes int64
	// Series are those of the answer, rows that of a part of a query.
	Series int64
	// Failed is why the answer was not used, "" if it was.
	Failed string
	// Owner is nil if the node has not said what it measured.
	Owner *Owner
}

// Tell has a span say what the read took.
func (n *Node) Tell(s *tracing.Span) {
	s.Set(tracing.Series(n.Series), tracing.Bytes(n.Bytes))
	n.Owner.Tell(s)
}

// Read is what one read took, of a part of a query that owners evaluate or of series as they are
// stored. It may be used by several goroutines.
type Read struct {
	// Selector selects series as they are stored; "" where owners evaluate.
	Selector string

	mu    sync.Mutex
	took  Took
	nodes []Node
}

// Took is the time that a read took, begun again included.
type Took struct {
	Total time.Duration
	// Proving is the part of it in which nodes were asked what they hold.
	Proving time.Duration
}

// Answered notes what a node took.
func (r *Read) Answered(n Node) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = append(r.nodes, n)
}

// Proved notes that the nodes have said what they hold.
func (r *Read) Proved(took time.Duration) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took.Proving += took
}

// Ended notes that the read has.
func (r *Read) Ended(took time.Duration) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took.Total = took
}

// Noted returns what was noted so far: the nodes in the order in which they answered, each as often as it was
// asked.
func (r *Read) Noted() (Took, []Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.took, slices.Clone(r.nodes)
}

// Query collects the reads of a query, or of a part of one. It may be used by several goroutines.
type Query struct {
	mu    sync.Mutex
	reads []*Read
}

type contextKey struct{}

// With returns a context whose reads are noted in the query that it returns, and in no other.
func With(ctx context.Context) (context.Context, *Query) {
	q := &Query{}
	return context.WithValue(ctx, contextKey{}, q), q
}

// Of returns what the reads in ctx are noted in, nil if nobody wants to know.
func Of(ctx context.Context) *Query {
	q, _ := ctx.Value(contextKey{}).(*Query)
	return q
}

// Begin notes a read of a selector, "" for none. Of nil it is nil.
func (q *Query) Begin(selector string) *Read {
	if q == nil {
		return nil
	}
	r := &Read{Selector: selector}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reads = append(q.reads, r)
	return r
}

// Reads returns those that have begun, in that order; none of nil.
func (q *Query) Reads() []*Read {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.reads)
}
