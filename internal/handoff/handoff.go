// Package handoff brings a node what it lacks: what it missed while it was away, from the
// stores of those that noted a gap for it, and what it is to own, from the present owners.
//
// Giver is the side that noted the gap: it reads one window of time after the other, within
// a rate. Taker is the side that was away: it asks its peers, stores what it lacks, and says
// so only when that is synced. Either side may restart at any moment: the note on the
// giver's disk says where to go on.
//
// Mover copies what the node is to own by the target of a transition.
package handoff

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"golang.org/x/time/rate"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// windowSpan is the length of a window, but for the last one. Windows end at multiples
	// of it, as blocks do.
	windowSpan = 2 * time.Hour

	// ancientAge is the age up to which windows are small. A note that is damaged begins at
	// the beginning of time; whatever is older is one window.
	ancientAge = 31 * 24 * time.Hour

	// burst is how many bytes the rate may be exceeded by, and the most that is waited for
	// at once: no chunk is larger.
	burst = 1 << 20

	// aliveEvery is after how many bytes a session is kept from timing out.
	aliveEvery = 64 << 10
)

// Everything matches all series, which have a metric name.
func Everything() []*labels.Matcher {
	return []*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, labels.MetricName, "")}
}

// Book holds the gaps that the giver notes.
type Book interface {
	Open() []proof.Gap
	Begin(peer table.NodeID, session uint64) (number uint64, since int64, open bool)
	Alive(peer table.NodeID, session uint64) error
	Advance(ctx context.Context, peer table.NodeID, session uint64, until int64) (since int64, open bool, err error)
}

// Source is the giver's store.
type Source interface {
	ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error)
}

// GiverOptions are what a Giver works with. All are required but Registerer.
type GiverOptions struct {
	Book   Book
	Source Source
	// Owns returns which series a peer owns by the table of an epoch. Another epoch than
	// the node's own is a *table.MismatchError.
	Owns func(epoch uint64, peer table.NodeID) (func(labels.Labels) bool, error)
	// Flow knows what was stored when, and Fraction how much of it a peer owns too.
	Flow     *Flow
	Fraction func() float64
	// BytesPerSecond bounds what all peers together are given.
	BytesPerSecond int64
	Registerer     prometheus.Registerer
}

// Giver hands off what peers lack. Its methods may be called concurrently.
type Giver struct {
	opts    GiverOptions
	limiter *rate.Limiter
	bytes   *prometheus.CounterVec
	samples *prometheus.CounterVec
	given   given
}

// NewGiver returns a Giver. It starts nothing and needs no closing.
func NewGiver(opts GiverOptions) *Giver {
	factory := promauto.With(opts.Registerer)
	g := &Giver{
		opts:    opts,
		limiter: rate.NewLimiter(rate.Limit(opts.BytesPerSecond), burst),
		bytes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_handoff_given_bytes_total",
			Help: "Bytes of chunks handed off to a peer that missed them.",
		}, []string{"peer"}),
		samples: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_handoff_given_samples_total",
			Help: "Samples handed off to a peer that missed them, or may have.",
		}, []string{"peer"}),
	}
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(leftCollector{g})
	}
	return g
}

// Give begins the next window of what the peer may lack, in the given session or, if that is
// not the present one, in a new one. The set is nil if the peer lacks nothing, and else
// closed by the caller.
func (g *Giver) Give(ctx context.Context, epoch uint64, peer table.NodeID, session uint64) (proof.Window, *Set, error) {
	if _, err := g.opts.Owns(epoch, peer); err != nil {
		return proof.Window{}, nil, err
	}
	number, since, open := g.opts.Book.Begin(peer, session)
	if !open {
		return proof.Window{}, nil, nil
	}
	// Once more: what the gap was offered for before may be a series that the peer owns by
	// a newer table only.
	owns, err := g.opts.Owns(epoch, peer)
	if err != nil {
		return proof.Window{}, nil, err
	}
	until := windowEnd(since, time.Now())
	// The querier is opened after the session began: it finds all that was stored for
	// somebody who was offered the gap before.
	q, err := g.opts.Source.ChunkQuerier(since, until-1)
	if err != nil {
		return proof.Window{}, nil, fmt.Errorf("hand off to %s: %w", peer, err)
	}
	all := q.Select(ctx, true, &storage.SelectHints{Start: since, End: until - 1}, Everything()...)
	s := &Set{
		pacedSet: pacedSet{ChunkSeriesSet: all, ctx: ctx, giver: g, peer: peer},
		querier:  q, session: number, owns: owns,
	}
	s.sent = s.keepAlive
	return proof.Window{Session: number, Since: since, Until: until}, s, nil
}

