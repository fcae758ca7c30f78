package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/plan"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// commandTimeout bounds how long an operator waits for the nodes to agree.
const commandTimeout = 10 * time.Second

// admin changes the cluster on behalf of operators.
type admin struct{ n *Node }

// Members implements api.Admin.
func (a admin) Members() []api.NodeStatus { return a.n.nodeStatus() }

// Propose implements api.Admin.
func (a admin) Propose(ctx context.Context, c table.Command) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := a.n.cluster.Propose(ctx, c); errors.Is(err, table.ErrCommand) {
		return 0, err
	} else if err != nil {
		return 0, undecidedError{err}
	}
	return a.n.cluster.Table().Epoch, nil
}

// undecidedError says that a command may or may not take effect.
type undecidedError struct{ error }

// Error implements error.
func (e undecidedError) Error() string {
	return fmt.Sprintf("the cluster has not agreed on it yet; a majority of the nodes in the first five slots has to be alive; look at the status before you repeat it: %v", e.error)
}

// Unwrap leads to the cause.
func (e undecidedError) Unwrap() error { return e.error }

// Unavailable makes it status 503.
func (undecidedError) Unavailable() bool { return true }

// Plan implements api.Admin.
func (a admin) Plan(ctx context.Context, c table.Command) (*api.ClusterPlan, error) {
	p := a.n.placed.Load()
	if p == nil {
		return nil, errNotFormed
	}
	next, waits, err := preview(p.table, c)
	if err != nil {
		return nil, err
	}
	between := plan.Between(&next.Current, next.Target())
	members := a.n.cluster.Members()
	reports := a.n.reports(ctx)
	out := estimate(between, reports, int64(a.n.opts.Config.Cluster.TransferRate))
	out.Epoch, out.Copies = p.table.Epoch, between.TargetCopies
	names, states := map[table.NodeID]string{}, map[table.NodeID]cluster.MemberState{}
	for _, m := range members {
		names[m.ID], states[m.ID] = m.Name, m.State
	}
	for i := range out.Nodes {
		out.Nodes[i].Name = names[table.NodeID(out.Nodes[i].ID)]
	}
	out.Warnings = warnings(c, next, waits, between, func(id table.NodeID) (string, cluster.MemberState) {
		if _, answers := reports[id]; !answers && states[id] == cluster.Alive {
			return fmt.Sprintf("%s (%s)", names[id], id), silent
		}
		return fmt.Sprintf("%s (%s)", names[id], id), states[id]
	})
	return out, nil
}

// silent is a node that gossip has not given up and that does not answer.
const silent cluster.MemberState = "not answering"

// preview returns the table that a command leads to, and whether it has to wait for the end
// of the present transition; that is assumed to come, then.
func preview(t *table.Table, c table.Command) (next *table.Table, waits bool, err error) {
	next, err = table.Apply(t, c)
	if err != nil || t.Transition == nil || t.Transition.Phase != table.Switching {
		return next, false, err
	}
	then, err := table.Apply(t, table.Command{Kind: table.Advance, Epoch: t.Transition.Began})
	if err != nil {
		return nil, true, err
	}
	next, err = table.Apply(then, c)
	return next, true, err
}

// estimate turns shares into series, bytes and time, by what the nodes say they hold. What
// a node holds beside its share, as after a move, is taken for a part of it.
func estimate(p *plan.Plan, reports map[table.NodeID]transport.Report, bytesPerSecond int64) *api.ClusterPlan {
	out := &api.ClusterPlan{
		Slots: []api.SlotChange{}, Nodes: []api.NodePlan{}, Moves: []api.MovePlan{},
		Share: p.Share, Optimum: p.Optimum, BytesPerSecond: bytesPerSecond,
	}
	for _, s := range p.Slots {
		out.Slots = append(out.Slots, api.SlotChange{Slot: s.Slot, Before: oneSlot(s.Slot, s.Before), After: oneSlot(s.Slot, s.After)})
	}
	var known, series, bytes float64
	for _, n := range p.Nodes {
		out.Nodes = append(out.Nodes, api.NodePlan{ID: string(n.Node), Before: n.Before, After: n.After})
		if r, answered := reports[n.Node]; answered && n.Before > 0 {
			known, series, bytes = known+n.Before, series+float64(r.Series), bytes+float64(r.Bytes)
		}
	}
	// A share of moves is one of all copies by the target.
	scale := 0.0
	if known > 0 && p.CurrentCopies > 0 {
		scale = float64(p.TargetCopies) / float64(p.CurrentCopies) / known
	}
	gives, takes := map[table.NodeID]float64{}, map[table.NodeID]float64{}
	for _, m := range p.Moves {
		move := api.MovePlan{
			From: string(m.From), To: string(m.To), Share: m.Share,
			Series: uint64(math.Round(m.Share * scale * series)), Bytes: uint64(math.Round(m.Share * scale * bytes)),
		}
		out.Moves = append(out.Moves, move)
		if m.From == "" {
			continue
		}
		out.Series, out.Bytes = out.Series+move.Series, out.Bytes+move.Bytes
		gives[m.From] += float64(move.Bytes)
		takes[m.To] += float64(move.Bytes)
		// A node takes from one other at a time, which gives at its rate.
		out.Seconds = max(out.Seconds, max(gives[m.From], takes[m.To])/float64(bytesPerSecond))
	}
	return out
}

