package plan

import (
	"slices"

	"github.com/starling-tsdb/starling/internal/table"
)

// Gains tells whether a node may own copies by the target that it does not own by the current
// assignment. It may not where it owns copies of everything already; nor where it keeps its
// slot, and the slots differ only in which other nodes are in them.
func Gains(current, target *table.Assignment, id table.NodeID) bool {
	now, owned := current.SlotOf(id)
	then, owns := target.SlotOf(id)
	switch {
	case !owns:
		return false
	case owned && current.Copies() == current.Owners():
		return false
	}
	alike := func(a, b table.Slot) bool { return (a.Node == "") == (b.Node == "") && a.Zone == b.Zone }
	return !owned || now != then || current.ReplicationFactor != target.ReplicationFactor ||
		!slices.EqualFunc(current.Slots, target.Slots, alike)
}
