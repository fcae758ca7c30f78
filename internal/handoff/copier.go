package handoff

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

var (
	// errIncomplete says that too few owners can vouch for what they hold.
	errIncomplete = errors.New("too few of the present owners can be read from")
	// errExpired is an owner that has no samples any more of a time of which this node would
	// keep them.
	errExpired = errors.New("samples are expired there that are not expired here; is --storage.tsdb.retention.time the same, and the clock?")
)

// present is how long most samples are on their way at most.
const present = time.Minute

// Origin is a node that owns copies now, of which some are to be copied.
type Origin interface {
	State(ctx context.Context) (proof.State, error)
	// Copy returns what the node serves under the proof of those series that are to be
	// copied, in some ranges of keys. The times are inclusive, in milliseconds. The set ends
	// with ctx.
	Copy(ctx context.Context, p *proof.Proof, ranges uint64, mint, maxt int64) storage.ChunkSeriesSet
	// Sum sums up what Copy returns, its samples or its chunks as they are encoded.
	Sum(ctx context.Context, p *proof.Proof, ranges uint64, mint, maxt int64, encoded bool) (*proof.Sums, error)
	// Oldest returns the time of the node's oldest sample, in milliseconds; math.MaxInt64 if
	// it has none. Few may be older.
	Oldest(ctx context.Context) (int64, error)
	// Metadata returns what the node knows of those metric families that are to be copied.
	Metadata(ctx context.Context) ([]series.Metadata, error)
}

// CopierStore is the store of a node that copies.
type CopierStore interface {
	Store
	Queryable
	// ImportBlock stores sorted series of a window that ends at ImportableUntil or before,
	// synced, and returns how many samples that was.
	ImportBlock(ctx context.Context, mint, maxt int64, set storage.ChunkSeriesSet) (int, error)
	ImportableUntil() int64
	// ImportSpan returns the duration of the windows that it is best given, aligned to it, in
	// milliseconds, a multiple of WindowSpan or 0.
	ImportSpan() int64
	// Horizon is what the node's own samples are expired before; none of that is copied.
	Horizon() expiry.Horizon
}

// Owners are those that hold copies of what a node lacks.
type Owners struct {
	// From is the assignment that queries read by.
	From *table.Assignment
	// Origins are its nodes by slot, this one included, and nil for those that are removed.
	Origins []Origin
	// Placed returns the partition key of a series and the slots of those that own it, which
	// are valid until the next call, and whether it is to be copied.
	Placed func(labels.Labels) (key uint64, owners []int, wanted bool)
	// MostCopies returns how many copies of one series can lie on the nodes in the slots that
	// are told, and on those that are removed, together.
	MostCopies func(told func(slot int) bool) int
}

// CopierOptions are what a Copier works with. All are required.
type CopierOptions struct {
	Self  table.NodeID
	Store CopierStore
	// Damaged is the error of a Querier over a time that lacks samples because of damage.
	Damaged error
}

// Copier brings this node, window after window, what the owners hold for it. Each window is a
// proven read, as of a query: it holds all that was acknowledged before the epoch at which it
// is made. A Copier is used by one goroutine.
type Copier struct {
	opts CopierOptions
	// avoided are the nodes that failed while they were read, until too few others are left.
	avoided map[table.NodeID]error
	// received counts the bytes of chunks that have come of the window under way. Others may
	// look at it.
	received atomic.Int64
}

// NewCopier returns a Copier.
func NewCopier(opts CopierOptions) *Copier {
	return &Copier{opts: opts, avoided: map[table.NodeID]error{}}
}

// Next returns the window that begins at a time, in milliseconds, or at the horizon if that is
// later. Windows end where blocks do that are imported; the one that begins with time itself ends
// about where the samples begin. Of what no block has yet the last minute, and what lies beyond the present, are
// a window of their own: it differs while it is written to, and the rest can be compared.
func (c *Copier) Next(ctx context.Context, o Owners, since int64) (proof.Window, error) {
	if since == math.MinInt64 {
		first, err := o.oldest(ctx)
		if err != nil {
			return proof.Window{}, err
		}
		if first < math.MaxInt64 {
			first = WindowStart(first)
		}
		if since = c.opts.Store.Horizon().At(); since < first {
			return proof.Window{Since: since, Until: first}, nil
		}
	}
	since = max(since, c.opts.Store.Horizon().At())
	until, ago := WindowEdge(since), time.Since(time.UnixMilli(since))
	span := c.opts.Store.ImportSpan()
	switch {
	case span > 0 && edge(since, span) <= c.opts.Store.ImportableUntil():
		until = edge(since, span)
	case ago <= 2*present:
		until = math.MaxInt64
	case ago <= WindowSpan:
		until = time.Now().Add(-present).UnixMilli()
	}
	return proof.Window{Since: since, Until: until}, nil
}

// oldest returns about the time of the oldest sample of all owners that answer.
func (o Owners) oldest(ctx context.Context) (int64, error) {
	oldest, answered, failure := int64(math.MaxInt64), false, errIncomplete
	for slot, origin := range o.Origins {
		if origin == nil {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, stateTimeout)
		t, err := origin.Oldest(asked)
		cancel()
		if err != nil {
			failure = fmt.Errorf("ask node %s for its oldest sample: %w", o.From.Slots[slot].Node, err)
			continue
		}
		oldest, answered = min(oldest, t), true
	}
	if !answered {
		return 0, failure
	}
	return oldest, nil
}

