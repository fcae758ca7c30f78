package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// birth runs the founding state machine against the disk.
type birth struct {
	dir    string
	lock   chan struct{} // holds a token while the state is used; it is held over syncs
	closed bool          // the directory is not ours any more
	formation

	// cluster is formation.Cluster as it is on disk, for readers without the lock.
	cluster atomic.Pointer[string]
}

func (b *birth) publish() {
	c := b.Cluster
	b.cluster.Store(&c)
}

// step runs one event. What it changed is on disk when step returns, or undone.
func (b *birth) step(event func(f *formation) (changed bool)) error {
	b.lock <- struct{}{}
	defer func() { <-b.lock }()
	if b.closed {
		return errClosed
	}
	before := b.founding
	before.Dropped = maps.Clone(before.Dropped)
	if !event(&b.formation) {
		return nil
	}
	if err := statefile.Save(b.dir, foundingFile, b.founding); err != nil {
		b.founding = before
		return err
	}
	b.publish()
	return nil
}

// close makes later steps fail, once the present one is over.
func (b *birth) close() {
	if b.lock == nil {
		return
	}
	b.lock <- struct{}{}
	b.closed = true
	<-b.lock
}

// clusterID is the cluster that this node belongs to, empty while it is fresh.
func (c *Cluster) clusterID() string { return *c.birth.cluster.Load() }

// receiveVouch answers a peer's vouch.
func (c *Cluster) receiveVouch(from table.NodeID, v vouch) (verdict, error) {
	var a verdict
	wasFresh := c.clusterID() == ""
	err := c.birth.step(func(f *formation) (changed bool) {
		a, changed = f.receive(from, v)
		return changed
	})
	if err != nil {
		return verdict{}, err
	}
	if a.Expect != 0 && c.quiet.allow("expect "+string(from)) {
		c.log.Warn("a vouch does not count: --cluster.bootstrap-expect differs", "node", from, "theirs", v.Expect, "ours", a.Expect)
	}
	if wasFresh && a.Cluster != "" {
		c.bound()
	}
	return a, nil
}

// bound says that the node now belongs to a cluster.
func (c *Cluster) bound() {
	c.log.Info("node belongs to a cluster from now on", "cluster", c.clusterID())
	c.gossip.changed()
}

// settleIn takes a node from fresh to member. It ends without an error when the node is
// in the table and has written that down, or was and has been removed.
func (c *Cluster) settleIn(ctx context.Context) error {
	view := stableView{settle: c.cfg.Timing.Settle}
	if c.cfg.expect() == 1 && len(c.cfg.Find.Join) == 0 {
		view.settle = 0 // nobody to wait for
	}
	complain := newThrottle(c.cfg.Timing.Complain)
	complain.allow("waiting") // not before the first interval is over
	for {
		waiting, done, err := c.settleStep(ctx, &view)
		if done || ctx.Err() != nil {
			return nil
		}
		if fatal := (*fatalError)(nil); errors.As(err, &fatal) {
			return fatal.err
		}
		if waiting != "" && complain.allow("waiting") {
			c.log.Warn("this node has no place in a cluster yet", "waiting", waiting, "err", err)
		}
		if waiting == "" && err == nil {
			continue // one step led to the next
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.cfg.Timing.Poll):
		}
	}
}

// fatalError ends Run.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

// settleStep does the next thing. waiting says what for, if there is nothing to do.
func (c *Cluster) settleStep(ctx context.Context, view *stableView) (waiting string, done bool, err error) {
	if c.clusterID() == "" {
		return c.formStep(ctx, view)
	}
	if err := c.Apart(); err != nil {
		c.log.Error("this node serves nobody", "err", err)
		return "", true, nil
	}
	if c.consensus().running() == nil {
		if err := c.era.during(c.takePart); err != nil {
			return "Raft's first entries to be written", false, err
		}
	}
	c.consensus().electAtOnce(func(id table.NodeID) bool {
		p, ok := c.peers.get(id)
		return ok && p.State == Alive && p.Cluster == c.clusterID()
	})
	if t := c.Table(); t != nil {
		if t.Member(c.id.Node) {
			// Without the note the node would join again if it was removed.
			if err := c.noteJoined(); err != nil {
				if c.quiet.allow("joined") {
					c.log.Warn("it cannot be written down that this node has joined; it is tried again", "err", err)
				}
				return "", false, err
			}
			return "", true, nil
		}
		if c.birth.Joined {
			c.log.Warn("this node was removed from the cluster; it does not join again by itself", "epoch", t.Epoch)
			return "", true, nil
		}
	}
	return c.joinStep(ctx)
}

