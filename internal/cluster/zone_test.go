package cluster

import (
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
)

// from starts node i in a zone, new or again.
func (m *moves) from(i int, zone string) *node {
	m.Helper()
	return m.watch(i, func(c *Config) { c.Advertise.Zone = zone })
}

// zones are those of the nodes by the present assignment, which all nodes agree on.
func (m *moves) zones(want ...string) {
	m.Helper()
	for _, n := range m.nodes {
		for i, zone := range want {
			if got, placed := n.c.Table().ZoneOf(m.node(i + 1).c.Self()); !placed || got != zone {
				m.Errorf("%s has node %d in zone %q, want %q", n.name, i+1, got, zone)
			}
		}
	}
}

func TestZoneFollowsTheFlag(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		m.zones("z-node1", "z-node2", "z-node3")
		ended := m.ended
		m.leader().stop()
		for _, n := range m.others(nil) {
			n.stop()
		}
		for i := 1; i <= 3; i++ {
			m.from(i, "hall")
		}
		m.eventually(time.Minute, "the first is in another zone", func() bool {
			zone, _ := m.node(1).c.Table().ZoneOf(m.node(1).c.Self())
			return zone == "hall"
		})
		m.settled(1, 2, 3)
		m.zones("hall", "hall", "hall")
		if m.ended < ended+2 {
			m.Errorf("%d phases ended", m.ended-ended)
		}
		epoch := m.node(1).c.Table().Epoch
		time.Sleep(time.Minute)
		if got := m.node(1).c.Table().Epoch; got != epoch {
			m.Errorf("epoch %d became %d though no zone changes", epoch, got)
		}
	})
}

// A node that comes back to the zone that it left, before anything was copied, moves nothing.
func TestZoneIsTakenBack(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		m.hold(1)
		m.node(2).stop()
		m.from(2, "hall")
		m.reaches(table.Copying)
		m.stays(table.Copying, "a node lacks data")
		m.node(2).crash()
		m.from(2, "z-node2")
		m.settled(1, 2, 3)
		m.zones("z-node1", "z-node2", "z-node3")
	})
}

// A zone that changes while a transition ends is the next one; a node that has left is in no
// zone, and says nothing.
func TestZoneChangeWaits(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		down := m.switching()
		other := m.others(nil)[0].number()
		m.node(other).stop()
		m.from(other, "hall")
		m.eventually(time.Minute, "the change waits", func() bool {
			t := m.leader().c.Table()
			return len(t.Waiting) == 1 && t.Waiting[0].Kind == table.Zone
		})
		m.stays(table.Switching, "one is down")
		m.begin(down.number())
		m.settled(1, 2, 3, 4)
		want := []string{"z-node1", "z-node2", "z-node3", "z-node4"}
		want[other-1] = "hall"
		m.zones(want...)

		m.command(m.leader(), leave(m.ids(4)...))
		m.settled(1, 2, 3)
		m.node(4).stop()
		left := m.from(4, "hall")
		epoch := m.leader().c.Table().Epoch
		time.Sleep(time.Minute)
		if got := m.leader().c.Table().Epoch; got != epoch || left.member() {
			m.Errorf("epoch %d became %d when a node that has left came back from another zone", epoch, got)
		}
	})
}