// warnings say what an operator may not expect of a command that leads to a table.
func warnings(c table.Command, next *table.Table, waits bool, p *plan.Plan, describe func(table.NodeID) (string, cluster.MemberState)) []string {
	var w []string
	say := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	gone := c.Nodes
	if c.Kind == table.Replace {
		gone = c.Nodes[:1]
	}
	given := c.Kind == table.Remove || c.Kind == table.Replace && c.Lost
	for _, id := range gone {
		if name, state := describe(id); given && state == cluster.Alive {
			say("%s is alive and is given up at once: its copies count as missing until others have made them anew; leave, or replace without lost, has it serve until then", name)
		}
	}
	for _, id := range next.Nodes() {
		if name, state := describe(id); state != cluster.Alive {
			say("%s is %s: nothing ends before it is back; remove gives it up", name, state)
		}
	}
	if c.AcceptLoss {
		sayLosses(say, next.Reading())
	}
	for _, m := range p.Moves {
		if m.From == "" {
			say("%.1f%% of all copies have no owner left that they could be made from: those series are lost", 100*m.Share)
		}
	}
	if target := next.Target(); target.Copies() < target.ReplicationFactor {
		say("too few nodes are left: each series has %d copies instead of %d", target.Copies(), target.ReplicationFactor)
	}
	if p.TargetCrowded > 0 {
		say("%.1f%% of the series have copies in fewer zones than they could, now %.1f%%: a zone has fewer than half as many nodes as the mean",
			100*p.TargetCrowded, 100*p.CurrentCrowded)
	}
	if waits {
		say("another transition is ending: this one begins afterwards")
	}
	if next.Paused && next.Transition != nil {
		say("copying is paused: resume lets it go on")
	}
	return w
}

// sayLosses says what is lost with the removed nodes of an assignment.
func sayLosses(say func(string, ...any), a *table.Assignment) {
	unsure, none := 0.0, 0.0
	for gone, share := range plan.Losses(a, nil) {
		switch {
		case gone == a.Copies():
			none += share
		case gone >= a.WriteQuorum():
			unsure += share
		}
	}
	if unsure+none > 0 {
		say("%.1f%% of all series have no owner left: they are lost, and no write of them succeeds before their new owners are in place", 100*none)
		say("%.1f%% of all series have owners left, but %d or more of their %d are given up: what only those held is lost, and nobody can tell what that was", 100*unsure, a.WriteQuorum(), a.Copies())
		say("be sure that the nodes that are given up are stopped: what they acknowledge from now on is lost as well")
	}
}

func oneSlot(number int, s table.Slot) api.SlotStatus {
	return api.SlotStatus{Slot: number, Node: string(s.Node), Zone: s.Zone, Removed: s.Removed}
}

// shares keeps the last plan, which takes a while to make. It may be used concurrently.
type shares struct {
	mu              sync.Mutex
	current, target *table.Assignment
	plan            *plan.Plan
}

// between returns what leads from one assignment to another, both of which stay as they are.
func (s *shares) between(current, target *table.Assignment) *plan.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plan == nil || !reflect.DeepEqual(current, s.current) || !reflect.DeepEqual(target, s.target) {
		s.current, s.target, s.plan = current, target, plan.Between(current, target)
	}
	return s.plan
}
