package handoff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// moveInterval is how often a Mover looks whether there is something to do.
	moveInterval = 500 * time.Millisecond

	// moveFile keeps how far the copying is.
	moveFile = "move"

	// lastMovePause is how long a Mover waits at most after something went wrong.
	lastMovePause = 10 * time.Second
)

var (
	// errIncomplete says that too few owners can vouch for what they hold.
	errIncomplete = errors.New("too few of the present owners can be read from")
	// errDamaged says that this node cannot vouch for what it owns already.
	errDamaged = errors.New("this node's own data is damaged, so that it does not hold all it is to own: replace it by a new node, or have it leave")
)

// Origin is a node that owns copies now.
type Origin interface {
	State(ctx context.Context) (proof.State, error)
	// Copy returns what the node serves under the proof of those series that this node is
	// to own and does not own yet. The range is inclusive, in milliseconds. The set ends
	// with ctx.
	Copy(ctx context.Context, p *proof.Proof, mint, maxt int64) storage.ChunkSeriesSet
	// Oldest returns the time of the node's oldest sample, in milliseconds; math.MaxInt64 if
	// it has none. Few may be older.
	Oldest(ctx context.Context) (int64, error)
	// Metadata returns what the node knows of those metric families that this node is to
	// own and does not own yet.
	Metadata(ctx context.Context) ([]series.Metadata, error)
}

// Move is what a node has to do in the copying of a transition.
type Move struct {
	// Began is the epoch with which the phase began.
	Began uint64
	// From is the present assignment, Origins its nodes by slot, this one included; nil for
	// those that are removed.
	From    *table.Assignment
	Origins []Origin
	// Paused holds back the copying.
	Paused bool
}

// MoverStore is the store of a node that copies.
type MoverStore interface {
	Store
	// ImportBlock stores sorted series of a window that ends at ImportableUntil or before,
	// synced, and returns how many samples that was.
	ImportBlock(ctx context.Context, mint, maxt int64, set storage.ChunkSeriesSet) (int, error)
	ImportableUntil() int64
}

// MoverOptions are what a Mover works with. All are required but Registerer.
type MoverOptions struct {
	Self  table.NodeID
	Store MoverStore
	// Damaged is the error of a Querier over a time that lacks samples because of damage,
	// Expired that of a block that is older than the retention.
	Damaged, Expired error
	// Dir keeps how far the copying is.
	Dir string
	// Move returns what is to be done now, or nil.
	Move func() *Move
	// Ready is called when Mover.Ready has changed.
	Ready      func()
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Mover copies what this node is to own, in a transition, from the present owners. Each window
// of time is a proven read by the present assignment, as of a query: it holds all that was
// acknowledged before the phase began. What is acknowledged later reaches this node by itself.
// See docs/adr/0010-transitions.md.
type Mover struct {
	opts     MoverOptions
	progress atomic.Pointer[Progress]
	samples  prometheus.Counter
	failed   prometheus.Counter
	// avoided are the nodes that failed while they were read, until too few others are left.
	// Run's goroutine owns it.
	avoided map[table.NodeID]error
}

// Progress is how far the copying is.
type Progress struct {
	// Began is the epoch of the move, 0 if there was none.
	Began uint64 `json:"began"`
	// Until is up to which time all is copied, exclusive, in milliseconds; math.MinInt64 at
	// the beginning and math.MaxInt64 at the end.
	Until int64 `json:"until"`
	// Ready tells whether this node holds, synced, all it is to own.
	Ready bool `json:"ready"`
	// Samples counts those that were lacking and are stored.
	Samples int64 `json:"samples"`
	// Started is when the copying began.
	Started time.Time `json:"started"`
}

// OpenMover reads how far a node was.
func OpenMover(opts MoverOptions) (*Mover, error) {
	factory := promauto.With(opts.Registerer)
	m := &Mover{
		opts: opts, avoided: map[table.NodeID]error{},
		samples: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_transition_copied_samples_total",
			Help: "Samples that this node was to own in a transition and lacked, and that it stored.",
		}),
		failed: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_transition_failures_total",
			Help: "Windows of time whose copying broke off in a transition; they begin again.",
		}),
	}
	p := &Progress{}
	err := statefile.Load(opts.Dir, moveFile, p)
	if errors.Is(err, statefile.ErrDamaged) {
		opts.Logger.Warn("How far the copying was cannot be read: it begins anew", "err", err)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, statefile.ErrDamaged) {
		return nil, err
	}
	if err != nil {
		p = &Progress{}
	}
	m.progress.Store(p)
	return m, nil
}

