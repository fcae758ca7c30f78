package node

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// reportTimeout bounds how long an operator waits for nodes that do not answer.
const reportTimeout = time.Second

// reporter is what this node tells operators of itself.
type reporter struct{ n *Node }

// Report implements transport.Reporter.
func (s reporter) Report() transport.Report {
	n := s.n
	r := transport.Report{Oldest: math.MinInt64, Windows: n.comparer.Wanted(), Damaged: len(n.store.Damage())}
	// A store that is being opened again says nothing, for as long as that takes.
	if h, err := n.store.Holding(); err == nil {
		r.Series, r.Bytes, r.Oldest = h.Series, h.Bytes, h.Oldest
		for _, e := range h.Extents {
			r.Extents = append(r.Extents, transport.Extent(e))
		}
	}
	r.Open, r.Load = n.openGaps(), n.load.read(n.store.Disk())
	if err := n.ready(); err != nil {
		r.Unready = strings.ToValidUTF8(err.Error(), "?")
	}
	p := n.mover.Progress()
	r.Copying = transport.Copying{
		Began: p.Began, Until: p.Until, Ready: p.Ready, Samples: p.Samples, Bytes: p.Bytes, Started: p.Started, Timed: n.copying.read(time.Now()),
	}
	if now := n.placed.Load(); now != nil && now.table.Transition != nil {
		r.PhaseBegan, r.PhaseSince = now.table.Transition.Began, now.since
		if r.PhaseSince.IsZero() && p.Began == r.PhaseBegan {
			r.PhaseSince = p.Started
		}
	}
	return r
}

// openGaps are those that this node notes.
func (n *Node) openGaps() (open []transport.OpenGap) {
	for _, g := range n.gaps.Status() {
		left := n.giver.Left(g.Gap)
		open = append(open, transport.OpenGap{
			Peer: g.Peer, Since: g.Since, Opened: g.Opened, HandingOff: g.HandingOff, Samples: int64(left.Samples), Bytes: int64(left.Bytes),
		})
	}
	return open
}

// report asks a node, this one included, about itself.
func (n *Node) report(ctx context.Context, id table.NodeID, t *table.Table) (transport.Report, error) {
	if id == n.cluster.Self() {
		return reporter{n}.Report(), nil
	}
	return n.peers.Peer(id).Report(ctx, t)
}

// reports asks all nodes that gossip reaches about themselves. Those that do not answer in
// time are absent.
func (n *Node) reports(ctx context.Context) map[table.NodeID]transport.Report {
	reports := map[table.NodeID]transport.Report{n.cluster.Self(): reporter{n}.Report()}
	p := n.placed.Load()
	if p == nil {
		return reports
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, m := range n.cluster.Members() {
		if m.ID == n.cluster.Self() || m.State != cluster.Alive {
			continue
		}
		asked.Go(func() {
			r, err := n.report(ctx, m.ID, p.table)
			if err != nil {
				n.logger.Debug("A node does not say how it is", "peer", m.ID, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			reports[m.ID] = r
		})
	}
	asked.Wait()
	return reports
}

// phaseSince is when the phase of the table t began for a node that has had another table
// before; zero if there is no transition, or nobody knows.
func phaseSince(before *placed, t *table.Table, now time.Time) time.Time {
	was := before.table.Transition
	switch {
	case t.Transition == nil:
		return time.Time{}
	case was != nil && was.Began == t.Transition.Began:
		return before.since
	}
	return now
}

// firstSeen is when the first node had a table of the phase that p is in; nil if nobody knows.
// Reports may be from before p was adopted, this node's own among them.
func firstSeen(p *placed, reports map[table.NodeID]transport.Report) *time.Time {
	first := p.since
	for _, r := range reports {
		if r.PhaseBegan == p.table.Transition.Began && !r.PhaseSince.IsZero() && (first.IsZero() || r.PhaseSince.Before(first)) {
			first = r.PhaseSince
		}
	}
	if first.IsZero() {
		return nil
	}
	first = first.UTC()
	return &first
}

// copyStatus is how far a copying is that began with an epoch, given where in time the bytes are
// that are copied from. It goes through time from the oldest one on.
func copyStatus(c transport.Copying, began uint64, from []transport.Extent) api.CopyStatus {
	var out api.CopyStatus
	if c.Began != began {
		return out
	}
	out.Ready, out.Samples, out.Bytes = c.Ready, c.Samples, c.Bytes
	if !c.Started.IsZero() {
		started := c.Started.UTC()
		out.Started = &started
	}
	if c.Ready {
		out.Done = 1
		return out
	}
	if out.Done = copied(c.Until, from); out.Done > 0 {
		left := (1 - out.Done) / out.Done
		out.SamplesLeft, out.BytesLeft = int64(math.Round(float64(c.Samples)*left)), int64(math.Round(float64(c.Bytes)*left))
	}
	if c.Until > firstYear && c.Until < math.MaxInt64 {
		until := time.UnixMilli(c.Until).UTC()
		out.Until = &until
	}
	seconds := c.Timed.Ago.Seconds()
	if seconds <= 0 {
		return out
	}
	out.SamplesPerSecond = float64(c.Samples-c.Timed.Samples) / seconds
	out.BytesPerSecond = float64(c.Bytes-c.Timed.Bytes) / seconds
	if speed := (out.Done - copied(c.Timed.Until, from)) / seconds; speed > 0 {
		out.SecondsLeft = (1 - out.Done) / speed
	}
	return out
}

// copyStatusOf is how far the copying of a node is in the present transition, if there is one.
func copyStatusOf(p *placed, id table.NodeID, reports map[table.NodeID]transport.Report) api.CopyStatus {
	if p.table.Transition == nil {
		return api.CopyStatus{}
	}
	return copyStatus(reports[id].Copying, p.table.Transition.Began, sources(p, id, reports))
}

// sources are where in time the bytes are that a node copies from: those of the present owners
// that have answered, but for itself.
func sources(p *placed, id table.NodeID, reports map[table.NodeID]transport.Report) (from []transport.Extent) {
	for _, owner := range p.reading.Nodes() {
		if owner != id {
			from = append(from, reports[owner].Extents...)
		}
	}
	return from
}

// copied is which part of the bytes are before a time. Samples lie evenly in an extent.
func copied(until int64, from []transport.Extent) float64 {
	if until == math.MaxInt64 {
		return 1
	}
	all, before := 0.0, 0.0
	for _, e := range from {
		bytes := float64(e.Bytes)
		all += bytes
		switch {
		case e.Max < until:
			before += bytes
		case e.Min < until:
			before += bytes * (float64(until) - float64(e.Min)) / (float64(e.Max) - float64(e.Min) + 1)
		}
	}
	if all == 0 {
		return 0
	}
	return before / all
}

// stopwatch remembers since when, and from where on, this process copies. It may be used
// concurrently.
type stopwatch struct {
	mu sync.Mutex
	// running is the epoch of the copying that is timed, 0 if none is.
	running uint64
	start   time.Time
	mark    transport.Mark
}

// look takes note of how far the copying is.
func (w *stopwatch) look(p handoff.Progress, m *handoff.Move, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case p.Began != m.Began || p.Ready || m.Paused:
		w.running = 0
	case w.running != p.Began:
		w.running, w.start, w.mark = p.Began, now, transport.Mark{Until: p.Until, Samples: p.Samples, Bytes: p.Bytes}
	}
}

// read returns where the timing began, and how long ago.
func (w *stopwatch) read(now time.Time) transport.Mark {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == 0 {
		return transport.Mark{}
	}
	mark := w.mark
	mark.Ago = now.Sub(w.start)
	return mark
}
