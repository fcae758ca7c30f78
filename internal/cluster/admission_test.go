package cluster

import (
	"slices"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestAdmissible(t *testing.T) {
	slots := []table.Slot{{Node: "a"}, {}, {Node: "x", Joining: true}, {Node: "y", Joining: true}}
	tab := &table.Table{Epoch: 7, Slots: slots}
	for _, c := range []struct {
		name     string
		reported map[table.NodeID]uint64
		want     []table.NodeID
	}{
		{"everybody is there", map[table.NodeID]uint64{"a": 7, "x": 7, "y": 8}, []table.NodeID{"x", "y"}},
		{"an owner is behind", map[table.NodeID]uint64{"a": 6, "x": 7, "y": 7}, nil},
		{"a joining node is behind", map[table.NodeID]uint64{"a": 7, "x": 7, "y": 6}, nil},
		{"nothing was heard of an owner", map[table.NodeID]uint64{"x": 7, "y": 7}, nil},
	} {
		if got := admissible(tab, c.reported); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
