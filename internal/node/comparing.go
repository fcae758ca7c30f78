package node

import (
	"context"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/repair"
	"github.com/starling-tsdb/starling/internal/table"
)

// shared is what this node has in common with others. During a transition nothing is compared:
// copies are made then, and what differs is found afterwards.
func (n *Node) shared() *repair.Shared {
	p := n.placed.Load()
	if p == nil || p.table.Transition != nil {
		return nil
	}
	self, owns := p.reading.SlotOf(n.cluster.Self())
	if !owns {
		return nil
	}
	s := &repair.Shared{
		Epoch: p.table.Epoch, Self: self, Twins: map[int]repair.Twin{},
		Owners: func(ls labels.Labels, dst []int) (uint64, []int) {
			key := keyOf(ls)
			return key, p.reading.slots.Owners(key, dst)
		},
	}
	for _, slot := range p.reading.Slots {
		s.Names = append(s.Names, slot.Node)
	}
	for _, m := range n.cluster.Members() {
		if slot, ok := p.reading.SlotOf(m.ID); ok && slot != self && m.State == cluster.Alive {
			s.Twins[slot] = twin{n, p.table, m.ID}
		}
	}
	return s
}

// oldest is the time from which on there may be samples, in milliseconds.
func (n *Node) oldest() int64 {
	h, err := n.store.Holding()
	if err != nil {
		return math.MaxInt64
	}
	if horizon := n.store.Horizon().At(); h.Oldest < horizon {
		return handoff.WindowEdge(horizon - 1) // the window with the horizon is going anyway
	}
	return h.Oldest
}

// twin is another owner of what this node owns.
type twin struct {
	n     *Node
	table *table.Table
	id    table.NodeID
}

// Digests implements repair.Twin.
func (t twin) Digests(ctx context.Context, window proof.Range) (*proof.Sums, error) {
	return t.n.peers.Peer(t.id).Digests(ctx, t.table, t.n.cluster.Self(), window)
}

// Copy implements repair.Twin.
func (t twin) Copy(ctx context.Context, ranges uint64, window proof.Range) promstorage.ChunkSeriesSet {
	return t.n.source(t.id, t.table).Select(ctx, query.SelectRequest{
		Mint: window.Min, Maxt: window.Max, Hints: &promstorage.SelectHints{Start: window.Min, End: window.Max},
		Matchers: handoff.Everything(), Part: &proof.Part{Node: t.n.cluster.Self(), Ranges: ranges},
	})
}

// Compare implements repair.Twin.
func (t twin) Compare(ctx context.Context, window proof.Range) error {
	return t.n.peers.Peer(t.id).Compare(ctx, t.table, window)
}

// repairer implements api.Repairer.
type repairer struct{ n *Node }

// Repair implements api.Repairer.
func (r repairer) Repair(ctx context.Context, mint, maxt int64) (nodes int, unreached map[string]string) {
	p := r.n.placed.Load()
	if p == nil {
		return 0, map[string]string{string(r.n.cluster.Self()): errNotFormed.Error()}
	}
	return r.n.compareOn(ctx, p.table, p.table.Nodes(), proof.Range{Min: mint, Max: maxt})
}

// compareOn has nodes compare a range soon.
func (n *Node) compareOn(ctx context.Context, t *table.Table, nodes []table.NodeID, r proof.Range) (told int, unreached map[string]string) {
	unreached = map[string]string{}
	for _, id := range nodes {
		if id == n.cluster.Self() {
			n.comparer.Compare(r)
			told++
		} else if err := n.peers.Peer(id).Compare(ctx, t, r); err != nil {
			unreached[string(id)] = err.Error()
		} else {
			told++
		}
	}
	return told, unreached
}
