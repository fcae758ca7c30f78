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

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// WindowSpan is the length of a window, but for the last one. Windows end at multiples
	// of it, as blocks do.
	WindowSpan = 2 * time.Hour

	// ancientAge is the age up to which windows are small. A note that is damaged begins at
	// the beginning of time; whatever is older is one window.
	ancientAge = 31 * 24 * time.Hour

	// burst is how many bytes the rate may be exceeded by, and the most that is waited for
	// at once: no chunk is larger.
	burst = 1 << 20

	// aliveEvery is after how many bytes a session is kept from timing out.
	aliveEvery = 64 << 10
)

// What a peer is given chunks for.
const (
	forGap  = "gap"
	forCopy = "copy"
)

// Everything matches all series, which have a metric name.
func Everything() []*labels.Matcher {
	return []*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, labels.MetricName, "")}
}

// Pause waits for a time, and tells whether ctx has not ended before.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
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
	// Horizon is what the giver's samples are expired before; none of that is handed off.
	Horizon() expiry.Horizon
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
			Help: "Bytes of chunks given to a peer, that had missed some of them (gap) or was to own them (copy).",
		}, []string{"peer", "reason"}),
		samples: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_handoff_given_samples_total",
			Help: "Samples given to a peer, that had or may have missed some of them (gap) or was to own them (copy).",
		}, []string{"peer", "reason"}),
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
	since = max(since, g.opts.Source.Horizon().At())
	until := windowEnd(since, time.Now())
	// The querier is opened after the session began: it finds all that was stored for
	// somebody who was offered the gap before.
	q, err := g.opts.Source.ChunkQuerier(since, until-1)
	if err != nil {
		return proof.Window{}, nil, fmt.Errorf("hand off to %s: %w", peer, err)
	}
	all := q.Select(ctx, true, &storage.SelectHints{Start: since, End: until - 1}, Everything()...)
	take, alive := g.take(ctx, peer, forGap), g.keepAlive(peer, number)
	each := func(c chunks.Meta) error {
		if err := take(c); err != nil {
			return err
		}
		return alive(c)
	}
	s := &Set{tappedSet: tappedSet{ChunkSeriesSet: all, each: each}, querier: q, owns: owns}
	return proof.Window{Session: number, Since: since, Until: until}, s, nil
}

// windowEnd returns where the window that begins at a time ends, exclusively, both in
// milliseconds.
func windowEnd(since int64, now time.Time) int64 {
	switch ancient := now.Add(-ancientAge).UnixMilli(); {
	case since < ancient:
		return WindowEdge(ancient)
	case since < now.Add(-WindowSpan).UnixMilli():
		return WindowEdge(since)
	default:
		return math.MaxInt64
	}
}

// WindowStart returns where the window with a time in it begins, as blocks do, in milliseconds.
func WindowStart(t int64) int64 { return WindowEdge(t) - WindowSpan.Milliseconds() }

// WindowEdge returns where that window ends, exclusive.
func WindowEdge(t int64) int64 { return edge(t, WindowSpan.Milliseconds()) }

// edge returns the next multiple of span after a time.
func edge(t, span int64) int64 { return t - (t%span+span)%span + span }

// Advance says that the peer has stored and synced a window.
func (g *Giver) Advance(ctx context.Context, peer table.NodeID, session uint64, until int64) (open bool, err error) {
	_, open, err = g.opts.Book.Advance(ctx, peer, session, until)
	return open, err
}

// Set is the series of a window that the peer owns, within the giver's rate.
type Set struct {
	tappedSet
	querier storage.ChunkQuerier
	owns    func(labels.Labels) bool
}

// Next implements storage.ChunkSeriesSet.
func (s *Set) Next() bool {
	for s.tappedSet.Next() {
		if s.owns(s.ChunkSeriesSet.At().Labels()) {
			return true
		}
	}
	return false
}

// Close implements io.Closer.
func (s *Set) Close() error { return s.querier.Close() }

// keepAlive returns what keeps a session from timing out while its window is on the way. It is
// told of each chunk.
func (g *Giver) keepAlive(peer table.NodeID, session uint64) func(chunks.Meta) error {
	unpaid := 0 // bytes since the session was said to be alive
	return func(c chunks.Meta) error {
		if unpaid += len(c.Chunk.Bytes()); unpaid < aliveEvery {
			return nil
		}
		unpaid = 0
		return g.opts.Book.Alive(peer, session)
	}
}

// Pace returns a set whose chunks come at the giver's rate, for a peer that copies them.
func (g *Giver) Pace(ctx context.Context, peer table.NodeID, set storage.ChunkSeriesSet) storage.ChunkSeriesSet {
	return &tappedSet{ChunkSeriesSet: set, each: g.take(ctx, peer, forCopy)}
}

// take returns what waits until the rate allows for a chunk, and counts it.
func (g *Giver) take(ctx context.Context, peer table.NodeID, reason string) func(chunks.Meta) error {
	bytes, samples := g.bytes.WithLabelValues(string(peer), reason), g.samples.WithLabelValues(string(peer), reason)
	return func(c chunks.Meta) error {
		n := len(c.Chunk.Bytes())
		if err := g.limiter.WaitN(ctx, min(n, burst)); err != nil {
			return err
		}
		bytes.Add(float64(n))
		samples.Add(float64(c.Chunk.NumSamples()))
		g.given.bytes.Add(int64(n))
		g.given.samples.Add(int64(c.Chunk.NumSamples()))
		return nil
	}
}
