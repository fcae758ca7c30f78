package node

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/placement"
	"github.com/starling-tsdb/starling/internal/plan"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// readyFor is the phase that this node is ready for, as the cluster is told. With damage in its
// data it is not ready any more.
func (n *Node) readyFor() uint64 {
	if n.mover == nil || n.damaged() {
		return 0
	}
	return n.mover.Ready()
}

// damaged tells whether this node lacks some of what it confirmed.
func (n *Node) damaged() bool { return len(n.reader().State().Damage) > 0 }

// move is what this node has to copy now, or nil.
func (n *Node) move() *handoff.Move {
	p := n.placed.Load()
	if p == nil || p.table.Transition == nil || p.table.Transition.Phase != table.Copying {
		return nil
	}
	if _, owns := p.table.Target().SlotOf(n.cluster.Self()); !owns || n.deletion.ending() {
		return nil
	}
	m := &handoff.Move{
		Began: p.table.Transition.Began, Owners: n.owners(p, &proof.Part{Node: n.cluster.Self(), Gained: true, Ranges: proof.AllRanges}),
		Gains:   p.reading.Unproven() || plan.Gains(p.reading.Assignment, p.table.Target(), n.cluster.Self()),
		Damaged: n.damaged(), Paused: p.table.Paused,
	}
	n.copying.look(n.mover.Progress(), m, time.Now())
	return m
}

// owners are those that queries read from, to copy a part from.
func (n *Node) owners(p *placed, part *proof.Part) handoff.Owners {
	wanted, dst := p.part(part), make([]int, 0, p.reading.Copies())
	o := handoff.Owners{
		From: p.reading.Assignment, MostCopies: p.reading.mostCopies, Origins: make([]handoff.Origin, len(p.reading.Slots)),
		Placed: func(ls labels.Labels) (key uint64, owners []int, _ bool) {
			key = keyOf(ls)
			dst = p.reading.slots.Owners(key, dst)
			return key, dst, wanted(key)
		},
	}
	for slot, s := range p.reading.Slots {
		if s.Node != "" && !s.Removed {
			o.Origins[slot] = origin{n.source(s.Node, p.table), n, p, s.Node, part}
		}
	}
	return o
}

// origin is a present owner that this node copies from.
type origin struct {
	query.Source
	n  *Node
	p  *placed
	id table.NodeID
	// part is what is copied.
	part *proof.Part
}

// Oldest implements handoff.Origin.
func (o origin) Oldest(ctx context.Context) (int64, error) {
	r, err := o.n.report(ctx, o.id, o.p.table)
	if err == nil && r.Oldest == math.MinInt64 {
		err = errors.New("its store is being opened")
	}
	return r.Oldest, err
}

// Copy implements handoff.Origin.
func (o origin) Copy(ctx context.Context, pf *proof.Proof, ranges uint64, mint, maxt int64) promstorage.ChunkSeriesSet {
	return o.Select(ctx, o.request(pf, ranges, mint, maxt))
}

// Sum implements handoff.Origin. A node does not copy from itself.
func (o origin) Sum(ctx context.Context, pf *proof.Proof, ranges uint64, mint, maxt int64, encoded bool) (*proof.Sums, error) {
	sel := selection(o.p.table, o.request(pf, ranges, mint, maxt))
	sel.Encoded = encoded
	return o.n.peers.Peer(o.id).Sum(ctx, o.p.table, sel)
}

// request asks for what is to be copied.
func (o origin) request(pf *proof.Proof, ranges uint64, mint, maxt int64) query.SelectRequest {
	return query.SelectRequest{
		Mint: mint, Maxt: maxt, Hints: &promstorage.SelectHints{Start: mint, End: maxt}, Matchers: handoff.Everything(),
		Proof: pf, Part: &proof.Part{Node: o.part.Node, Gained: o.part.Gained, Ranges: ranges},
	}
}

// Metadata implements handoff.Origin.
func (o origin) Metadata(ctx context.Context) ([]series.Metadata, error) {
	all, err := o.Source.Metadata(ctx, "", -1, 0)
	if err != nil {
		return nil, err
	}
	wanted := o.p.part(o.part)
	var families []series.Metadata
	for family, list := range all {
		if !wanted(placement.FamilyKey(tenant, family)) {
			continue
		}
		for _, m := range list {
			families = append(families, series.Metadata{Family: family, Metadata: m})
		}
	}
	return families, nil
}
