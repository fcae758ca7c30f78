package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// serving tells why the node cannot coordinate requests, if it cannot. Whether enough
// owners confirm or answer is judged by each request: it depends on what it touches, and
// on what its sender allows. A store that takes no writes is one owner that fails.
func (n *Node) serving() error {
	if n.stopping.Load() {
		return errors.New("the node is stopping")
	}
	if err := n.cluster.Apart(); err != nil {
		return err
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

// reached returns which nodes gossip reaches, this one among them.
func (n *Node) reached() func(table.NodeID) bool {
	alive := map[table.NodeID]bool{n.cluster.Self(): true}
	for _, m := range n.cluster.Members() {
		alive[m.ID] = alive[m.ID] || m.State == cluster.Alive
	}
	return func(id table.NodeID) bool { return alive[id] }
}

// status renders the cluster as this node sees it.
type status struct{ n *Node }

// Status implements api.Cluster.
func (s status) Status(ctx context.Context) api.ClusterStatus {
	reports := s.n.reports(ctx)
	out := api.ClusterStatus{Self: string(s.n.cluster.Self()), Slots: []api.SlotStatus{}, Nodes: s.n.nodeStatus(), Gaps: gapStatus(reports[s.n.cluster.Self()].Open)}
	if p := s.n.placed.Load(); p != nil {
		t := p.table
		out.ClusterID, out.Epoch, out.ReplicationFactor, out.WriteQuorum = t.ClusterID, t.Epoch, t.Current.ReplicationFactor, t.Current.WriteQuorum()
		out.Generation = table.Generation(t.Epoch)
		out.Slots = slotStatus(&t.Current)
		out.Crowded = p.writing[0].crowded
		out.Transition, out.Waiting, out.Paused = s.n.transitionStatus(p, reports), len(t.Waiting), t.Paused
		for _, share := range s.n.shares.between(&t.Current, t.Target()).Nodes {
			if i := slices.IndexFunc(out.Nodes, func(n api.NodeStatus) bool { return n.ID == string(share.Node) }); i >= 0 {
				out.Nodes[i].Share = &api.ShareStatus{Current: share.Before, Target: share.After}
			}
		}
	}
	if err := s.n.cluster.Apart(); err != nil {
		out.Apart = err.Error()
	}
	for i := range out.Nodes {
		if r, ok := reports[table.NodeID(out.Nodes[i].ID)]; ok {
			tell(&out.Nodes[i], r)
		}
	}
	for _, e := range s.n.events.Latest() {
		out.Events = append(out.Events, api.EventStatus{Time: e.Time.UTC(), Count: e.Count, Level: strings.ToLower(e.Level.String()), Text: e.Text, Detail: e.Detail})
	}
	for _, r := range s.n.store.Damage() {
		out.Damage = append(out.Damage, api.DamageStatus{
			MinTime: r.MinTime, MaxTime: r.MaxTime, Kind: string(r.Kind), Name: r.Name, Detail: r.Detail, Found: r.Found, Suspect: r.Suspect,
		})
	}
	return out
}

// nodeStatus is what this node knows of the others without asking them.
func (n *Node) nodeStatus() []api.NodeStatus {
	nodes := []api.NodeStatus{}
	for _, m := range n.cluster.Members() {
		node := api.NodeStatus{
			ID: string(m.ID), Name: m.Name, Zone: m.Zone, State: string(m.State), Version: m.Version, Epoch: m.Epoch, Ready: m.Ready,
			Addresses: api.NodeAddresses{Gossip: m.Gossip, RPC: m.RPC, HTTP: m.HTTP},
		}
		if m.Slot >= 0 {
			node.Slot = &m.Slot
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// nodeName is how the status of the cluster calls a node.
func (n *Node) nodeName(id string) api.NodeName {
	for _, m := range n.cluster.Members() {
		if string(m.ID) == id {
			return api.NodeName{Name: m.Name, Address: m.RPC}
		}
	}
	return api.NodeName{}
}

func (n *Node) transitionStatus(p *placed, reports map[table.NodeID]transport.Report) *api.TransitionStatus {
	tr := p.table.Transition
	if tr == nil {
		return nil
	}
	out := &api.TransitionStatus{
		Phase: string(tr.Phase), Began: tr.Began,
		ReplicationFactor: tr.Target.ReplicationFactor, Slots: slotStatus(&tr.Target), Awaited: []string{},
		Since: firstSeen(p, reports),
	}
	for _, id := range n.cluster.Awaited() {
		out.Awaited = append(out.Awaited, string(id))
	}
	if tr.Phase == table.Copying {
		for _, id := range tr.Target.Nodes() {
			_, answered := reports[id]
			c := copyStatusOf(p, id, reports)
			c.Node, c.Silent = string(id), !answered
			c.Ready = c.Ready || !slices.Contains(out.Awaited, string(id))
			out.Copying = append(out.Copying, c)
		}
	}
	return out
}

func slotStatus(a *table.Assignment) []api.SlotStatus {
	slots := make([]api.SlotStatus, len(a.Slots))
	for i, s := range a.Slots {
		slots[i] = oneSlot(i, s)
	}
	return slots
}

func gapStatus(open []transport.OpenGap) []api.GapStatus {
	list := []api.GapStatus{}
	for _, g := range open {
		status := api.GapStatus{
			Peer: string(g.Peer), Opened: g.Opened.UTC(), HandingOff: g.HandingOff, SamplesLeft: g.Samples, BytesLeft: g.Bytes,
		}
		if g.Since > firstYear {
			status.Since = time.UnixMilli(g.Since).UTC().Format(time.RFC3339)
		}
		list = append(list, status)
	}
	return list
}

// tell adds what a node has said of itself.
func tell(n *api.NodeStatus, r transport.Report) {
	n.Holds = &api.HoldingStatus{Series: r.Series, Bytes: r.Bytes}
	n.Comparing, n.Windows, n.Damaged = r.Windows, windows(r.Extents), r.Damaged
	n.Unready, n.Gaps = r.Unready, gapStatus(r.Open)
	if l := r.Load; l != (transport.Load{}) {
		status := api.LoadStatus(l)
		n.Load = &status
	}
}

// windows is about how many windows of two hours there are between the ends of extents.
func windows(extents []transport.Extent) int {
	first, last := int64(math.MaxInt64), int64(math.MinInt64)
	for _, e := range extents {
		first, last = min(first, e.Min), max(last, e.Max)
	}
	if first > last || first < firstYear {
		return 0
	}
	window := (2 * time.Hour).Milliseconds()
	return int(last/window - first/window + 1)
}

// firstYear is the oldest time that a timestamp can be written down for, in milliseconds.
const firstYear = -62135596800000
