package gaps

import (
	"context"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// lateness is how long a late note can be withdrawn.
	lateness = 3 * time.Second

	// linger is how long the file of a gap is kept of which all notes were withdrawn: where
	// confirmations are late, more of them will be.
	linger = 10 * time.Second

	// drift is how much earlier a lingering gap may begin than what it is noted for again.
	drift = 10 * time.Minute
)

// NoteLate is Note for a peer that may yet confirm what it is noted for. The ticket is for
// Withdraw; 0 says that the note cannot be withdrawn.
func (b *Book) NoteLate(ctx context.Context, peer table.NodeID, since int64) (ticket uint64, err error) {
	return b.note(ctx, peer, since, true)
}

// wait adds a late note to a gap that is not firm. It is called with mu held.
func (b *Book) wait(n *note) (ticket uint64) {
	if n.lingering != nil || n.late == nil {
		n.stop()
		n.late = map[uint64]*time.Timer{}
	}
	b.last++
	ticket = b.last
	n.late[ticket] = time.AfterFunc(lateness, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if n.late[ticket] != nil {
			b.keep(n)
		}
	})
	return ticket
}

// Withdraw takes back a late note: the peer has confirmed what it was for. A note of a gap that
// has to be handed off anyway, or of an earlier run of this node, is not known any more.
func (b *Book) Withdraw(peer table.NodeID, ticket uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.notes[peer]
	if n == nil || n.late[ticket] == nil {
		return
	}
	n.late[ticket].Stop()
	delete(n.late, ticket)
	if len(n.late) == 0 {
		n.lingering = time.AfterFunc(linger, func() { b.tidy(n) })
	}
}

// stop ends what only time would end. It is called with mu held.
func (n *note) stop() {
	if n.lingering != nil {
		n.lingering.Stop()
	}
	for _, timer := range n.late {
		timer.Stop()
	}
	n.lingering, n.late = nil, nil
}

// keep makes a gap firm: from now on it is offered, until it is handed off. It is called with
// mu held.
func (b *Book) keep(n *note) {
	if n.firm {
		return
	}
	n.stop()
	n.firm = true
	b.publish()
	b.logger.Warn("A peer misses writes: noting what it has to be handed when it is back", "peer", n.Peer, "since", formatTime(n.Since))
}

// tidy removes the file of a gap that has lingered long enough.
func (b *Book) tidy(n *note) {
	b.writing <- struct{}{}
	defer b.unlockFile()
	b.mu.Lock()
	lingers := n.lingering != nil
	b.mu.Unlock()
	if !lingers {
		return
	}
	if err := b.remove(n); err != nil {
		b.logger.Warn("A gap that is none any more stays on disk: it will be handed off after a restart", "peer", n.Peer, "err", err)
	}
}
