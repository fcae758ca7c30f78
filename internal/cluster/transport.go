package cluster

import (
	"log/slog"
	"sync"

	"github.com/hashicorp/raft"
)

// transport is Raft's network. It makes up for a check that Raft 1.8.0 lacks: a follower
// that is sent what follows on its snapshot looks for the snapshot's last entry at the end
// of its log or in it, but not in the snapshot. So once it has stored something after a
// snapshot that it was sent, and the leader did not hear of that, it refuses all entries;
// the leader sends the snapshot again, and both go round without a pause until the leader
// takes its next snapshot or another leads.
type transport struct {
	*raft.NetworkTransport
	store    *logStore
	log      *slog.Logger
	requests chan raft.RPC

	once sync.Once
	done chan struct{}
}

func newTransport(inner *raft.NetworkTransport, store *logStore, log *slog.Logger) *transport {
	t := &transport{
		NetworkTransport: inner, store: store, log: log,
		requests: make(chan raft.RPC), done: make(chan struct{}),
	}
	go t.forward()
	return t
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.requests }

// Close implements raft.WithClose.
func (t *transport) Close() error {
	t.once.Do(func() { close(t.done) })
	return t.NetworkTransport.Close()
}

func (t *transport) forward() {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			if r, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				t.compare(r)
			}
			select {
			case t.requests <- rpc:
			case <-t.done:
				return
			}
		case <-t.done:
			return
		}
	}
}

// compare does for Raft what it would not find out: that the leader has the last entry of
// the snapshot which this node's log begins after. A request without an entry before its
// own is not compared again.
func (t *transport) compare(r *raft.AppendEntriesRequest) {
	if r.PrevLogEntry == 0 {
		return
	}
	same, err := t.store.beginsAfter(r.PrevLogEntry, r.PrevLogTerm)
	if err != nil {
		t.log.Warn("Compare a Raft request with the newest snapshot; the leader may have to send that again", "err", err)
	}
	if same {
		r.PrevLogEntry, r.PrevLogTerm = 0, 0
	}
}
