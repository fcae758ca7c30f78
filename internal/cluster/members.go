package cluster

import (
	"fmt"
	"slices"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// MemberState is what gossip says of a node's life.
type MemberState string

const (
	// Alive includes nodes that are suspected and not yet given up.
	Alive MemberState = "alive"
	// Dead nodes stopped answering; they keep their slot.
	Dead MemberState = "dead"
	// Left nodes were stopped in order; they keep their slot, too.
	Left MemberState = "left"
	// Unknown nodes are in the table, or remembered, and gossip has not heard of them.
	Unknown MemberState = "unknown"
)

// Member is one node as this one sees it.
type Member struct {
	ID   table.NodeID
	Name string
	// Gossip, RPC and HTTP are host:port, empty if unknown.
	Gossip, RPC, HTTP string
	Zone, Version     string
	State             MemberState
	// Slot is the node's place in the table, -1 if it has none; see table.Table.SlotOf.
	Slot int
	// Epoch is the newest table that the node has said to have.
	Epoch uint64
	// Ready is the epoch with which the phase of a transition began for which the node has
	// said to hold all that it is to own.
	Ready uint64
}

// Members returns the nodes of the table and those that gossip knows, by slot and then
// by ID. It may be called at any time, by anyone.
func (c *Cluster) Members() []Member {
	t := c.Table()
	var list []Member
	add := func(p peer, listed bool) {
		m := Member{
			ID: p.ID, Name: p.Name, Gossip: p.Gossip, RPC: p.RPC, HTTP: p.HTTP,
			Zone: p.Zone, Version: p.Version, State: p.State, Slot: -1, Epoch: p.Epoch, Ready: p.Ready,
		}
		if t != nil {
			if slot, ok := t.SlotOf(p.ID); ok {
				m.Slot = slot
				m.Zone, _ = t.ZoneOf(p.ID)
			}
		}
		if m.Name == "" {
			m.Name = string(m.ID)
		}
		if listed || m.Slot >= 0 || t != nil && t.Member(p.ID) {
			list = append(list, m)
		}
	}
	add(c.selfPeer(), true)
	known := map[table.NodeID]bool{c.id.Node: true}
	own := c.clusterID()
	for _, p := range c.peers.all() {
		known[p.ID] = true
		foreign := own != "" && p.Cluster != "" && p.Cluster != own
		add(p, !foreign && (p.State == Alive || own == ""))
	}
	if t != nil {
		for _, id := range t.Nodes() {
			if !known[id] {
				add(peer{ID: id, State: Unknown}, true)
			}
		}
	}
	slices.SortFunc(list, func(a, b Member) int {
		switch {
		case a.Slot == b.Slot:
			return cmpID(a.ID, b.ID)
		case a.Slot < 0, b.Slot >= 0 && b.Slot < a.Slot:
			return 1
		}
		return -1
	})
	return list
}

// selfPeer describes this node as gossip describes the others.
func (c *Cluster) selfPeer() peer {
	p := peer{
		ID: c.id.Node, Boots: c.starts.Load(), State: Alive,
		Name: c.cfg.Advertise.Name, Zone: c.cfg.Advertise.Zone, Version: c.cfg.Advertise.Version,
		Cluster: c.clusterID(),
	}
	if t := c.Table(); t != nil {
		p.Epoch, p.Ready = t.Epoch, c.cfg.Ready()
	}
	if a := c.advertised.Load(); a != nil {
		p.Gossip = a.gossip
		p.RPC = joinHostPort(a.ip.String(), c.cfg.Advertise.RPCPort)
		p.HTTP = joinHostPort(a.ip.String(), c.cfg.Advertise.HTTPPort)
	}
	return p
}

// Address returns the rpc address of a node, as gossip says or as it was before this
// node restarted. It may change from one call to the next.
func (c *Cluster) Address(id table.NodeID) (string, bool) {
	p, ok := c.peers.get(id)
	if id == c.id.Node {
		p, ok = c.selfPeer(), true
	}
	return p.RPC, ok && p.RPC != ""
}

// Starts returns how often this node has started.
func (c *Cluster) Starts() uint64 { return c.starts.Load() }

// CountStarts has the number of starts be at least n, durably: a directory that was put back
// from an old copy counts on from the starts that its peers have seen. It is not called
// concurrently.
func (c *Cluster) CountStarts(n uint64) error {
	if n <= c.starts.Load() {
		return nil
	}
	if err := statefile.Save(c.cfg.Dir, identityFile, identity{Node: c.id.Node, Boots: n}); err != nil {
		return fmt.Errorf("count the starts: %w", err)
	}
	c.starts.Store(n)
	c.gossip.changed()
	return nil
}

// SeenStart takes note of a start of another node: its number and a random one. It returns
// another start of that node that was seen and that is not an earlier one, or 0.
func (c *Cluster) SeenStart(id table.NodeID, starts, run uint64) uint64 {
	return c.peers.seen(id, starts, run)
}
