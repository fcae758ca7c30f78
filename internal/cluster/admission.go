package cluster

import (
	"context"

	"github.com/starling-tsdb/starling/internal/table"
)

// admissible returns the nodes that are joining and may become owners: all of them once
// every member has reported the table's epoch, and none before. From then on nobody
// coordinates a query that would not ask them.
func admissible(t *table.Table, reported map[table.NodeID]uint64) []table.NodeID {
	var joining []table.NodeID
	for _, s := range t.Slots {
		if s.Node != "" && reported[s.Node] < t.Epoch {
			return nil
		}
		if s.Joining {
			joining = append(joining, s.Node)
		}
	}
	return joining
}

// admit makes owners of the nodes that are joining, while this node leads.
func (c *Cluster) admit(ctx context.Context) {
	t := c.Table()
	if t == nil {
		return
	}
	reported := make(map[table.NodeID]uint64)
	for _, m := range c.Members() {
		reported[m.ID] = m.Epoch
	}
	nodes := admissible(t, reported)
	if len(nodes) == 0 {
		return
	}
	if _, err := c.consensus.apply(ctx, table.Command{Kind: table.Admit, Nodes: nodes}); err != nil {
		if ctx.Err() == nil {
			c.log.Warn("admit nodes that joined; it is tried again", "nodes", nodes, "err", err)
		}
		return
	}
	c.log.Info("nodes own their share from now on", "nodes", nodes)
}
