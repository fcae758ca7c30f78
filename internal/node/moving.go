package node

import (
	"context"
	"errors"
	"math"
	"time"

	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/placement"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// readyFor is the phase that this node is ready for, as the cluster is told. What an old copy of
// the data directory says of that is not true any more.
func (n *Node) readyFor() uint64 {
	if n.mover == nil || n.outdated.Load() != nil {
		return 0
	}
	return n.mover.Ready()
}

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
		Began: p.table.Transition.Began, From: p.reading.Assignment, Origins: make([]handoff.Origin, len(p.reading.Slots)), Paused: p.table.Paused,
	}
	n.copying.look(n.mover.Progress(), m, time.Now())
	for slot, s := range p.reading.Slots {
		if s.Node != "" && !s.Removed {
			m.Origins[slot] = origin{n.source(s.Node, p.table), n, p, s.Node}
		}
	}
	return m
}

// origin is a present owner that this node copies from.
type origin struct {
	query.Source
	n  *Node
	p  *placed
	id table.NodeID
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
func (o origin) Copy(ctx context.Context, pf *proof.Proof, mint, maxt int64) promstorage.ChunkSeriesSet {
	return o.Source.Select(ctx, query.SelectRequest{
		Mint: mint, Maxt: maxt, Hints: &promstorage.SelectHints{Start: mint, End: maxt},
		Matchers: handoff.Everything(), Proof: pf, GainedBy: o.n.cluster.Self(),
	})
}

// Metadata implements handoff.Origin.
func (o origin) Metadata(ctx context.Context) ([]series.Metadata, error) {
	all, err := o.Source.Metadata(ctx, "", -1, 0)
	if err != nil {
		return nil, err
	}
	gained := o.p.gained(o.n.cluster.Self())
	var families []series.Metadata
	for family, list := range all {
		if !gained(placement.FamilyKey(tenant, family)) {
			continue
		}
		for _, m := range list {
			families = append(families, series.Metadata{Family: family, Metadata: m})
		}
	}
	return families, nil
}
