// Package repair makes good what a node holds less of than it should: what damage took from
// it, and what it differs in from the other owners of a series.
//
// Rebuilder copies what was damaged from the other owners, by proven reads. Comparer compares
// windows of time by digests with each owner, in the background, and copies what differs.
package repair

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-tsdb/starling/internal/damage"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
)

const (
	// look is how often a Rebuilder looks whether something is damaged.
	look = 2 * time.Second

	// lastPause is how long a Rebuilder waits at most after something went wrong.
	lastPause = time.Minute
)

// Ailing is a store that knows what was damaged in it.
type Ailing interface {
	Damage() []damage.Range
	// Findings grows before Damage tells of more.
	Findings() uint64
	// Isolate has a damaged range be in nobody's way.
	Isolate(ctx context.Context, r damage.Range) error
	// Mended says that what a range lacks before a time is there again. It fails if the
	// store has found more than so much since.
	Mended(r damage.Range, until int64, findings uint64) error
}

// RebuilderOptions are what a Rebuilder works with. All are required but Registerer.
type RebuilderOptions struct {
	Store  Ailing
	Copier *handoff.Copier
	// Owners returns the owners of what this node owns, by the table of an epoch, where this
	// node itself does not answer; ok is false if nothing can be copied now.
	Owners func() (epoch uint64, o handoff.Owners, ok bool)
	// Newest returns the epoch of a table that this node has adopted, and that no member was
	// past when Newest was called.
	Newest func(ctx context.Context) (epoch uint64, err error)
	// Renew has the members agree on an epoch after the given one.
	Renew func(ctx context.Context, epoch uint64) error
	// TakeOver notes durably all gaps that the nodes of a proof note: those that this node
	// noted itself are not known any more.
	TakeOver   func(ctx context.Context, o handoff.Owners, p *proof.Proof) error
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Rebuilder makes good what damage took from this node, and then takes it out of the notes.
//
// What this node confirmed before it found the damage may be acknowledged at any time, and be
// on one other owner only that stores it after it was read from. So that is read at an epoch
// that began after the finding: an owner that has come to it has stored whatever will ever
// count of the epochs before. Each window is a proven read among the others, which holds all
// that was acknowledged then; what is acknowledged later reaches this node by itself, as its
// store is sound again.
type Rebuilder struct {
	opts    RebuilderOptions
	samples prometheus.Counter
	failed  prometheus.Counter
	// findings are those for which the epoch after the given one is awaited. Run's goroutine
	// owns both.
	findings, after uint64
}

// NewRebuilder returns a Rebuilder; Run starts it.
func NewRebuilder(opts RebuilderOptions) *Rebuilder {
	factory := promauto.With(opts.Registerer)
	return &Rebuilder{
		opts: opts,
		samples: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_repair_rebuilt_samples_total",
			Help: "Samples that this node had lost to damage, or may have, and copied from other owners.",
		}),
		failed: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_repair_rebuild_failures_total",
			Help: "Attempts to make damage good that broke off; they go on from there.",
		}),
	}
}

// Run makes good whatever is damaged, until ctx ends.
func (r *Rebuilder) Run(ctx context.Context) {
	pause := look
	for handoff.Pause(ctx, pause) {
		err := r.step(ctx)
		switch {
		case err == nil:
			pause = look
		case ctx.Err() == nil:
			r.failed.Inc()
			pause = min(2*pause, lastPause)
			r.opts.Logger.Warn("Making damage good broke off; it goes on from there", "again_in", pause, "err", err)
		}
	}
}

// step makes good all that it can now.
func (r *Rebuilder) step(ctx context.Context) error {
	damaged := r.opts.Store.Damage()
	if len(damaged) == 0 {
		return nil
	}
	for _, d := range damaged {
		if err := r.opts.Store.Isolate(ctx, d); err != nil {
			return err
		}
	}
	findings := r.opts.Store.Findings()
	epoch, _, ok := r.opts.Owners()
	if !ok {
		return nil
	}
	if r.findings != findings {
		// The table in an old copy may be older than one by which this node has confirmed.
		if slices.ContainsFunc(damaged, func(d damage.Range) bool { return d.Kind == damage.OldCopy }) {
			var err error
			if epoch, err = r.opts.Newest(ctx); err != nil {
				return err
			}
		}
		r.findings, r.after = findings, epoch
	}
	// What a crash has torn off was never confirmed.
	confirmed := func(d damage.Range) bool { return !d.Suspect }
	if epoch <= r.after && slices.ContainsFunc(damaged, confirmed) {
		return r.opts.Renew(ctx, r.after)
	}
	for _, d := range r.opts.Store.Damage() {
		if err := r.rebuild(ctx, d, findings); err != nil {
			return err
		}
	}
	return nil
}

// rebuild makes a range good, and notes after each window what is left of it.
func (r *Rebuilder) rebuild(ctx context.Context, d damage.Range, findings uint64) error {
	start := time.Now()
	r.opts.Logger.Info("Making damage good from the other owners", "kind", string(d.Kind), "name", d.Name)
	total := 0
	for {
		_, owners, ok := r.opts.Owners()
		if !ok {
			return nil
		}
		w, err := r.opts.Copier.Next(ctx, owners, d.MinTime)
		if err != nil {
			return err
		}
		if d.MaxTime < math.MaxInt64 {
			w.Until = min(w.Until, d.MaxTime+1)
		}
		proven, err := r.opts.Copier.Prove(ctx, owners, proof.Range{Min: w.Since, Max: w.Until - 1})
		if err != nil {
			return err
		}
		n, err := r.opts.Copier.Hold(ctx, owners, proven, w)
		r.samples.Add(float64(n.Samples))
		if total += n.Samples; err != nil {
			return err
		}
		last := w.Until > d.MaxTime || w.Until == math.MaxInt64
		if last {
			if err := r.finish(ctx, owners, proven, d); err != nil {
				return err
			}
		}
		if err := r.opts.Store.Mended(d, w.Until, findings); err != nil {
			return err
		}
		if last {
			r.opts.Logger.Info("Made damage good", "kind", string(d.Kind), "name", d.Name, "samples", total, "took", time.Since(start).Round(time.Millisecond))
			return nil
		}
		d.MinTime = w.Until
	}
}

// finish copies what is not samples, from the nodes of the last window's proof. A block holds nothing else.
func (r *Rebuilder) finish(ctx context.Context, owners handoff.Owners, proven *proof.Proof, d damage.Range) error {
	if d.Kind == damage.Block {
		return nil
	}
	if d.Kind == damage.OldCopy {
		if err := r.opts.TakeOver(ctx, owners, proven); err != nil {
			return err
		}
	}
	return r.opts.Copier.Metadata(ctx, owners, proven)
}
