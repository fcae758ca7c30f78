package cluster

import (
	"slices"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestAwaited(t *testing.T) {
	// The target has a new node, d, and a leaving one less, c. Nothing is asked of the
	// removed b.
	moving := func(phase table.Phase) *table.Table {
		tab := tableOf("c", 8, "a", "b", "c")
		tab.Current.Slots[1].Removed = true
		target := tableOf("c", 8, "a", "d").Current
		tab.Transition = &table.Transition{Phase: phase, Began: 7, Target: target}
		return tab
	}
	for _, c := range []struct {
		name    string
		phase   table.Phase
		reports map[table.NodeID]report
		want    []table.NodeID
	}{
		{"nothing was heard", table.Copying, nil, []table.NodeID{"a", "c", "d"}},
		{"all are there", table.Copying, map[table.NodeID]report{"a": {7, 7}, "c": {7, 0}, "d": {8, 7}}, nil},
		{"nobody is ready", table.Copying, map[table.NodeID]report{"a": {7, 0}, "c": {7, 0}, "d": {7, 0}}, []table.NodeID{"a", "d"}},
		{"ready for another phase", table.Copying, map[table.NodeID]report{"a": {8, 8}, "c": {8, 7}, "d": {7, 6}}, []table.NodeID{"a", "d"}},
		{"the leaving node is behind", table.Copying, map[table.NodeID]report{"a": {7, 7}, "c": {6, 7}, "d": {7, 7}}, []table.NodeID{"c"}},
		{"a ready node is behind", table.Copying, map[table.NodeID]report{"a": {6, 7}, "c": {7, 7}, "d": {7, 7}}, []table.NodeID{"a"}},
		{"all switched", table.Switching, map[table.NodeID]report{"a": {7, 5}, "c": {7, 0}, "d": {9, 5}}, nil},
		{"not all switched", table.Switching, map[table.NodeID]report{"a": {7, 7}, "b": {7, 7}, "c": {6, 7}, "d": {6, 7}}, []table.NodeID{"c", "d"}},
	} {
		if got := awaited(moving(c.phase), c.reports); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
