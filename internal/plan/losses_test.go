package plan

import (
	"math"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestLosses(t *testing.T) {
	five := &table.Assignment{ReplicationFactor: 3}
	for _, id := range []table.NodeID{"a", "b", "c", "d", "e"} {
		five.Slots = append(five.Slots, table.Slot{Node: id})
	}
	// Three of five places are drawn: how many of them are among the three that are gone.
	want := []float64{0, 3.0 / 10, 6.0 / 10, 1.0 / 10}
	got := Losses(five, []table.NodeID{"a", "c", "e"})
	for k := range want {
		if len(got) != len(want) || math.Abs(got[k]-want[k]) > 0.01 {
			t.Fatalf("%v, want about %v", got, want)
		}
	}
	five.Slots[0].Removed = true
	if again := Losses(five, []table.NodeID{"c", "e"}); math.Abs(again[3]-got[3]) > 1e-9 {
		t.Errorf("%v with one that is removed, %v with one that is gone", again, got)
	}
}
