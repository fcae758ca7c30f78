package cluster

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// peer is what is known of another node, by gossip or from before the last restart.
type peer struct {
	ID     table.NodeID `json:"id"`
	Gossip string       `json:"gossip"` // host:port
	RPC    string       `json:"rpc"`
	HTTP   string       `json:"http,omitempty"`
	Name   string       `json:"name,omitempty"`
	Zone   string       `json:"zone,omitempty"`
	// Boots is the newest start that was seen, and Run its random number, 0 if unknown: a
	// copy of a directory that was made one start ago starts with the same number again.
	Boots uint64 `json:"boots,omitempty"`
	Run   uint64 `json:"run,omitempty"`

	// What follows holds for this run only.
	Version string      `json:"-"`
	Cluster string      `json:"-"`
	Epoch   uint64      `json:"-"`
	Ready   uint64      `json:"-"`
	Expect  int         `json:"-"`
	State   MemberState `json:"-"`
}

// registry holds the peers. All methods may be called concurrently; memberlist calls
// some with its own lock held, so none of them blocks.
type registry struct {
	mu    sync.Mutex
	peers map[table.NodeID]peer
	dirty bool // addresses changed since the last save
}

// loadPeers reads the remembered peers. A damaged file costs the addresses in it, which
// gossip brings back: it is set aside, with a warning.
func loadPeers(dir string, log *slog.Logger) (*registry, error) {
	r := &registry{peers: make(map[table.NodeID]peer)}
	var saved []peer
	err := statefile.Load(dir, peersFile, &saved)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return r, nil
	case errors.Is(err, statefile.ErrDamaged):
		path := filepath.Join(dir, peersFile)
		log.Warn("the file of remembered peers is damaged; it is set aside and addresses are found by gossip and --cluster.join",
			"file", path, "aside", path+".damaged", "err", err)
		return r, os.Rename(path, path+".damaged")
	case err != nil:
		return nil, err
	}
	for _, p := range saved {
		p.State = Unknown
		r.peers[p.ID] = p
	}
	return r, nil
}

// save writes the peers if their addresses changed.
func (r *registry) save(dir string) error {
	r.mu.Lock()
	dirty, list := r.dirty, r.sortedLocked()
	r.dirty = false
	r.mu.Unlock()
	if !dirty {
		return nil
	}
	if err := statefile.Save(dir, peersFile, list); err != nil {
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
		return err
	}
	return nil
}

func (r *registry) sortedLocked() []peer {
	return slices.SortedFunc(maps.Values(r.peers), func(a, b peer) int { return cmpID(a.ID, b.ID) })
}

// put takes in what gossip says of a node. What an older start says is ignored; if no
// newer one is alive, put returns the newest start that is known, and the table that the
// older one has is what the node may be at: an old copy of its directory came back.
func (r *registry) put(p peer) (newer uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, known := r.peers[p.ID]
	if known && old.Boots > p.Boots {
		if old.State == Alive {
			return 0
		}
		old.Epoch, old.Ready = p.Epoch, p.Ready
		r.peers[p.ID] = old
		return old.Boots
	}
	if !known || old.Gossip != p.Gossip || old.RPC != p.RPC || old.HTTP != p.HTTP || old.Name != p.Name || old.Zone != p.Zone || old.Boots != p.Boots {
		r.dirty = true
	}
	if known && old.Boots == p.Boots {
		p.Run = old.Run
	}
	r.peers[p.ID] = p
	return 0
}

// seen takes note of a start that a node told itself.
func (r *registry) seen(id table.NodeID, boots, run uint64) (other uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, known := r.peers[id]
	switch {
	case !known:
		return 0 // gossip comes first
	case p.Boots > boots, p.Boots == boots && p.Run != 0 && p.Run != run:
		return p.Boots
	case p.Boots < boots || p.Run != run:
		p.Boots, p.Run, r.dirty = boots, run, true
		r.peers[id] = p
	}
	return 0
}

// reported notes what a node has answered of itself.
func (r *registry) reported(id table.NodeID, epoch, ready uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.peers[id]; ok {
		p.Epoch, p.Ready = epoch, ready
		r.peers[id] = p
	}
}

// gone notes that a start of a node is dead or left.
func (r *registry) gone(id identity, s MemberState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.peers[id.Node]; ok && p.Boots == id.Boots {
		p.State = s
		r.peers[id.Node] = p
	}
}

// forget drops nodes that keep does not want to remember.
func (r *registry) forget(keep func(peer) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.peers)
	maps.DeleteFunc(r.peers, func(_ table.NodeID, p peer) bool { return !keep(p) })
	r.dirty = r.dirty || len(r.peers) != n
}

func (r *registry) get(id table.NodeID) (peer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.peers[id]
	return p, ok
}

// all returns the peers by ID.
func (r *registry) all() []peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sortedLocked()
}
