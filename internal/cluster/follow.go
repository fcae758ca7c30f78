package cluster

import (
	"context"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
)

// follow has the node learn the tables that Raft does not bring it. Raft says no more to a
// server once it was removed, and that may be before the server has heard of its end: a node
// that was away, or cut off, would take itself for a member for ever. It asks those of whom
// gossip says that they have a newer table.
func (c *Cluster) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(4 * c.cfg.Timing.Poll):
		}
		if err := c.abide(ctx); err != nil && ctx.Err() == nil && c.quiet.allow("part") {
			c.log.Warn("this node takes no part in Raft; it tries again", "err", err)
		}
		if err := c.followOnce(ctx); err != nil && ctx.Err() == nil {
			c.log.Debug("a newer table was not learnt yet", "err", err)
		}
	}
}

// followOnce asks one peer after the other.
func (c *Cluster) followOnce(ctx context.Context) (err error) {
	own := c.Table()
	if own == nil || c.Apart() != nil {
		return nil // the first one comes from the leader, see Learn; none is for who is apart
	}
	for _, p := range c.peers.all() {
		if p.State != Alive || p.Cluster != own.ClusterID || p.Epoch <= own.Epoch {
			continue
		}
		t := new(table.Table)
		if err = c.call(ctx, p.ID, p.RPC, opTable, struct{}{}, t); err == nil {
			return c.Learn(t)
		}
	}
	return err
}