// noteJoined remembers that the node had a slot.
func (c *Cluster) noteJoined() error {
	return c.birth.step(func(f *formation) bool {
		was := f.Joined
		f.Joined = true
		return !was
	})
}

// formStep lets the founding state machine see the others, and speaks for it.
func (c *Cluster) formStep(ctx context.Context, view *stableView) (waiting string, done bool, err error) {
	seen := c.peers.sightings()
	c.warnOfSeveral(seen)
	if !view.stable(seen, time.Now()) && clusterIn(seen) == "" {
		return c.waitingFor(seen), false, nil
	}
	var out outgoing
	err = c.birth.step(func(f *formation) (changed bool) {
		out, changed = f.look(seen)
		return changed
	})
	if err != nil {
		return "write down the founding", false, err
	}
	if c.clusterID() != "" {
		c.bound()
		return "", false, nil
	}
	if out.to == "" {
		return c.waitingFor(seen), false, nil
	}
	address, _ := c.Address(out.to)
	waiting = fmt.Sprintf("node %s (%s), for which it vouched; if that node's directory is lost for good, empty this node's directory %s as well",
		out.to, address, c.cfg.Dir)
	var a verdict
	if err := c.call(ctx, out.to, address, opVouch, out.vouch, &a); err != nil {
		return waiting, false, err
	}
	if a.Expect != 0 {
		return fmt.Sprintf("the same --cluster.bootstrap-expect everywhere: node %s has %d, this one %d", out.to, a.Expect, c.cfg.expect()), false, nil
	}
	err = c.birth.step(func(f *formation) bool { return f.heed(out.to, a) })
	if err == nil && c.clusterID() != "" {
		c.bound()
		return "", false, nil
	}
	return waiting, false, err
}

// warnOfSeveral says that a fresh node has to choose among clusters.
func (c *Cluster) warnOfSeveral(seen map[table.NodeID]sighting) {
	first := clusterIn(seen)
	for id, s := range seen {
		if s.Alive && s.Cluster != "" && s.Cluster != first && c.quiet.allow("several") {
			c.log.Warn("two clusters with one --cluster.name are in view; this node joins the first",
				"first", first, "second", s.Cluster, "node", id)
		}
	}
}

func (c *Cluster) waitingFor(seen map[table.NodeID]sighting) string {
	fresh := 1
	for _, s := range seen {
		if s.Alive && s.Cluster == "" && s.Expect == c.cfg.expect() {
			fresh++
		}
	}
	if c.cfg.expect() == 0 {
		return fmt.Sprintf("a cluster named %q at %q", c.cfg.ClusterName, c.cfg.Find.Join)
	}
	return fmt.Sprintf("%d fresh nodes with --cluster.bootstrap-expect=%d, of which %d are there, or a cluster named %q at %q",
		c.cfg.expect(), c.cfg.expect(), fresh, c.cfg.ClusterName, c.cfg.Find.Join)
}

