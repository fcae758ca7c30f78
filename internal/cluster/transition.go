package cluster

import (
	"context"
	"sync"

	"github.com/starling-tsdb/starling/internal/table"
)

// report is what a member has said of itself.
type report struct {
	// epoch is that of its table; it finished or refused all appends of older ones.
	epoch uint64
	// ready is the epoch with which the phase began for which it holds all it is to own.
	ready uint64
}

// awaited returns the members that the next phase of the transition waits for. Every owner by
// either assignment has to be in the present phase, so that nobody is read from by one that
// others have ceased to write by; and after the copying every target owner has to hold its
// share. What a node says from another generation is of another history. Members that wait for a later transition hold nothing, and what they ask of owners
// is refused unless it is of the owners' epoch.
func awaited(t *table.Table, reports map[table.NodeID]report) []table.NodeID {
	tr := t.Transition
	var awaited []table.NodeID
	for _, id := range t.Nodes() {
		_, placed := t.SlotOf(id)
		if !placed {
			continue
		}
		_, owns := tr.Target.SlotOf(id)
		r := reports[id]
		if r.epoch < tr.Began || table.Generation(r.epoch) != table.Generation(t.Epoch) || tr.Phase == table.Copying && owns && r.ready != tr.Began {
			awaited = append(awaited, id)
		}
	}
	return awaited
}

// Awaited returns the members that the next phase of the transition waits for, as far as this
// node has heard of them; nil if there is no transition.
func (c *Cluster) Awaited() []table.NodeID {
	t := c.Table()
	if t == nil || t.Transition == nil {
		return nil
	}
	reports := make(map[table.NodeID]report)
	for _, m := range c.Members() {
		reports[m.ID] = report{m.Epoch, m.Ready}
	}
	return awaited(t, reports)
}

// advance begins the next phase of the transition when that is safe, while this node leads.
// inLine tells whether Raft's servers are those that the table wants. A transition does not
// end before: those who leave may be stopped at its end, all at once, and must not be what a
// majority of Raft depends on.
func (c *Cluster) advance(ctx context.Context, inLine bool) {
	t := c.Table()
	if t == nil || t.Transition == nil {
		return
	}
	awaited := c.Awaited()
	if len(awaited) > 0 {
		c.askAwaited(ctx, awaited)
		awaited = c.Awaited()
	}
	if len(awaited) > 0 || t.Transition.Phase == table.Switching && !inLine {
		if c.quiet.allow("transition") {
			c.log.Info("the transition waits for members, or for Raft to have the servers that the table wants", "epoch", t.Epoch, "phase", t.Transition.Phase, "members", awaited, "servers", inLine)
		}
		return
	}
	next, err := c.consensus().apply(ctx, table.Command{Kind: table.Advance, Epoch: t.Transition.Began})
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("begin the next phase of the transition; it is tried again", "epoch", t.Epoch, "err", err)
		}
		return
	}
	if next.Transition == nil {
		c.log.Info("the transition has ended: all copies are where the table says", "epoch", next.Epoch)
		return
	}
	c.log.Info("the transition goes on", "epoch", next.Epoch, "phase", next.Transition.Phase)
}

// askAwaited asks those members themselves: gossip loses news now and then, and then it takes
// half a minute or more until it spreads them after all.
func (c *Cluster) askAwaited(ctx context.Context, awaited []table.NodeID) {
	var wg sync.WaitGroup
	for _, id := range awaited {
		p, _ := c.peers.get(id)
		if p.State != Alive {
			continue
		}
		wg.Go(func() {
			var s status
			if err := c.call(ctx, id, p.RPC, opStatus, struct{}{}, &s); err == nil {
				c.peers.reported(id, s.Epoch, s.Ready)
			}
		})
	}
	wg.Wait()
}

// present returns the epoch with which the phase of the present transition began.
func (c *Cluster) present() uint64 {
	if t := c.Table(); t != nil && t.Transition != nil {
		return t.Transition.Began
	}
	return 0
}

// Announce has gossip tell what has changed of this node, as its readiness.
func (c *Cluster) Announce() { c.gossip.changed() }
