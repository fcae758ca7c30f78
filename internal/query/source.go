package query

import (
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/table"
)

// Source is the data of one node: the local store or a peer.
//
// All methods may be called by several goroutines at once, return soon after ctx is
// done, and answer either with all that the node holds or with an error. An error that
// has a method EpochChanged() bool which returns true says that the node is not at the
// epoch of the request; if it also has a method NodeEpoch() uint64, that is the epoch
// the node is at. Every other error means that the node did not answer.
//
// Matchers and hints belong to the callee. Strings, labels, exemplars and metadata that
// a source returns are the caller's to keep.
type Source interface {
	// State returns what the node says of itself before it is asked for data.
	State(ctx context.Context) (proof.State, error)

	// Select returns the series that match, and that the node serves if the request has a
	// proof, sorted by labels, each with its chunks as
	// stored. Chunks are trimmed to the range unless the hints say otherwise. Hints are
	// never nil. Where Hints.Func is "series" only labels are read.
	//
	// The caller reads the chunks of a series before it calls Next again, and keeps no
	// bytes of a chunk beyond that. It is done with the set when Next has returned
	// false, or ctx is done because the caller wants no more of it. A set that is an
	// io.Closer is closed in either case, by the goroutine that iterates: that is the
	// moment at which a local store can let go of its blocks.
	Select(ctx context.Context, req SelectRequest) storage.ChunkSeriesSet

	// Evaluate returns what the node makes of a fragment, of the series that it serves under
	// the proof of the request, whose range and matchers are those of the fragment. An
	// *pushdown.UnprovenError, or promql's ErrTooManySamples, is an error of the query and not
	// of the node.
	Evaluate(ctx context.Context, req EvaluateRequest) (*pushdown.Partial, error)

	// Labels returns which labels the node knows, all or the first ones. Take is told of the
	// bytes of the answer before they are held; its error ends the request, which fails with it.
	// A *series.TooManyLabelsError is an error of the query and not of the node.
	Labels(ctx context.Context, q series.LabelQuery, take func(bytes int64) error) ([]string, error)

	// Exemplars returns the exemplars in the range of series that match one of the sets.
	Exemplars(ctx context.Context, start, end int64, matchers [][]*labels.Matcher) ([]exemplar.QueryResult, error)

	// Metadata returns what is known of one metric family, or of all if metric is
	// empty. A negative limit, of families, and a limitPerMetric below 1 are none.
	Metadata(ctx context.Context, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, error)

	// Stats returns the statistics of the head block, metrics counted by label.
	Stats(ctx context.Context, label string, limit int) (*tsdb.Stats, error)
}

// SelectRequest asks for series.
type SelectRequest struct {
	// Mint and Maxt bound the data to look at, in milliseconds, inclusive.
	Mint, Maxt int64
	// Hints narrow the range further and carry what an implementation may use.
	Hints    *storage.SelectHints
	Matchers []*labels.Matcher
	// Proof says which of them the node serves; nil stands for all that it holds.
	Proof *proof.Proof
	// Part, if set, leaves only what a node copies.
	Part *proof.Part
	// Most, if not 0, is how many series are looked up, once in each place where they lie, before
	// the read fails with ErrManySeries. It is for the node that asks itself.
	Most int
	// Spent, if set, is where the source notes what the answer takes, before it is complete: the
	// bytes that came, and what the owner measured.
	Spent *spent.Node

	// read, if set, is what the request is part of.
	read *spent.Read
}

// EvaluateRequest asks for what a fragment makes of series.
type EvaluateRequest struct {
	SelectRequest
	Fragment *pushdown.Fragment
	Grid     pushdown.Grid
	// Take is told of the bytes of the answer, by pushdown.Bytes, by those that come from
	// elsewhere before they are held. Its error ends the request, which fails with it.
	Take func(bytes int64) error
}

// clone returns a request for one source, which may change it.
func (r SelectRequest) clone() SelectRequest {
	hints := *r.Hints
	r.Hints, r.Matchers = &hints, slices.Clone(r.Matchers)
	return r
}

// keep leaves out what is older than a horizon.
func (r *SelectRequest) keep(horizon int64) {
	if r.Mint = max(r.Mint, horizon); r.Hints.Start < horizon {
		own := *r.Hints
		own.Start, own.DisableTrimming = horizon, false
		r.Hints = &own
	}
}

// span is the range of samples that the answer may hold.
func (r *SelectRequest) span() proof.Range {
	return proof.Range{Min: min(r.Mint, r.Hints.Start), Max: max(r.Maxt, r.Hints.End)}
}

// Node is one node of the table and the way to its data.
type Node struct {
	ID table.NodeID
	// Slot is its place in the table.
	Slot   int
	Source Source
}

// View is one consistent snapshot of the table, as a coordinator needs it.
type View struct {
	// Epoch is the table's. Sources in the view refuse to answer at any other.
	Epoch uint64
	// Quorum is on how many owners all that was acknowledged of a series lies at least; 0 if
	// nothing was.
	Quorum int
	// MostCopies returns how many copies of one series can lie on the nodes in the slots that
	// are told, and on those that were given up, together; nil stands for one on each node.
	MostCopies func(told func(slot int) bool) int
	// Copies is on how many nodes a series lies. Only statistics use it; 0 is taken for 1.
	Copies int
	// Nodes are those that queries read from, each once.
	Nodes []Node
	// Self is the one of them that asks, if it is one.
	Self table.NodeID
	// Assignment places the copies on the nodes, so that each series can be read from one
	// of its owners. Without it all nodes are asked for all they hold.
	Assignment *table.Assignment
}

// tally is that of a round that has not begun.
func (v *View) tally() tally {
	t := tally{outcomes: make([]outcome, len(v.Nodes)), quorum: v.Quorum}
	if v.MostCopies == nil {
		return t
	}
	inSlot := make(map[int]int, len(v.Nodes))
	for node, n := range v.Nodes {
		inSlot[n.Slot] = node
	}
	t.mostCopies = func(told func(int) bool) int {
		return v.MostCopies(func(slot int) bool {
			node, asked := inSlot[slot]
			return asked && told(node)
		})
	}
	return t
}
