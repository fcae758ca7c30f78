package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
)

// keepZone has the table count this node in the zone that it was started with, which may be
// another one than it joined from. Whatever the table says later, it is held against that: a
// change that was agreed on may reach the node only when it was started again, and for yet
// another zone.
func (c *Cluster) keepZone(ctx context.Context) {
	for {
		changed := c.Changed()
		var again <-chan time.Time
		if err := c.keepZoneOnce(ctx); err != nil && ctx.Err() == nil {
			again = time.After(4 * c.cfg.Timing.Poll)
			if c.quiet.allow("zone") {
				c.log.Warn("the cluster has not agreed yet to count this node in its zone; it is asked again", "zone", c.cfg.Advertise.Zone, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}

// keepZoneOnce proposes the zone, if that changes the table.
func (c *Cluster) keepZoneOnce(ctx context.Context) error {
	t := c.Table()
	if t == nil {
		return nil
	}
	cmd := table.Command{Kind: table.Zone, Member: &table.Member{Node: c.id.Node, Zone: c.cfg.Advertise.Zone}}
	if next, err := table.Apply(t, cmd); err != nil || next == t {
		return nil // it owns nothing, or is counted there
	}
	was, _ := t.ZoneOf(c.id.Node)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Call)
	defer cancel()
	_, err := c.proposeOnce(ctx, cmd)
	if errors.Is(err, table.ErrCommand) {
		return nil // by the newest table it owns nothing
	}
	if err == nil {
		c.log.Info("this node is in another zone than before; data moves as the zones say", "before", was, "zone", c.cfg.Advertise.Zone)
	}
	return err
}
