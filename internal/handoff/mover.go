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

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/statefile"
)

const (
	// moveInterval is how often a Mover looks whether there is something to do.
	moveInterval = 500 * time.Millisecond

	// moveFile keeps how far the copying is.
	moveFile = "move"

	// lastMovePause is how long a Mover waits at most after something went wrong.
	lastMovePause = 10 * time.Second
)

// errDamaged says that this node cannot vouch for what it owns already.
var errDamaged = errors.New("this node's own data is damaged: it does not hold all it is to own before that is made good")

// Move is what a node has to do in the copying of a transition.
type Move struct {
	// Began is the epoch with which the phase began.
	Began uint64
	// Owners are the present ones.
	Owners
	// Gains is not set if this node is to own nothing that it does not own already.
	Gains bool
	// Damaged tells whether this node lacks some of what it had: it may have been copied.
	Damaged bool
	// Paused holds back the copying.
	Paused bool
}

// MoverOptions are what a Mover works with. All are required but Registerer.
type MoverOptions struct {
	CopierOptions
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
	bytes    prometheus.Counter
	windows  *prometheus.CounterVec
	failed   prometheus.Counter
	// copier is of Run's goroutine.
	copier *Copier
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
	// Bytes are those of the chunks that came from other nodes.
	Bytes int64 `json:"bytes"`
	// Started is when the copying began.
	Started time.Time `json:"started"`
}

// OpenMover reads how far a node was.
func OpenMover(opts MoverOptions) (*Mover, error) {
	factory := promauto.With(opts.Registerer)
	m := &Mover{
		opts: opts, copier: NewCopier(opts.CopierOptions),
		samples: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_transition_copied_samples_total",
			Help: "Samples that this node was to own in a transition and lacked, and that it stored.",
		}),
		bytes: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_transition_copied_bytes_total",
			Help: "Bytes of chunks that this node read from others in transitions.",
		}),
		windows: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_transition_windows_total",
			Help: "Windows of time that this node was to copy and holds, by what its store compares like with the owners: equal by digest, more than they have, or unread for damage.",
		}, []string{"result"}),
		failed: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_transition_failures_total",
			Help: "Windows of time whose copying broke off in a transition; they begin again.",
		}),
	}
	p := &Progress{}
	switch err := statefile.Load(opts.Dir, moveFile, p); {
	case errors.Is(err, os.ErrNotExist):
	case errors.Is(err, statefile.ErrDamaged):
		opts.Logger.Warn("How far the copying was cannot be read: it begins anew", "err", err)
		p = &Progress{}
	case err != nil:
		return nil, err
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

// Progress returns how far the copying is, with the bytes of the window under way.
func (m *Mover) Progress() Progress {
	p := *m.progress.Load()
	p.Bytes += m.copier.received.Load()
	return p
}

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
		if !Pause(ctx, pause) {
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
	// What it lost since then is made good by others; then it is looked at once more.
	if p := *m.progress.Load(); p.Ready && move.Damaged {
		p.Ready = false
		if err := m.save(&p); err != nil {
			return err
		}
		m.opts.Ready()
	}
	for p := *m.progress.Load(); !p.Ready && !move.Paused && ctx.Err() == nil; p = *m.progress.Load() {
		if p.Until == math.MaxInt64 || !move.Gains {
			p.Until = math.MaxInt64
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
	w, err := m.copier.Next(ctx, move.Owners, p.Until)
	if err != nil {
		return err
	}
	proven, err := m.copier.Prove(ctx, move.Owners, proof.Range{Min: w.Since, Max: w.Until - 1})
	if err != nil {
		return err
	}
	n, err := m.copier.Hold(ctx, move.Owners, proven, w)
	m.samples.Add(float64(n.Samples))
	m.bytes.Add(float64(n.Bytes))
	if err != nil {
		return err
	}
	m.windows.WithLabelValues(string(n.Verdict)).Inc()
	p.Until = w.Until
	p.Samples += int64(n.Samples)
	p.Bytes += n.Bytes
	return m.save(&p)
}

// finish ends the copying: the metadata is copied, and no present owner may note a gap for
// this node any more, so that it holds all it owns already, too.
func (m *Mover) finish(ctx context.Context, move *Move, p Progress) error {
	proven, err := m.copier.Prove(ctx, move.Owners, proof.Range{Min: math.MinInt64, Max: math.MaxInt64})
	if err != nil {
		return err
	}
	if own, owns := move.From.SlotOf(m.opts.Self); owns && proven.Noted(own) {
		return nil // the hand-off closes the gap
	} else if move.Damaged || owns && !proven.Serves(own) {
		return errDamaged // what it lacks may be on a node that goes
	}
	if err := m.copier.Metadata(ctx, move.Owners, proven); err != nil {
		return err
	}
	p.Ready = true
	if err := m.save(&p); err != nil {
		return err
	}
	m.opts.Logger.Info("This node holds all it is to own", "epoch", p.Began, "samples", p.Samples, "took", time.Since(p.Started).Round(time.Millisecond))
	m.opts.Ready()
	return nil
}

func (m *Mover) save(p *Progress) error {
	if err := statefile.Save(m.opts.Dir, moveFile, p); err != nil {
		return fmt.Errorf("write down how far the copying is: %w", err)
	}
	m.progress.Store(p)
	return nil
}
