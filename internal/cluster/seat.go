package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// seat holds the adopted table.
type seat struct {
	path     string
	announce func(old, new *table.Table)
	table    atomic.Pointer[table.Table]

	// busy holds a token while somebody adopts, which may take long: appends of the old
	// epoch finish first. It is not a mutex because a wait for it shall be durably
	// blocked under synctest.
	busy chan struct{}
	done chan struct{} // closed by close, which holds the token: the directory is not ours any more

	offered *offered

	mu      sync.Mutex
	changed chan struct{} // closed at the next adoption
}

// offered is the newest table that Raft or a proposal has come to, until it is adopted.
type offered struct {
	mu   sync.Mutex
	t    *table.Table
	wake chan struct{}
}

func newSeat(path string, announce func(old, new *table.Table)) seat {
	return seat{
		path: path, announce: announce, busy: make(chan struct{}, 1), done: make(chan struct{}), changed: make(chan struct{}),
		offered: &offered{wake: make(chan struct{}, 1)},
	}
}

// offer notes a table for adoption, unless a newer one is waiting. It does not block.
func (s *seat) offer(t *table.Table) {
	s.offered.mu.Lock()
	if s.offered.t == nil || s.offered.t.Epoch < t.Epoch {
		s.offered.t = t
	}
	s.offered.mu.Unlock()
	select {
	case s.offered.wake <- struct{}{}:
	default:
	}
}

func (s *seat) takeOffer() *table.Table {
	s.offered.mu.Lock()
	defer s.offered.mu.Unlock()
	t := s.offered.t
	s.offered.t = nil
	return t
}

// adopt syncs a table and makes it the current one, unless the current one is as new.
func (s *seat) adopt(t *table.Table) (adopted bool, err error) {
	s.busy <- struct{}{}
	defer func() { <-s.busy }()
	select {
	case <-s.done:
		return false, errClosed
	default:
	}
	old := s.table.Load()
	if old != nil && old.Epoch >= t.Epoch {
		return false, nil
	}
	b, err := table.Encode(t)
	if err != nil {
		return false, err
	}
	if err := statefile.Replace(s.path, b); err != nil {
		return false, fmt.Errorf("adopt epoch %d: %w", t.Epoch, err)
	}
	s.announce(old, t)
	s.table.Store(t)
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return true, nil
}

// close makes later adoptions fail, once the present one is over.
func (s *seat) close() {
	if s.busy == nil {
		return
	}
	s.busy <- struct{}{}
	close(s.done)
	<-s.busy
}

// Table returns the current table, nil before this node has one. It must not be changed.
func (c *Cluster) Table() *table.Table { return c.seat.table.Load() }

// Changed returns a channel that is closed when the next table is adopted. To wait for a
// table, take the channel first and then look at Table.
func (c *Cluster) Changed() <-chan struct{} {
	c.seat.mu.Lock()
	defer c.seat.mu.Unlock()
	return c.seat.changed
}

// Learn adopts a table that a peer handed over, if it is newer than the current one. It
// returns when the table is adopted, which waits for Adopt, so it must not be called by
// something that Adopt waits for. A table of another cluster is ErrForeign; one that
// comes before this node has joined a cluster, too.
func (c *Cluster) Learn(t *table.Table) error {
	own := c.clusterID()
	if own == "" || t.ClusterID != own {
		err := fmt.Errorf("learn a table: %w: it is of cluster %s, node %s belongs to %s", ErrForeign, t.ClusterID, c.id.Node, nameCluster(own))
		if own != "" && c.quiet.allow("learn "+t.ClusterID) {
			c.log.Warn("refused a table of another cluster ID", "err", err)
		}
		return err
	}
	if err := t.Validate(); err != nil {
		return fmt.Errorf("learn a table: %w", err)
	}
	// The first table comes from the leader: a peer may be behind what this node had
	// adopted before its table was lost.
	if c.Table() == nil {
		return fmt.Errorf("learn a table: node %s has none yet and waits for the leader's", c.id.Node)
	}
	return c.adopt(t)
}

func (c *Cluster) adopt(t *table.Table) error {
	before, adopted := c.Table(), false
	err := c.era.during(func() (err error) {
		if err = c.admit(t); err == nil {
			adopted, err = c.seat.adopt(t)
		}
		return err
	})
	if err != nil {
		if !refused(err) {
			c.count.adoptFailures.Inc()
		}
		return err
	}
	if !adopted {
		return nil
	}
	member := t.Member(c.id.Node)
	c.log.Info("table adopted", "epoch", t.Epoch, "nodes", len(t.Nodes()), "member", member)
	if !member && before != nil && before.Member(c.id.Node) {
		c.log.Warn("this node is no member of the cluster any more; it may be stopped, and does not join again by itself", "epoch", t.Epoch)
	}
	c.gossip.changed()
	c.wakeTender()
	return nil
}