// Ready returns the epoch with which the phase began for which this node holds, synced, all
// it is to own; 0 if there is none.
func (m *Mover) Ready() uint64 {
	if p := m.progress.Load(); p.Ready {
		return p.Began
	}
	return 0
}

// Progress returns how far the copying is.
func (m *Mover) Progress() Progress { return *m.progress.Load() }

// Run copies whatever there is to copy, until ctx ends.
func (m *Mover) Run(ctx context.Context) {
	pause := moveInterval
	for {
		err := m.step(ctx)
		switch {
		case err == nil:
			pause = moveInterval
		case ctx.Err() == nil:
			m.failed.Inc()
			// At the beginning of a phase not everybody is in it yet.
			level := slog.LevelDebug
			if pause > 2*moveInterval {
				level = slog.LevelWarn
			}
			pause = min(2*pause, lastMovePause)
			m.opts.Logger.Log(ctx, level, "Copying what this node is to own broke off; it goes on from there", "again_in", pause, "err", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// step does all that can be done now.
func (m *Mover) step(ctx context.Context) error {
	move := m.opts.Move()
	if move == nil {
		return nil
	}
	if m.progress.Load().Began != move.Began {
		m.opts.Logger.Info("Copying what this node is to own", "epoch", move.Began)
		if err := m.save(&Progress{Began: move.Began, Until: math.MinInt64, Started: time.Now()}); err != nil {
			return err
		}
	}
	for p := *m.progress.Load(); !p.Ready && !move.Paused && ctx.Err() == nil; p = *m.progress.Load() {
		if p.Until == math.MaxInt64 {
			return m.finish(ctx, move, p)
		}
		if err := m.window(ctx, move, p); err != nil {
			return err
		}
		if move = m.opts.Move(); move == nil || move.Began != p.Began {
			return nil
		}
	}
	return nil
}

// window copies the next window of time.
func (m *Mover) window(ctx context.Context, move *Move, p Progress) error {
	w, err := m.next(ctx, move, p.Until)
	if err != nil {
		return err
	}
	proven, err := m.prove(ctx, move, proof.Range{Min: w.Since, Max: w.Until - 1})
	if err != nil {
		return err
	}
	samples, err := m.copy(ctx, move, proven, w)
	m.samples.Add(float64(samples))
	if err != nil {
		return err
	}
	p.Until = w.Until
	p.Samples += int64(samples)
	return m.save(&p)
}

// next returns the window that begins at a time. Windows end where blocks do; the first one
// ends about where the samples begin, and the last one reaches beyond the present.
func (m *Mover) next(ctx context.Context, move *Move, since int64) (proof.Window, error) {
	if since == math.MinInt64 {
		proven, err := m.prove(ctx, move, proof.Range{Min: math.MinInt64, Max: math.MaxInt64})
		if err != nil {
			return proof.Window{}, err
		}
		first := int64(math.MaxInt64)
		for _, n := range proven.Nodes {
			oldest, err := move.Origins[n.Slot].Oldest(ctx)
			if err != nil {
				return proof.Window{}, fmt.Errorf("ask node %s for its oldest sample: %w", move.From.Slots[n.Slot].Node, err)
			}
			first = min(first, oldest)
		}
		if first < math.MaxInt64 {
			first = windowEdge(first) - windowSpan.Milliseconds()
		}
		return proof.Window{Since: since, Until: first}, nil
	}
	until := windowEdge(since)
	if since >= time.Now().Add(-windowSpan).UnixMilli() {
		until = math.MaxInt64
	}
	return proof.Window{Since: since, Until: until}, nil
}

// copy stores and syncs what a window holds for this node beyond its own store, and returns
// how many samples that was: what it has nothing of as a block, if it is old enough.
func (m *Mover) copy(ctx context.Context, move *Move, proven *proof.Proof, w proof.Window) (samples int, err error) {
	ctx, cancel := context.WithCancel(ctx) // ends the streams
	defer cancel()
	var sets []storage.ChunkSeriesSet
	for _, n := range proven.Nodes {
		if move.From.Slots[n.Slot].Node != m.opts.Self { // it serves nothing that it does not own
			sets = append(sets, &originSet{
				ChunkSeriesSet: move.Origins[n.Slot].Copy(ctx, proven, w.Since, w.Until-1),
				node:           move.From.Slots[n.Slot].Node, mover: m, ctx: ctx,
			})
		}
	}
	theirs := storage.NewMergeChunkSeriesSet(sets, 0, storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge))
	own, err := newMissing(ctx, m.opts.Store, m.opts.Damaged, w)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, own.close()) }()
	if w.Since == math.MinInt64 || w.Until > m.opts.Store.ImportableUntil() {
		err := own.take(theirs)
		return own.stored, err
	}
	fresh := &freshSet{ChunkSeriesSet: theirs, own: own}
	samples, err = m.opts.Store.ImportBlock(ctx, w.Since, w.Until, fresh)
	if errors.Is(err, m.opts.Expired) {
		return 0, nil
	}
	if err == nil {
		err = own.finish(fresh.ChunkSeriesSet)
	}
	return samples + own.stored, err
}

// originSet remembers if its node fails.
type originSet struct {
	storage.ChunkSeriesSet
	node  table.NodeID
	mover *Mover
	ctx   context.Context
}

// Err implements storage.ChunkSeriesSet.
func (s *originSet) Err() error {
	err := s.ChunkSeriesSet.Err()
	if err == nil {
		return nil
	}
	// At another epoch it is as good as before, a moment later.
	if _, changed := errors.AsType[*table.MismatchError](err); !changed && s.ctx.Err() == nil {
		s.mover.avoided[s.node] = fmt.Errorf("it failed while it was read: %w", err)
	}
	return fmt.Errorf("copy from node %s: %w", s.node, err)
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

// finish ends the copying: the metadata is copied, and no present owner may note a gap for
// this node any more, so that it holds all it owns already, too.
func (m *Mover) finish(ctx context.Context, move *Move, p Progress) error {
	proven, err := m.prove(ctx, move, proof.Range{Min: math.MinInt64, Max: math.MaxInt64})
	if err != nil {
		return err
	}
	if own, owns := move.From.SlotOf(m.opts.Self); owns {
		if proven.Noted(own) {
			return nil // the hand-off closes the gap
		}
		// What it lacks may be on a node that goes.
		if !proven.Serves(own) {
			return errDamaged
		}
	}
	for _, n := range proven.Nodes {
		families, err := move.Origins[n.Slot].Metadata(ctx)
		if err != nil {
			return fmt.Errorf("copy metadata from node %s: %w", move.From.Slots[n.Slot].Node, err)
		}
		if err := m.opts.Store.Import(ctx, &series.Batch{Metadata: families}); err != nil {
			return err
		}
	}
	p.Ready = true
	if err := m.save(&p); err != nil {
		return err
	}
	m.opts.Logger.Info("This node holds all it is to own", "epoch", p.Began, "samples", p.Samples, "took", time.Since(p.Started).Round(time.Millisecond))
	m.opts.Ready()
	return nil
}

// prove is round one of a read by the present assignment.
func (m *Mover) prove(ctx context.Context, move *Move, span proof.Range) (*proof.Proof, error) {
	type answer struct {
		slot  int
		state proof.State
		err   error
	}
	asked, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	answers, avoided := make(chan answer, len(move.Origins)), m.avoided
	waiting := 0
	for slot, o := range move.Origins {
		if o == nil {
			continue
		}
		waiting++
		go func() {
			if err := avoided[move.From.Slots[slot].Node]; err != nil {
				answers <- answer{slot: slot, err: err}
				return
			}
			s, err := o.State(asked)
			answers <- answer{slot, s, err}
		}()
	}
	states := make([]*proof.State, len(move.Origins))
	missing := move.From.Removed()
	var reason error
	for range waiting {
		a := <-answers
		switch {
		case a.err == nil && !a.state.Damaged(span):
			states[a.slot] = &a.state
		case a.err == nil:
			a.err = errors.New("what it holds is damaged")
			fallthrough
		default:
			missing++
			reason = fmt.Errorf("node %s: %w", move.From.Slots[a.slot].Node, a.err)
		}
	}
	if missing >= move.From.WriteQuorum() {
		m.avoided = map[table.NodeID]error{}
		return nil, fmt.Errorf("%w: %w", errIncomplete, reason)
	}
	return proof.New(move.From, states, span.Max), nil
}

func (m *Mover) save(p *Progress) error {
	if err := statefile.Save(m.opts.Dir, moveFile, p); err != nil {
		return fmt.Errorf("write down how far the copying is: %w", err)
	}
	m.progress.Store(p)
	return nil
}
