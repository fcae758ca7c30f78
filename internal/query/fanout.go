// Package query is the coordinator of reads. It asks the nodes of the table and merges what
// they hold, so that PromQL and the rest of the HTTP interface see one
// Prometheus storage.
//
// Where the owners of a series hold all of it, each series is read from one of them, which
// the nodes prove before, and elsewhere from as many as hold it together (proven.go). To
// other questions than for samples all nodes answer all they know.
//
// An answer is complete when the missing nodes can own fewer copies of a series than hold each
// acknowledged sample: then each lies on one that answered.
// Short of that a read fails with an IncompleteError, unless its context allows partial
// answers, which carry a warning. Answers given at different epochs of the table are
// never put together: a read that meets another epoch begins again.
//
// Data flows through three steps. collect buffers the answer of one node, within the
// byte limit of the query. merge walks the buffered answers in label order and reduces
// the copies of each series to lanes: lists of chunks that do not overlap. One lane is
// the usual case, since copies are mostly the same bytes, and is iterated as it is
// stored. Several lanes are merged sample by sample, one value for each timestamp.
package query

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/proof"
)

const (
	// defaultMaxBytes is 16 bytes for each of the 50 million samples that a query may
	// load by default.
	defaultMaxBytes = 50_000_000 * 16

	// defaultGrace is long against the spread of healthy nodes' answers, so that in a
	// healthy cluster all copies are merged and differences show, and short against
	// the patience of whoever looks at a dashboard.
	defaultGrace = 500 * time.Millisecond

	// defaultNearbyWork is where dividing a read costs about what it saves: above all, each of the
	// nodes matches the values of labels anew.
	defaultNearbyWork = 256
)

// Options configure a Fanout.
type Options struct {
	// View returns the present table and the ways to its nodes. It is called at the
	// start of every read and again when a node turns out to be at another epoch.
	// Several goroutines call it.
	View func() (View, error)

	// Horizon is the time before which samples are expired, in milliseconds. No answer that
	// is proven shows older ones. Several goroutines call it, when a node has said what it
	// holds. Nil stands for no such time.
	Horizon func() int64

	// Disagree is told of a time, by that of whole chunks, of which nodes gave different copies
	// of a series: the answer has the union. Several goroutines call it, for each such series,
	// so it returns at once. May be nil.
	Disagree func(r proof.Range)

	// MaxBytes bounds the labels and chunks that all reads of one querier, which is to
	// say all selectors of a query, hold together, over all nodes and hence over all
	// copies. What was read counts until the querier is closed. 0 is 800 MB.
	MaxBytes int64

	// NearbyWork is how many series the node that asks reads on its own, if it holds all, instead
	// of dividing them among all nodes: of a range that is short against an hour; of one of so many
	// hours, fewer by as many times and one. 0 is 256, a negative value lets it never do so.
	NearbyWork int

	// Timeout is how long a node may take to answer before it counts as failed. 0
	// leaves it to the context of the read.
	Timeout time.Duration

	// Grace is how long to wait for the remaining nodes once the answers are complete
	// without them. Going on without a straggler costs nothing in correctness and
	// carries no warning. 0 is 500 ms, a negative value waits for all.
	Grace time.Duration

	// Logger may be nil.
	Logger *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// Fanout answers reads from all nodes of the table. It implements
// storage.SampleAndChunkQueryable and storage.ExemplarQueryable. All methods may be
// called by several goroutines at once. What its queriers return stays valid after
// they are closed.
type Fanout struct {
	opts    Options
	metrics *metrics
}

var (
	_ storage.SampleAndChunkQueryable = (*Fanout)(nil)
	_ storage.ExemplarQueryable       = (*Fanout)(nil)
)

// New returns a Fanout. It starts nothing and needs no closing.
func New(opts Options) *Fanout {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = defaultMaxBytes
	}
	if opts.NearbyWork == 0 {
		opts.NearbyWork = defaultNearbyWork
	}
	if opts.Horizon == nil {
		opts.Horizon = func() int64 { return minTime }
	}
	if opts.Timeout <= 0 {
		opts.Timeout = math.MaxInt64
	}
	switch {
	case opts.Grace == 0:
		opts.Grace = defaultGrace
	case opts.Grace < 0:
		opts.Grace = math.MaxInt64
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Fanout{opts: opts, metrics: newMetrics(opts.Registerer)}
}

func (f *Fanout) newBudget() *budget { return &budget{limit: f.opts.MaxBytes} }

// Querier implements storage.Queryable. The range is inclusive, in milliseconds.
func (f *Fanout) Querier(mint, maxt int64) (storage.Querier, error) {
	return &querier{newReader(f, mint, maxt)}, nil
}

// ChunkQuerier implements storage.ChunkQueryable. The range is inclusive, in
// milliseconds.
func (f *Fanout) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return &chunkQuerier{newReader(f, mint, maxt)}, nil
}

// ExemplarQuerier implements storage.ExemplarQueryable. The querier is bound to ctx.
func (f *Fanout) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	return &exemplarQuerier{f: f, ctx: ctx}, nil
}
