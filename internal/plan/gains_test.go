package plan

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestGains(t *testing.T) {
	for _, tc := range []struct {
		name            string
		current, target *table.Assignment
		gain            []table.NodeID
	}{
		{"nothing", assignment(2, "a b c"), assignment(2, "a b c"), nil},
		{"one replaces another", assignment(2, "a b C d"), assignment(2, "a b e d"), []table.NodeID{"e"}},
		{"one replaces another in another zone", assignment(2, "a/x b/y c/z"), assignment(2, "a/x b/y d/x"), []table.NodeID{"a", "b", "d"}},
		{"all own all", assignment(3, "a b c"), assignment(3, "a b c d e"), []table.NodeID{"d", "e"}},
		{"one joins", assignment(2, "a b c"), assignment(2, "a b c d"), []table.NodeID{"a", "b", "c", "d"}},
		{"one leaves", assignment(2, "a b c d"), assignment(2, "a - c d"), []table.NodeID{"a", "c", "d"}},
		{"more copies", assignment(1, "a b c"), assignment(2, "a b c"), []table.NodeID{"a", "b", "c"}},
		{"two change places", assignment(1, "a b c"), assignment(1, "b a c"), []table.NodeID{"a", "b"}},
		{"the second of two", assignment(5, "a b"), assignment(5, "- b"), nil},
	} {
		for _, id := range []table.NodeID{"a", "b", "c", "d", "e"} {
			if got, want := Gains(tc.current, tc.target, id), slices.Contains(tc.gain, id); got != want {
				t.Errorf("%s: %s gains: %t, want %t", tc.name, id, got, want)
			}
		}
	}
}

// Who gains nothing by the rule gains nothing by the placement of any key.
func TestGainsMissesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	ids := []table.NodeID{"a", "b", "c", "d", "e", "f"}
	random := func() *table.Assignment {
		a := &table.Assignment{ReplicationFactor: 1 + rng.IntN(4)}
		for _, i := range rng.Perm(len(ids))[:1+rng.IntN(len(ids))] {
			s := table.Slot{Node: ids[i], Zone: []string{"", "x", "y"}[rng.IntN(3)]}
			if rng.IntN(6) == 0 {
				s = table.Slot{}
			}
			a.Slots = append(a.Slots, s)
		}
		return a
	}
	nothing := 0
	for range 3000 {
		current, target := random(), random()
		if rng.IntN(2) == 0 { // alike but for a node or two
			*target = table.Assignment{ReplicationFactor: current.ReplicationFactor, Slots: slices.Clone(current.Slots)}
			i, j := rng.IntN(len(target.Slots)), rng.IntN(len(target.Slots))
			target.Slots[i].Node, target.Slots[j].Node = target.Slots[j].Node, target.Slots[i].Node
			if k := rng.IntN(len(target.Slots)); target.Slots[k].Node != "" {
				target.Slots[k].Node = "g"
			}
		}
		if current.Owners() == 0 || target.Owners() == 0 {
			continue
		}
		before, after := Place(current), Place(target)
		for range 20 {
			key := rng.Uint64()
			held := before.Owners(key, nil)
			for _, slot := range after.Owners(key, nil) {
				id := target.Slots[slot].Node
				had, owned := current.SlotOf(id)
				if !Gains(current, target, id) {
					nothing++
					if !owned || !slices.Contains(held, had) {
						t.Fatalf("%s gains key %d from %+v to %+v", id, key, current, target)
					}
				}
			}
		}
	}
	if nothing < 1000 {
		t.Errorf("only %d times nothing was gained", nothing)
	}
}
