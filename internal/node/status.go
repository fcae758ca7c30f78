package node

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/table"
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
	if !p.table.Member(n.cluster.Self()) {
		return fmt.Errorf("node %s is no member by the table of epoch %d", n.cluster.Self(), p.table.Epoch)
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
		out.ClusterID, out.Epoch, out.ReplicationFactor, out.WriteQuorum = t.ClusterID, t.Epoch, t.Current.ReplicationFactor, t.Current.WriteQuorum()
		out.Slots = slotStatus(&t.Current)
		out.Transition, out.Waiting = s.transition(t), len(t.Waiting)
	}
	for _, m := range s.n.cluster.Members() {
		node := api.NodeStatus{
			ID: string(m.ID), Name: m.Name, Zone: m.Zone, State: string(m.State), Version: m.Version, Epoch: m.Epoch, Ready: m.Ready,
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

func (s status) transition(t *table.Table) *api.TransitionStatus {
	if t.Transition == nil {
		return nil
	}
	out := &api.TransitionStatus{
		Phase: string(t.Transition.Phase), Began: t.Transition.Began, Paused: t.Paused,
		ReplicationFactor: t.Transition.Target.ReplicationFactor, Slots: slotStatus(&t.Transition.Target), Awaited: []string{},
	}
	for _, id := range s.n.cluster.Awaited() {
		out.Awaited = append(out.Awaited, string(id))
	}
	return out
}

func slotStatus(a *table.Assignment) []api.SlotStatus {
	slots := make([]api.SlotStatus, len(a.Slots))
	for i, s := range a.Slots {
		slots[i] = api.SlotStatus{Slot: i, Node: string(s.Node), Zone: s.Zone, Removed: s.Removed}
	}
	return slots
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
