package query

import (
	"fmt"
	"strings"

	"github.com/starling-tsdb/starling/internal/table"
)

// NodeError is the reason for which one node did not answer.
type NodeError struct {
	Node table.NodeID
	Err  error
}

// Error implements error.
func (e NodeError) Error() string { return fmt.Sprintf("%s: %s", e.Node, e.Err) }

// IncompleteError is the refusal to answer from too few nodes: acknowledged data might
// be missing. The caller may try again, or allow a partial answer.
//
// The errors of the nodes are deliberately not unwrapped: that a peer's call was
// canceled or timed out must not be taken for the client's cancellation.
type IncompleteError struct {
	// Nodes is the number of nodes that were asked.
	Nodes int
	// Copies is how many copies of one series those that are missing can own together,
	// Allowed how many a complete answer may lack.
	Copies, Allowed int
	// Missing are the nodes that did not answer, in the order of the table.
	Missing []NodeError
	// Epoch is set if a node refused because the table has changed, up to the last
	// attempt: then no number of other answers is enough.
	Epoch bool
}

// Error implements error.
func (e *IncompleteError) Error() string {
	if e.Nodes == 0 {
		return "incomplete answer: the table names no node"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "incomplete answer: %d of %d nodes did not answer, which can own %d copies of a series, and at most %d may be missing",
		len(e.Missing), e.Nodes, e.Copies, e.Allowed)
	if e.Epoch {
		b.WriteString(", and the table is changing")
	}
	writeReasons(&b, e.Missing)
	return b.String()
}

// Unavailable says that the same query may well succeed later: HTTP 503.
func (*IncompleteError) Unavailable() bool { return true }

// PartialWarning is the annotation of an answer that may lack acknowledged data because
// the caller allowed that.
type PartialWarning struct {
	Nodes   int
	Missing []NodeError
}

// Error implements error, which annotations are.
func (w *PartialWarning) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "partial answer: data may be missing, %d of %d nodes did not answer", len(w.Missing), w.Nodes)
	writeReasons(&b, w.Missing)
	return b.String()
}

func writeReasons(b *strings.Builder, missing []NodeError) {
	for i, m := range missing {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(m.Error())
	}
}

// TooManyBytesError ends a query that would hold more than it may. It is the query's
// fault, not the cluster's: HTTP 422.
type TooManyBytesError struct {
	// Limit is in bytes.
	Limit int64
}

// Error implements error.
func (e *TooManyBytesError) Error() string {
	return fmt.Sprintf("query processing would load too many bytes into memory: the limit of one query is %d bytes, of labels and chunks over all its selectors and all copies", e.Limit)
}
