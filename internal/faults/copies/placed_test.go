package copies

import (
	"slices"
	"testing"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/table"
)

func assignment(nodes ...table.NodeID) *table.Assignment {
	a := &table.Assignment{ReplicationFactor: 3}
	for _, id := range nodes {
		a.Slots = append(a.Slots, table.Slot{Node: id})
	}
	return a
}

// Whoever joins gains what is placed on it, and what a node leaves others gain, each series with
// all its samples.
func TestMoved(t *testing.T) {
	sizes, all := map[ledger.Series]int{}, 0
	for i := range 100 {
		sizes[ledger.Series{Shape: ledger.Gauge, Number: i}] = i
		all += i
	}
	three, four := assignment("a", "b", "c"), assignment("a", "b", "c", "d")
	gained := 0
	for s, n := range sizes {
		if slices.Contains(Placed(four)(s), "d") {
			gained += n
		}
	}
	for _, tc := range []struct {
		name        string
		from, to    *table.Assignment
		made, least int
	}{
		{"nothing", four, four, 0, 0},
		{"one joins", three, four, gained, gained},
		{"it leaves", four, assignment("a", "b", "c", ""), gained, gained},
		{"one replaces another", four, assignment("a", "b", "c", "e"), gained, gained},
		{"all are others", three, assignment("d", "e", "f"), 3 * all, 3 * all},
	} {
		if made, least := Moved(tc.from, tc.to, sizes); made != tc.made || least != tc.least {
			t.Errorf("%s: %d samples are copied and %d at least, want %d and %d", tc.name, made, least, tc.made, tc.least)
		}
	}
	// Two slots that change places give each node as much as before.
	made, least := Moved(four, assignment("b", "a", "c", "d"), sizes)
	if least >= made {
		t.Errorf("%d samples are copied and %d at least where nodes change places", made, least)
	}
}
