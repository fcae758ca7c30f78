package node

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
)

// serving tells why the node cannot coordinate requests, if it cannot. Whether enough
// owners confirm or answer is judged by each request: it depends on what it touches, and
// on what its sender allows. A store that takes no writes is one owner that fails.
func (n *Node) serving() error {
	if n.stopping.Load() {
		return errors.New("the node is stopping")
	}
	p := n.placed.Load()
	if p == nil {
		return errNotFormed
	}
	if _, member := p.table.SlotOf(n.cluster.Self()); !member {
		return fmt.Errorf("node %s has no slot in the table of epoch %d", n.cluster.Self(), p.table.Epoch)
	}
	return nil
}

// ready tells why this node is no good place to send requests to, if it is not: it cannot
// serve, or it is cut off from half of the members or more.
func (n *Node) ready() error {
	if err := errors.Join(n.serving(), n.store.Ready()); err != nil {
		return err
	}
	if o := n.outdated.Load(); o != nil {
		return o
	}
	members := len(n.placed.Load().table.Nodes())
	if missing := n.missing(); 2*len(missing) >= members && len(missing) > 0 {
		return fmt.Errorf("%d of %d members are not reached: %s", len(missing), members, strings.Join(missing, ", "))
	}
	return nil
}

// missing names the members of the table that gossip does not reach.
func (n *Node) missing() []string {
	var missing []string
	for _, m := range n.cluster.Members() {
		if m.Slot >= 0 && m.ID != n.cluster.Self() && m.State != cluster.Alive {
			missing = append(missing, fmt.Sprintf("%s (%s)", m.Name, m.State))
		}
	}
	return missing
}

// status renders the cluster as this node sees it.
type status struct{ n *Node }

// Status implements api.Cluster.
func (s status) Status() api.ClusterStatus {
	out := api.ClusterStatus{Self: string(s.n.cluster.Self()), Slots: []api.SlotStatus{}, Nodes: []api.NodeStatus{}, Gaps: s.n.gapStatus()}
	if p := s.n.placed.Load(); p != nil {
		t := p.table
		out.ClusterID, out.Epoch, out.ReplicationFactor, out.WriteQuorum = t.ClusterID, t.Epoch, t.ReplicationFactor, t.WriteQuorum()
		out.Settled = t.Settled
		for i, slot := range t.Slots {
			out.Slots = append(out.Slots, api.SlotStatus{
				Slot: i, Node: string(slot.Node), Zone: slot.Zone, Joining: slot.Joining, Incarnation: slot.Incarnation,
			})
		}
	}
	for _, m := range s.n.cluster.Members() {
		node := api.NodeStatus{
			ID: string(m.ID), Name: m.Name, Zone: m.Zone, State: string(m.State), Version: m.Version, Epoch: m.Epoch,
			Addresses: api.NodeAddresses{Gossip: m.Gossip, RPC: m.RPC, HTTP: m.HTTP},
		}
		if m.Slot >= 0 {
			node.Slot = &m.Slot
		}
		out.Nodes = append(out.Nodes, node)
	}
	for _, r := range s.n.store.Damage() {
		out.Damage = append(out.Damage, api.DamageStatus{
			MinTime: r.MinTime, MaxTime: r.MaxTime, Kind: string(r.Kind), Name: r.Name, Detail: r.Detail, Found: r.Found, Suspect: r.Suspect,
		})
	}
	return out
}

func (n *Node) gapStatus() []api.GapStatus {
	list := []api.GapStatus{}
	for _, g := range n.gaps.Status() {
		left := n.giver.Left(g.Gap)
		status := api.GapStatus{
			Peer: string(g.Peer), Opened: g.Opened.UTC(), HandingOff: g.HandingOff,
			SamplesLeft: int64(left.Samples), BytesLeft: int64(left.Bytes),
		}
		if g.Since > firstYear {
			status.Since = time.UnixMilli(g.Since).UTC().Format(time.RFC3339)
		}
		list = append(list, status)
	}
	return list
}

// firstYear is the oldest time that a timestamp can be written down for, in milliseconds.
const firstYear = -62135596800000
