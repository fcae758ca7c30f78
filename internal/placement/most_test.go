package placement

import (
	"math/rand/v2"
	"testing"
)

// MostCopies is what some key reaches and none exceeds.
func TestMostCopies(t *testing.T) {
	sets, reached, spared := 0, 0, 0
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 2))
		slots, copies := randomSlots(rng), 1+rng.IntN(5)
		if len(slots) > 24 {
			slots = slots[:24]
		}
		m := NewMap(slots, copies)
		keys := make([][]int, 400)
		for i := range keys {
			keys[i] = m.Owners(rng.Uint64(), nil)
		}
		for range 20 {
			share := rng.Float64()
			told, size := make([]bool, len(slots)), 0
			for slot := range told {
				if told[slot] = rng.Float64() < share; told[slot] && slots[slot].Occupied {
					size++
				}
			}
			worst := 0
			for _, owners := range keys {
				n := 0
				for _, o := range owners {
					if told[o] {
						n++
					}
				}
				worst = max(worst, n)
			}
			most := m.MostCopies(func(slot int) bool { return told[slot] })
			if worst > most {
				t.Fatalf("seed %d: %d copies of a key lie on %v of %v, at most %d should", seed, worst, told, slots, most)
			}
			sets++
			if worst == most {
				reached++
			}
			if most < min(size, m.Copies()) {
				spared++
			}
		}
	}
	t.Logf("of %d sets of slots %d were reached by one of 400 keys; %d can hold fewer copies than they have slots", sets, reached, spared)
	if reached < sets*9/10 || spared < sets/30 {
		t.Errorf("%d of %d were reached, %d can hold fewer copies than they have slots", reached, sets, spared)
	}
}

func TestMostCopiesOfZones(t *testing.T) {
	for _, tt := range []struct {
		slots string
		told  []int
		want  int
	}{
		{"a a b b c c", nil, 0},
		{"a a b b c c", []int{0, 1}, 1},
		{"a a b b c c", []int{0, 2}, 2},
		{"a a b b c c", []int{0, 1, 2, 3}, 2},
		{"a a a b b b", []int{0}, 1},
		{"a a a b b b", []int{0, 1, 2}, 2},
		{"a a a b b b", []int{0, 3}, 2},
		{". . . . .", []int{1, 2}, 2},
		{". . . . .", []int{0, 1, 2, 3}, 3},
		{"a - b c", []int{1}, 0},
		{"a b c d e", []int{0, 1, 2, 3}, 3},
	} {
		m := NewMap(layout(tt.slots), 3)
		in := make([]bool, 10)
		for _, slot := range tt.told {
			in[slot] = true
		}
		if got := m.MostCopies(func(slot int) bool { return in[slot] }); got != tt.want {
			t.Errorf("slots %v of %q hold %d copies of a key at most, want %d", tt.told, tt.slots, got, tt.want)
		}
	}
}
