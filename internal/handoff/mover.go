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

	// A window of time that brought less than fewSamples is followed by one of twice its
	// length, of maxSpan at most; one that brought more than manySamples by one of half.
	fewSamples  = 1 << 20
	manySamples = 8 << 20
	maxSpan     = 24 * time.Hour
)

// errIncomplete says that too few owners can vouch for what they hold.
var errIncomplete = errors.New("too few of the present owners can be read from")

// Origin is a node that owns copies now.
type Origin interface {
	State(ctx context.Context) (proof.State, error)
	// Copy returns what the node serves under the proof of those series that this node is
	// to own and does not own yet. The range is inclusive, in milliseconds. The set ends
	// with ctx.
	Copy(ctx context.Context, p *proof.Proof, mint, maxt int64) storage.ChunkSeriesSet
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

// MoverOptions are what a Mover works with. All are required but Registerer.
type MoverOptions struct {
	Self  table.NodeID
	Store Store
	// Damaged is the error of a Querier over a time that lacks samples because of damage.
	Damaged error
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
		opts: opts,
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
	for {
		if err := m.step(ctx); err != nil && ctx.Err() == nil {
			m.failed.Inc()
			m.opts.Logger.Warn("Copying what this node is to own broke off; it goes on from there", "err", err)
		}
		timer := time.NewTimer(moveInterval)
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
	span := windowSpan
	for p := *m.progress.Load(); !p.Ready && !move.Paused && ctx.Err() == nil; p = *m.progress.Load() {
		if p.Until == math.MaxInt64 {
			return m.finish(ctx, move, p)
		}
		n, err := m.window(ctx, move, p, span)
		m.samples.Add(float64(n))
		if err != nil {
			return err
		}
		switch {
		case n < fewSamples:
			span = min(2*span, maxSpan)
		case n > manySamples:
			span = max(span/2, windowSpan)
		}
		if move = m.opts.Move(); move == nil || move.Began != p.Began {
			return nil
		}
	}
	return nil
}

// window copies the next window of time.
func (m *Mover) window(ctx context.Context, move *Move, p Progress, span time.Duration) (samples int, err error) {
	now := time.Now()
	until := windowEnd(p.Until, now)
	if until != math.MaxInt64 && p.Until != math.MinInt64 {
		until += (span - windowSpan).Milliseconds()
		// One that reaches the present is the last: time goes on while it is copied.
		if until > now.UnixMilli() {
			until = math.MaxInt64
		}
	}
	proven, err := m.prove(ctx, move, proof.Range{Min: p.Until, Max: until - 1})
	if err != nil {
		return 0, err
	}
	w := proof.Window{Since: p.Until, Until: until}
	for _, n := range proven.Nodes {
		read, cancel := context.WithCancel(ctx)
		took, err := absorb(read, m.opts.Store, m.opts.Damaged, w, move.Origins[n.Slot].Copy(read, proven, w.Since, w.Until-1))
		cancel()
		samples += took
		if err != nil {
			return samples, fmt.Errorf("copy from node %s: %w", move.From.Slots[n.Slot].Node, err)
		}
	}
	p.Until = until
	p.Samples += int64(samples)
	return samples, m.save(&p)
}

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
	answers := make(chan answer, len(move.Origins))
	waiting := 0
	for slot, o := range move.Origins {
		if o == nil {
			continue
		}
		waiting++
		go func() {
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