// copy stores and syncs what a window holds for this node, in some ranges of keys, beyond its
// own store: what it has nothing of as a block, if it is old enough and nobody wants to know what
// was lacking.
func (c *Copier) copy(ctx context.Context, o Owners, proven *proof.Proof, w proof.Window, ranges uint64, found lacking) (samples int, err error) {
	ctx, cancel := context.WithCancel(ctx) // ends the streams
	defer cancel()
	count := func(chunk chunks.Meta) error {
		c.received.Add(int64(len(chunk.Chunk.Bytes())))
		return nil
	}
	var sets []storage.ChunkSeriesSet
	for _, from := range proven.Nodes {
		if !c.isSelf(o, from.Slot) { // it serves nothing that it does not own
			sets = append(sets, &originSet{
				ChunkSeriesSet: &tappedSet{ChunkSeriesSet: o.Origins[from.Slot].Copy(ctx, proven, ranges, w.Since, w.Until-1), each: count},
				node:           o.From.Slots[from.Slot].Node, copier: c, ctx: ctx,
			})
		}
	}
	theirs := storage.NewMergeChunkSeriesSet(sets, 0, merge.ChunkSeries(nil))
	own, err := newMissing(ctx, c.opts.Store, c.opts.Damaged, w)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, own.close()) }()
	own.lacking = found
	if found != nil || w.Since < w.Until-max(c.opts.Store.ImportSpan(), WindowSpan.Milliseconds()) || w.Until > c.opts.Store.ImportableUntil() {
		err := own.take(theirs)
		return own.stored, err
	}
	fresh := &freshSet{ChunkSeriesSet: theirs, own: own}
	samples, err = c.opts.Store.ImportBlock(ctx, w.Since, w.Until, fresh)
	if err == nil {
		err = own.finish(fresh.ChunkSeriesSet)
	}
	return samples + own.stored, err
}

// originSet remembers if its node fails.
type originSet struct {
	storage.ChunkSeriesSet
	node   table.NodeID
	copier *Copier
	ctx    context.Context
}

// Err implements storage.ChunkSeriesSet.
func (s *originSet) Err() error {
	if err := s.ChunkSeriesSet.Err(); err != nil {
		return s.copier.avoid(s.ctx, s.node, err)
	}
	return nil
}

// avoid remembers that a node failed while it was read from, unless ctx has ended.
func (c *Copier) avoid(ctx context.Context, node table.NodeID, err error) error {
	// At another epoch it is as good as before, a moment later.
	if _, changed := errors.AsType[*table.MismatchError](err); !changed && ctx.Err() == nil {
		c.avoided[node] = fmt.Errorf("it failed while it was read: %w", err)
	}
	return fmt.Errorf("copy from node %s: %w", node, err)
}

// freshSet leaves out the series that the own store has something of, and adds what those
// lack to it. At its end it closes the look at the own store: who still reads a block while
// the TSDB is to take another one into service may wait for ever, as a compaction that
// replaces the first holds up all others until nobody reads it.
type freshSet struct {
	storage.ChunkSeriesSet
	own *missing
	err error
}

// Next implements storage.ChunkSeriesSet.
func (s *freshSet) Next() bool {
	for s.err == nil && s.ChunkSeriesSet.Next() {
		series := s.At()
		if !s.own.own.at(series.Labels()) {
			return true
		}
		s.err = s.own.series(series)
	}
	s.err = errors.Join(s.err, s.own.close())
	return false
}

// Err implements storage.ChunkSeriesSet.
func (s *freshSet) Err() error { return errors.Join(s.err, s.ChunkSeriesSet.Err()) }

// Metadata stores what the nodes of a proof know of metric families that this node is to own.
func (c *Copier) Metadata(ctx context.Context, o Owners, proven *proof.Proof) error {
	for _, n := range proven.Nodes {
		families, err := o.Origins[n.Slot].Metadata(ctx)
		if err != nil {
			return fmt.Errorf("copy metadata from node %s: %w", o.From.Slots[n.Slot].Node, err)
		}
		if err := c.opts.Store.Import(ctx, &series.Batch{Metadata: families}); err != nil {
			return err
		}
	}
	return nil
}

// Prove is round one of a read by the owners' assignment. A node that is damaged in the range
// counts as missing, this one too. What is expired here nobody has to vouch for.
func (c *Copier) Prove(ctx context.Context, o Owners, span proof.Range) (*proof.Proof, error) {
	type answer struct {
		slot  int
		state proof.State
		err   error
	}
	asked, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	answers, avoided := make(chan answer, len(o.Origins)), c.avoided
	waiting := 0
	for slot, origin := range o.Origins {
		if origin == nil {
			continue
		}
		waiting++
		go func() {
			if err := avoided[o.From.Slots[slot].Node]; err != nil {
				answers <- answer{slot: slot, err: err}
				return
			}
			s, err := origin.State(asked)
			answers <- answer{slot, s, err}
		}()
	}
	states := make([]*proof.State, len(o.Origins))
	// Where more were given up than the quorums spare, what all the others have is all there is.
	all := true
	var reason error
	for range waiting {
		a := <-answers
		kept := span.From(c.opts.Store.Horizon().At()) // as it is with what this one said
		switch {
		case a.err != nil:
		case a.state.Damaged(kept):
			a.err = errors.New("what it holds is damaged")
		case a.state.Past(kept):
			a.err = errExpired
		default:
			states[a.slot] = &a.state
			continue
		}
		all = false
		reason = fmt.Errorf("node %s: %w", o.From.Slots[a.slot].Node, a.err)
	}
	missing := func(slot int) bool { return states[slot] == nil }
	if !all && o.MostCopies(missing) >= o.From.WriteQuorum() {
		c.avoided = map[table.NodeID]error{}
		return nil, fmt.Errorf("%w: %w", errIncomplete, reason)
	}
	return proof.New(o.From, states, span.Max), nil
}
