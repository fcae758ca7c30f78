package node

import (
	"context"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/table"
)

// horizons implements transport.Horizons: this node's store, and what others say of theirs.
type horizons struct{ n *Node }

// Word implements transport.Horizons.
func (h horizons) Word() expiry.Word { return h.n.store.Word() }

// Heard implements transport.Horizons. What a peer says is asked for so often that it needs no
// other attempt.
func (h horizons) Heard(ctx context.Context, peer table.NodeID, w expiry.Word) {
	if err := h.n.store.AdoptHorizon(ctx, w.Horizon); err != nil {
		h.n.logger.Debug("A peer's horizon is not taken over yet", "peer", peer, "err", err)
		return
	}
	own := h.n.store.Word()
	said := said{limits: w.Limits, beyond: w.Horizon.At() > own.Horizon.At()}
	if !h.n.heard.changed(peer, said) {
		return
	}
	if w.Limits != own.Limits {
		h.n.logger.Warn("A member is to keep samples for another time, or in another size: give all nodes the same --storage.tsdb.retention.time and --storage.tsdb.retention.size; until then the smallest size holds for all, and each node's own time for itself",
			"peer", peer, "theirs", time.Duration(w.Limits.Time)*time.Millisecond, "theirs_bytes", w.Limits.Size,
			"ours", time.Duration(own.Limits.Time)*time.Millisecond, "ours_bytes", own.Limits.Size)
	}
	if said.beyond {
		h.n.logger.Warn("Samples are expired on a member that are not expired here: its retention is shorter, or its clock ahead; queries of that time go without it",
			"peer", peer, "theirs", time.UnixMilli(w.Horizon.At()).UTC(), "ours", time.UnixMilli(own.Horizon.At()).UTC())
	}
}

// said is what a peer was heard to say.
type said struct {
	limits expiry.Limits
	// beyond tells whether its horizon was not taken over.
	beyond bool
}

// heard remembers what the peers said last, so that the log says it once.
type heard struct {
	mu    sync.Mutex
	peers map[table.NodeID]said
}

// changed takes note of what a peer says, and tells whether that is new.
func (h *heard) changed(peer table.NodeID, s said) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last, ok := h.peers[peer]; ok && last == s {
		return false
	}
	if h.peers == nil {
		h.peers = map[table.NodeID]said{}
	}
	h.peers[peer] = s
	return true
}