// windowEnd returns where the window that begins at a time ends, exclusively, both in
// milliseconds.
func windowEnd(since int64, now time.Time) int64 {
	switch ancient := now.Add(-ancientAge).UnixMilli(); {
	case since < ancient:
		return windowEdge(ancient)
	case since < now.Add(-windowSpan).UnixMilli():
		return windowEdge(since)
	default:
		return math.MaxInt64
	}
}

// windowEdge returns where the window with a time in it ends, as blocks do, in milliseconds.
func windowEdge(t int64) int64 {
	span := windowSpan.Milliseconds()
	return t - (t%span+span)%span + span
}

// Advance says that the peer has stored and synced a window.
func (g *Giver) Advance(ctx context.Context, peer table.NodeID, session uint64, until int64) (open bool, err error) {
	_, open, err = g.opts.Book.Advance(ctx, peer, session, until)
	return open, err
}

// Set is the series of a window that the peer owns, within the giver's rate.
type Set struct {
	pacedSet
	querier storage.ChunkQuerier
	session uint64
	owns    func(labels.Labels) bool
	unpaid  int // bytes since the session was said to be alive
}

// Next implements storage.ChunkSeriesSet.
func (s *Set) Next() bool {
	for s.pacedSet.Next() {
		if s.owns(s.ChunkSeriesSet.At().Labels()) {
			return true
		}
	}
	return false
}

// Close implements io.Closer.
func (s *Set) Close() error { return s.querier.Close() }

// keepAlive keeps the session from timing out while its window is on the way.
func (s *Set) keepAlive(bytes int) error {
	if s.unpaid += bytes; s.unpaid < aliveEvery {
		return nil
	}
	s.unpaid = 0
	return s.giver.opts.Book.Alive(s.peer, s.session)
}

// Pace returns a set whose chunks come at the giver's rate, for a peer that copies them.
func (g *Giver) Pace(ctx context.Context, peer table.NodeID, set storage.ChunkSeriesSet) storage.ChunkSeriesSet {
	return &pacedSet{ChunkSeriesSet: set, ctx: ctx, giver: g, peer: peer, sent: func(int) error { return nil }}
}

// pacedSet is a set whose chunks come at the giver's rate.
type pacedSet struct {
	storage.ChunkSeriesSet
	ctx   context.Context
	giver *Giver
	peer  table.NodeID
	sent  func(bytes int) error
	err   error
}

// Next implements storage.ChunkSeriesSet.
func (s *pacedSet) Next() bool { return s.err == nil && s.ChunkSeriesSet.Next() }

// At implements storage.ChunkSeriesSet.
func (s *pacedSet) At() storage.ChunkSeries { return &paced{s.ChunkSeriesSet.At(), s} }

// Err implements storage.ChunkSeriesSet.
func (s *pacedSet) Err() error {
	if s.err != nil {
		return s.err
	}
	return s.ChunkSeriesSet.Err()
}

// take waits until the rate allows for a chunk.
func (s *pacedSet) take(c chunks.Meta) error {
	n := len(c.Chunk.Bytes())
	if err := s.giver.limiter.WaitN(s.ctx, min(n, burst)); err != nil {
		return err
	}
	s.giver.bytes.WithLabelValues(string(s.peer)).Add(float64(n))
	s.giver.samples.WithLabelValues(string(s.peer)).Add(float64(c.Chunk.NumSamples()))
	s.giver.given.bytes.Add(int64(n))
	s.giver.given.samples.Add(int64(c.Chunk.NumSamples()))
	return s.sent(n)
}

// paced is a series whose chunks come at the giver's rate.
type paced struct {
	storage.ChunkSeries
	set *pacedSet
}

// Iterator implements storage.ChunkSeries.
func (p *paced) Iterator(chunks.Iterator) chunks.Iterator {
	return &pacedIterator{p.ChunkSeries.Iterator(nil), p.set}
}

type pacedIterator struct {
	chunks.Iterator
	set *pacedSet
}

// Next implements chunks.Iterator.
func (it *pacedIterator) Next() bool {
	if it.set.err != nil || !it.Iterator.Next() {
		return false
	}
	it.set.err = it.set.take(it.At())
	return it.set.err == nil
}

// Err implements chunks.Iterator.
func (it *pacedIterator) Err() error {
	if it.set.err != nil {
		return it.set.err
	}
	return it.Iterator.Err()
}