// refused tells whether a table was not adopted because it is of another history, or past.
func refused(err error) bool {
	var apart *ApartError
	return errors.Is(err, errPast) || errors.Is(err, ErrForeign) || errors.As(err, &apart)
}

// adoptOffers adopts what Raft comes to.
func (c *Cluster) adoptOffers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.seat.offered.wake:
		}
		t := c.seat.takeOffer()
		// Without a table the node may have had a newer one; see openTable.
		if t == nil || c.Table() == nil {
			continue
		}
		if err := c.adopt(t); refused(err) {
			c.log.Debug("a table was not adopted", "epoch", t.Epoch, "err", err)
		} else if err != nil {
			c.log.Error("the table could not be adopted; it is tried again", "epoch", t.Epoch, "err", err)
			time.AfterFunc(c.cfg.Timing.Poll, func() { c.seat.offer(t) })
		}
	}
}

// Propose has the leader apply a command, wherever the leader is, and returns when this
// node has adopted a table that includes it. It tries until ctx ends; an error that
// wraps one of package table's is final. Commands change nothing when they are repeated,
// so one whose answer got lost may be proposed again.
func (c *Cluster) Propose(ctx context.Context, cmd table.Command) error {
	var last error
	for {
		t, err := c.proposeOnce(ctx, cmd)
		if err == nil {
			return c.awaitTable(ctx, t)
		}
		var remote *remoteError
		final := errors.Is(err, table.ErrCommand) || errors.Is(err, table.ErrFounded) || errors.Is(err, table.ErrNotFounded) ||
			(errors.As(err, &remote) && remote.Code == codeRejected)
		if final {
			return fmt.Errorf("%s: %w", cmd.Kind, err)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = err
			}
			return fmt.Errorf("%s: %w; the last attempt: %w", cmd.Kind, ctx.Err(), last)
		case <-time.After(c.cfg.Timing.Poll / 2):
		}
	}
}

// awaitTable has a table adopted and waits for that, or for a newer one.
func (c *Cluster) awaitTable(ctx context.Context, t *table.Table) error {
	c.seat.offer(t)
	for {
		changed := c.Changed()
		if now := c.Table(); now != nil && now.Epoch >= t.Epoch {
			return nil
		}
		select {
		case <-changed:
		case <-c.seat.done:
			return errClosed
		case <-ctx.Done():
			return fmt.Errorf("epoch %d is agreed on, and this node has not adopted it yet: %w", t.Epoch, ctx.Err())
		}
	}
}

// proposeOnce asks the leader, or whoever may know it.
func (c *Cluster) proposeOnce(ctx context.Context, cmd table.Command) (*table.Table, error) {
	t, err := c.consensus().apply(ctx, cmd)
	if err == nil {
		c.wakeTender()
		return t, nil
	}
	if !errors.Is(err, errNotLeader) {
		return nil, err
	}
	asked := map[table.NodeID]bool{c.id.Node: true}
	ask := func(id table.NodeID, address string) (*table.Table, error) {
		if id == "" || address == "" || asked[id] {
			return nil, errNotLeader
		}
		asked[id] = true
		t := new(table.Table)
		if err := c.call(ctx, id, address, opPropose, cmd, t); err != nil {
			return nil, err
		}
		return t, t.Validate()
	}
	leader := c.consensus().leader()
	address, _ := c.Address(leader)
	last := errNotLeader
	for _, p := range append([]peer{{ID: leader, RPC: address, State: Alive, Cluster: c.clusterID()}}, c.peers.all()...) {
		if p.State != Alive || p.Cluster != c.clusterID() || asked[p.ID] {
			continue
		}
		t, err := ask(p.ID, p.RPC)
		if hint := hintOf(err); hint != nil {
			t, err = ask(hint.Leader, hint.LeaderAddress)
		}
		if err == nil || !retry(err) {
			return t, err
		}
		if !errors.Is(err, errNotLeader) || errors.Is(last, errNotLeader) {
			last = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// hintOf returns the answer of one who knows the leader.
func hintOf(err error) *remoteError {
	var remote *remoteError
	if errors.As(err, &remote) && remote.Code == codeNotLeader && remote.Leader != "" {
		return remote
	}
	return nil
}

// retry tells whether another node, or the same one later, may answer better.
func retry(err error) bool {
	var remote *remoteError
	if !errors.As(err, &remote) {
		return true
	}
	return remote.Code != codeRejected && remote.Code != codeNotFounded
}