// joinStep asks for the first table, and for a slot if the node never had one. The founder
// has to see to it that there is a table.
func (c *Cluster) joinStep(ctx context.Context) (waiting string, done bool, err error) {
	waiting = fmt.Sprintf("Raft's leader in cluster %s", c.clusterID())
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Call)
	defer cancel()
	cmd := table.Command{Kind: table.Join, Member: &table.Member{Node: c.id.Node, Zone: c.cfg.Advertise.Zone}}
	if c.birth.Joined {
		// Its table is lost, and it may have been removed since. No phase begins with the
		// first epoch, so this changes nothing.
		cmd = table.Command{Kind: table.Advance, Epoch: 1}
	}
	t, err := c.proposeOnce(ctx, cmd)
	if errors.Is(err, table.ErrNotFounded) && len(c.birth.Founders) > 0 {
		t, err = c.proposeOnce(ctx, c.foundCommand())
	}
	if err != nil {
		return waiting, false, err
	}
	if t.ClusterID != c.clusterID() {
		return waiting, false, fmt.Errorf("%w: the leader's table is of cluster %s", ErrForeign, t.ClusterID)
	}
	if rf := t.Target().ReplicationFactor; rf != c.cfg.ReplicationFactor {
		c.log.Info("the cluster's replication factor differs from --cluster.replication-factor, which is ignored",
			"cluster", rf, "flag", c.cfg.ReplicationFactor)
	}
	if err := c.adopt(t); err != nil {
		return waiting, false, err
	}
	// What Raft came to before there was a first table has been passed over.
	if t, err := c.consensus().fsm.table(); err == nil && t != nil {
		c.seat.offer(t)
	}
	return "", false, nil
}

func (c *Cluster) foundCommand() table.Command {
	cmd := table.Command{Kind: table.Found, ClusterID: c.clusterID(), ReplicationFactor: c.cfg.ReplicationFactor}
	for _, f := range c.birth.Founders {
		cmd.Founders = append(cmd.Founders, table.Member{Node: f.ID, Zone: f.Zone})
	}
	return cmd
}

// stableView tells when the set of fresh nodes has stopped to grow.
type stableView struct {
	settle time.Duration
	last   map[table.NodeID]sighting
	since  time.Time
}

func (v *stableView) stable(seen map[table.NodeID]sighting, now time.Time) bool {
	if v.since.IsZero() || !maps.Equal(v.last, seen) {
		v.last, v.since = seen, now
	}
	return now.Sub(v.since) >= v.settle
}

// lead keeps Raft's servers in line with the table and leads transitions, while this node leads.
func (c *Cluster) lead(ctx context.Context) {
	leading := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.tender:
		case <-time.After(2 * c.cfg.Timing.Poll):
		}
		if now := c.consensus().leading(); now != leading {
			leading = now
			c.log.Info("Raft leadership", "leading", leading, "leader", c.consensus().leader())
		}
		if _, err := c.consensus().fsm.table(); err != nil && c.quiet.allow("newer") {
			c.log.Error("this node cannot follow Raft; it takes tables from its peers", "err", err)
		}
		if leading {
			c.leadOnce(ctx)
		}
	}
}

// leadOnce does what the leader has to do.
func (c *Cluster) leadOnce(ctx context.Context) {
	term, err := c.consensus().catchUp(ctx)
	stepped := false
	if err == nil {
		stepped, err = c.consensus().tend(ctx, term, func(id table.NodeID, index uint64) bool { return c.hasLog(ctx, id, index) })
	}
	switch {
	case err != nil && ctx.Err() == nil:
		c.log.Debug("Raft's servers are not in line with the table yet", "err", err)
	case stepped:
		c.wakeTender()
	}
	if term > 0 {
		c.advance(ctx, err == nil && !stepped)
	}
}

func (c *Cluster) wakeTender() {
	select {
	case c.tender <- struct{}{}:
	default:
	}
}

// hasLog asks a node whether its Raft log reaches an index. The log of another generation
// has indices of its own.
func (c *Cluster) hasLog(ctx context.Context, id table.NodeID, index uint64) bool {
	address, ok := c.Address(id)
	if !ok || id == c.id.Node {
		return ok
	}
	var s status
	err := c.call(ctx, id, address, opStatus, struct{}{}, &s)
	return err == nil && s.Recovery == c.consensus().group.recovery && s.RaftIndex >= index
}
