package cluster

import (
	"log/slog"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

// A start of a node is believed unless a later one, or another one of the same number, was
// seen; also after this node has started again.
func TestSeenStarts(t *testing.T) {
	dir := t.TempDir()
	r, err := loadPeers(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.seen("p", 9, 1); got != 0 {
		t.Errorf("a node that gossip has not shown: %d", got)
	}
	r.put(peer{ID: "p", Boots: 3, State: Alive})
	for _, tc := range []struct{ boots, run, want uint64 }{
		{3, 30, 0},
		{3, 30, 0},
		{3, 31, 3},
		{2, 20, 3},
		{4, 40, 0}, // faster than gossip
		{3, 30, 4},
		{4, 41, 4},
	} {
		if got := r.seen("p", tc.boots, tc.run); got != tc.want {
			t.Errorf("start %d, run %d: %d, want %d", tc.boots, tc.run, got, tc.want)
		}
	}
	r.put(peer{ID: "p", Boots: 4, Gossip: "h:1", State: Alive})
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	if r, err = loadPeers(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if got := r.seen("p", 4, 41); got != 4 {
		t.Errorf("after a restart another run of start 4 is believed: %d", got)
	}
	if got := r.seen("p", 4, 40); got != 0 {
		t.Errorf("after a restart the run of start 4 is not believed: %d", got)
	}
}

// TestOlderCopyOfADirectory: what a node reported counts no more once it runs on a
// directory that is older.
func TestOlderCopyOfADirectory(t *testing.T) {
	r := &registry{peers: make(map[table.NodeID]peer)}
	r.put(peer{ID: "a", Boots: 5, Epoch: 7, State: Alive})
	if r.put(peer{ID: "a", Boots: 4, Epoch: 3, State: Alive}); r.peers["a"].Epoch != 7 {
		t.Error("a rumour of an older start counts while a newer one is alive")
	}
	r.gone(identity{Node: "a", Boots: 5}, Dead)
	if p, _ := r.get("a"); p.Epoch != 7 {
		t.Error("a node that is down has forgotten its table")
	}
	if newer := r.put(peer{ID: "a", Boots: 4, Epoch: 3, State: Alive}); newer != 5 {
		t.Errorf("newer start %d, want 5", newer)
	}
	if p, _ := r.get("a"); p.Epoch != 3 || p.State != Dead || p.Boots != 5 {
		t.Errorf("an older copy of a node's directory: %+v, want epoch 3 and else what was", p)
	}
}
