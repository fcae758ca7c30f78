package handoff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// interval is how often peers are asked whether they note a gap; in a large cluster
	// each is given perPeer.
	interval = 2 * time.Second
	perPeer  = 50 * time.Millisecond

	// A peer whose hand-off brought nothing is left alone for firstPause, twice as long after
	// each further one, and at most for lastPause: on busy machines owners confirm too late
	// for their copy to count, and reading what they have then makes them later still.
	firstPause = 4 * time.Second
	lastPause  = 30 * time.Second

	// stateTimeout bounds how long a peer may take to say whether it notes a gap.
	stateTimeout = 2 * time.Second

	// batchSamples is how many samples are stored and synced together.
	batchSamples = 5000
)

// Peer is a node that may note a gap for this one.
type Peer interface {
	State(ctx context.Context, t *table.Table) (proof.State, error)
	// HandOff returns the next window. The set is nil if nothing is lacking; it ends with
	// ctx.
	HandOff(ctx context.Context, t *table.Table, self table.NodeID, session uint64) (proof.Window, storage.ChunkSeriesSet, error)
	Advance(ctx context.Context, t *table.Table, self table.NodeID, w proof.Window) (open bool, err error)
}

// Store is the taker's store.
type Store interface {
	Querier(mint, maxt int64) (storage.Querier, error)
	// Import returns when samples of any age are stored and synced.
	Import(ctx context.Context, b *series.Batch) error
	// Sync returns when all that answers have shown before is synced.
	Sync(ctx context.Context) error
}

// TakerOptions are what a Taker works with. All are required but Registerer.
type TakerOptions struct {
	Self  table.NodeID
	Store Store
	// Damaged is the error of a Querier over a time that lacks samples because of damage.
	Damaged error
	// Table returns nil before the cluster is formed.
	Table func() *table.Table
	// Peers returns who can be asked now.
	Peers      func() map[table.NodeID]Peer
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Taker takes what this node lacks from the peers that noted it.
type Taker struct {
	opts    TakerOptions
	samples *prometheus.CounterVec
	failed  *prometheus.CounterVec
	// idle are the peers whose last hand-off brought nothing. Run's goroutine owns it.
	idle map[table.NodeID]idle
}

// idle says for how long a peer is left alone.
type idle struct {
	until time.Time
	pause time.Duration
}

// NewTaker returns a Taker; Run starts it.
func NewTaker(opts TakerOptions) *Taker {
	factory := promauto.With(opts.Registerer)
	return &Taker{
		opts: opts,
		idle: map[table.NodeID]idle{},
		samples: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_handoff_taken_samples_total",
			Help: "Samples that this node lacked and took from a peer.",
		}, []string{"peer"}),
		failed: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_handoff_failures_total",
			Help: "Hand-offs from a peer that broke off; they begin again.",
		}, []string{"peer"}),
	}
}

// Run asks all peers for what this node lacks, again and again, until ctx ends.
func (t *Taker) Run(ctx context.Context) {
	for {
		wait := interval
		if tb := t.opts.Table(); tb != nil {
			peers := t.opts.Peers()
			wait = max(wait, time.Duration(len(peers))*perPeer)
			for id, peer := range peers {
				if ctx.Err() == nil {
					t.visit(ctx, tb, id, peer)
				}
			}
		}
		if !Pause(ctx, wait) {
			return
		}
	}
}

// visit takes what one peer says that this node lacks.
func (t *Taker) visit(ctx context.Context, tb *table.Table, id table.NodeID, peer Peer) {
	if time.Now().Before(t.idle[id].until) {
		return
	}
	stateCtx, cancel := context.WithTimeout(ctx, stateTimeout)
	state, err := peer.State(stateCtx, tb)
	cancel()
	if err != nil {
		t.opts.Logger.Debug("A peer does not say whether it notes a gap for this node", "peer", id, "err", err)
		return
	}
	if !slices.ContainsFunc(state.Gaps, func(g proof.Gap) bool { return g.Peer == t.opts.Self && !g.Late }) {
		delete(t.idle, id)
		return
	}
	start := time.Now()
	n, err := t.take(ctx, tb, id, peer)
	switch {
	case err == nil:
		t.rest(id, n)
		t.opts.Logger.Info("Took what this node missed", "peer", id, "samples", n, "took", time.Since(start).Round(time.Millisecond))
	case ctx.Err() == nil:
		t.failed.WithLabelValues(string(id)).Inc()
		t.opts.Logger.Warn("Taking what this node missed broke off; it goes on from there", "peer", id, "samples", n, "err", err)
	}
}

// rest decides how long a peer is left alone after a hand-off.
func (t *Taker) rest(id table.NodeID, samples int) {
	if samples > 0 {
		delete(t.idle, id)
		return
	}
	pause := min(max(firstPause, 2*t.idle[id].pause), lastPause)
	t.idle[id] = idle{until: time.Now().Add(pause), pause: pause}
}

// take goes through one hand-off and returns how many samples were lacking.
func (t *Taker) take(ctx context.Context, tb *table.Table, id table.NodeID, peer Peer) (samples int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for session := uint64(0); ; {
		w, set, err := peer.HandOff(ctx, tb, t.opts.Self, session)
		if err != nil || set == nil {
			return samples, err
		}
		n, err := t.absorb(ctx, w, set)
		samples += n
		t.samples.WithLabelValues(string(id)).Add(float64(n))
		if err != nil {
			return samples, err
		}
		open, err := peer.Advance(ctx, tb, t.opts.Self, w)
		if err != nil || !open {
			return samples, err
		}
		session = w.Session
	}
}

