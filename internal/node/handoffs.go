package node

import (
	"context"
	"sync"
	"time"

	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/storage"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// announceTimeout bounds how long a stopping node waits for its peers to note that.
const announceTimeout = 2 * time.Second

// givers are the members that may note a gap for this node, as far as they are reached. There
// are none as long as what this node has already may be deleted.
func (n *Node) givers() map[table.NodeID]handoff.Peer {
	peers := map[table.NodeID]handoff.Peer{}
	if n.deletion.ending() {
		return peers
	}
	for _, m := range n.cluster.Members() {
		if m.Slot >= 0 && m.ID != n.cluster.Self() && m.State == cluster.Alive {
			peers[m.ID] = givingPeer{n.peers.Peer(m.ID)}
		}
	}
	return peers
}

// announceAbsence has the peers note that this node will miss what is written from now on, so
// that nobody waits for it.
func (n *Node) announceAbsence() {
	p := n.placed.Load()
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), announceTimeout)
	defer cancel()
	self, now := n.cluster.Self(), time.Now().UnixMilli()
	var told sync.WaitGroup
	for _, m := range n.cluster.Members() {
		if m.Slot < 0 || m.ID == self || m.State != cluster.Alive {
			continue
		}
		told.Go(func() {
			if err := n.peers.Peer(m.ID).Note(ctx, p.table, self, now); err != nil {
				n.logger.Debug("A peer was not told that this node stops", "peer", m.ID, "err", err)
			}
		})
	}
	told.Wait()
}

// sharedFraction is how much of what this node owns another owner has as well, on average.
func (n *Node) sharedFraction() float64 {
	p := n.placed.Load()
	if p == nil || p.reading.Owners() < 2 {
		return 0
	}
	return float64(p.reading.Copies()-1) / float64(p.reading.Owners()-1)
}

// measuredStore counts what is stored.
type measuredStore struct {
	*storage.Store
	flow *handoff.Flow
	load *load
}

// Append implements ingest.Store.
func (s measuredStore) Append(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	outcome, err := s.Store.Append(ctx, b)
	if err == nil {
		n := b.NumSamples()
		s.flow.Add(n)
		s.load.stored.Add(int64(n))
	}
	return outcome, err
}

// givingPeer is a peer as a Taker knows it.
type givingPeer struct{ *transport.Peer }

// HandOff implements handoff.Peer.
func (p givingPeer) HandOff(ctx context.Context, t *table.Table, self table.NodeID, session uint64) (proof.Window, promstorage.ChunkSeriesSet, error) {
	w, set, err := p.Peer.HandOff(ctx, t, self, session)
	if err != nil || set == nil {
		return w, nil, err
	}
	return w, set, nil
}

// peerGiver is a Giver as peers know it.
type peerGiver struct{ *handoff.Giver }

// Give implements transport.Giver.
func (g peerGiver) Give(ctx context.Context, epoch uint64, peer table.NodeID, session uint64) (proof.Window, transport.SeriesSet, error) {
	w, set, err := g.Giver.Give(ctx, epoch, peer, session)
	if err != nil || set == nil {
		return w, nil, err
	}
	return w, set, nil
}