// absorb stores and syncs what a window holds beyond the own store, and returns how many
// samples that was.
func (t *Taker) absorb(ctx context.Context, w proof.Window, theirs storage.ChunkSeriesSet) (_ int, err error) {
	m, err := newMissing(ctx, t.opts.Store, t.opts.Damaged, w)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	err = m.take(theirs)
	return m.stored, err
}

// missing collects and stores what one window holds and the own store lacks.
type missing struct {
	ctx     context.Context
	store   Store
	window  proof.Window
	querier storage.Querier
	closed  bool
	own     *cursor
	batch   series.Batch
	pending int // samples in the batch
	stored  int
	lacking lacking
	it      chunkenc.Iterator
}

// newMissing begins a window. damaged is the error of a querier over a time that lacks
// samples.
func newMissing(ctx context.Context, store Store, damaged error, w proof.Window) (*missing, error) {
	q, err := store.Querier(w.Since, w.Until-1)
	if errors.Is(err, damaged) {
		// What is left of it is not looked at: all is taken, and stored twice at worst.
		q, err = storage.NoopQuerier(), nil
	}
	if err != nil {
		return nil, err
	}
	set := q.Select(ctx, true, &storage.SelectHints{Start: w.Since, End: w.Until - 1}, Everything()...)
	return &missing{ctx: ctx, store: store, window: w, querier: q, own: &cursor{set: set}}, nil
}

// close ends the look at the own store, however often it is called.
func (m *missing) close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	return m.querier.Close()
}

// take stores what the whole set holds.
func (m *missing) take(theirs storage.ChunkSeriesSet) error {
	for theirs.Next() {
		if err := m.series(theirs.At()); err != nil {
			return err
		}
	}
	return m.finish(theirs)
}

// finish stores the rest, if both sides were read to their ends, and has what was found in the
// own store be synced.
func (m *missing) finish(theirs storage.ChunkSeriesSet) error {
	if err := errors.Join(theirs.Err(), m.own.set.Err()); err != nil {
		return err
	}
	if err := m.flush(); err != nil {
		return err
	}
	return m.store.Sync(m.ctx)
}

// series adds what a series lacks to the batch.
func (m *missing) series(theirs storage.ChunkSeries) error {
	ls := theirs.Labels()
	has := m.own.seek(ls)
	s := series.Series{Labels: ls}
	for it := theirs.Iterator(nil); ; {
		if !it.Next() {
			if err := it.Err(); err != nil {
				return fmt.Errorf("%s: %w", ls, err)
			}
			break
		}
		m.it = it.At().Chunk.Iterator(m.it)
		if err := m.chunk(&s, has); err != nil {
			return fmt.Errorf("%s: %w", ls, err)
		}
	}
	if len(s.Samples) == 0 {
		return nil
	}
	m.lacking.add(ls, s.Samples)
	m.batch.Series = append(m.batch.Series, s)
	m.pending += len(s.Samples)
	if m.pending < batchSamples {
		return nil
	}
	return m.flush()
}

func (m *missing) chunk(s *series.Series, has func(t int64) bool) error {
	for vt := m.it.Next(); vt != chunkenc.ValNone; vt = m.it.Next() {
		t := m.it.AtT()
		if t < m.window.Since || t >= m.window.Until || has(t) {
			continue
		}
		s.Samples = append(s.Samples, merge.SampleAt(m.it, vt))
	}
	return m.it.Err()
}

// flush stores the batch.
func (m *missing) flush() error {
	if m.pending == 0 {
		return nil
	}
	if err := m.store.Import(m.ctx, &m.batch); err != nil {
		return err
	}
	m.stored += m.pending
	m.batch, m.pending = series.Batch{}, 0
	return nil
}

// cursor walks the own series, in the order of labels, beside those of a peer.
type cursor struct {
	set     storage.SeriesSet
	started bool
	ended   bool
	it      chunkenc.Iterator
}

// at goes to a series and tells whether the store has it. Series are sought in order.
func (c *cursor) at(ls labels.Labels) bool {
	for !c.ended && (!c.started || labels.Compare(c.set.At().Labels(), ls) < 0) {
		c.started = true
		c.ended = !c.set.Next()
	}
	return !c.ended && labels.Equal(c.set.At().Labels(), ls)
}

// seek returns which timestamps of a series are there already. They are sought in order, but
// where chunks of the peer overlap.
func (c *cursor) seek(ls labels.Labels) (has func(t int64) bool) {
	if !c.at(ls) {
		return func(int64) bool { return false }
	}
	own := c.set.At()
	c.it = own.Iterator(c.it)
	// The iterator stands at a time, if valid, and has nothing from end on.
	at, valid, end := int64(0), false, int64(math.MaxInt64)
	return func(t int64) bool {
		if t >= end {
			return false
		}
		if valid && t < at {
			c.it = own.Iterator(c.it)
			valid = false
		}
		if !valid || at < t {
			if valid = c.it.Seek(t) != chunkenc.ValNone; !valid {
				end = t
				c.it = own.Iterator(c.it)
				return false
			}
			at = c.it.AtT()
		}
		return at == t
	}
}
