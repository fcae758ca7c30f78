package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// layout reads slots from a string: one field per slot, its zone, "." for none and "-"
// for a hole.
func layout(s string) []Slot {
	var slots []Slot
	for f := range strings.FieldsSeq(s) {
		switch f {
		case "-":
			slots = append(slots, Slot{})
		case ".":
			slots = append(slots, Slot{Occupied: true})
		default:
			slots = append(slots, Slot{Occupied: true, Zone: f})
		}
	}
	return slots
}

// zoneless returns n occupied slots without zones.
func zoneless(n int) []Slot { return layout(strings.Repeat(". ", n)) }

// zoned returns n occupied slots that take turns in the zones.
func zoned(n, zones int) []Slot {
	slots := make([]Slot, n)
	for i := range slots {
		slots[i] = Slot{Occupied: true, Zone: fmt.Sprintf("z%d", i%zones)}
	}
	return slots
}

// sized returns the slots of zones of so many nodes.
func sized(sizes ...int) []Slot {
	var slots []Slot
	for zone, n := range sizes {
		slots = append(slots, slices.Repeat([]Slot{{Occupied: true, Zone: fmt.Sprintf("z%d", zone)}}, n)...)
	}
	return slots
}

// without returns the slots with a hole.
func without(slots []Slot, hole int) []Slot {
	slots = slices.Clone(slots)
	slots[hole] = Slot{}
	return slots
}

// randomSlots are few slots as a rule, in few zones.
func randomSlots(rng *rand.Rand) []Slot {
	if rng.IntN(20) == 0 {
		return sized(6, 2, 1) // two copies are just about the most for it
	}
	n := rng.IntN(24)
	if rng.IntN(4) == 0 {
		n += 200 // so that attempts run out
	}
	slots := make([]Slot, n)
	zones := 1 + rng.IntN(6)
	holes := rng.Float64()
	for i := range slots {
		if rng.Float64() < holes {
			continue
		}
		slots[i].Occupied = true
		if z := rng.IntN(zones); z > 0 {
			slots[i].Zone = fmt.Sprintf("z%d", z)
		}
	}
	return slots
}

func TestOwnersFollowTheRule(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		slots, copies := randomSlots(rng), rng.IntN(6)
		m, book, promised := NewMap(slots, copies), newBook(slots, copies), promiseOf(slots, copies)
		for range 20 {
			key := rng.Uint64()
			got := m.Owners(key, nil)
			if want := book.owners(key); !slices.Equal(got, want) {
				t.Fatalf("seed %d: owners of %016x are %v, by the book %v; slots %v", seed, key, got, want, slots)
			}
			if first := m.First(key); first != append(got, -1)[0] {
				t.Fatalf("seed %d: the first of %v is %d", seed, got, first)
			}
			if err := promised.check(got); err != nil {
				t.Fatalf("seed %d: key %016x: %v; owners %v, slots %v", seed, key, err, got, slots)
			}
		}
	}
}

// promise is what a layout promises of the owners of every key.
type promise struct {
	slots []Slot
	// owners is how many a key has, zones in how many zones they lie at least.
	owners, zones int
}

func promiseOf(slots []Slot, copies int) promise {
	m := NewMap(slots, copies)
	p := promise{slots: slots, owners: m.Copies()}
	if p.zones = min(m.Copies(), m.zones); !m.Spread() {
		p.zones = 1
	}
	return p
}

// check tells how a list of owners breaks the promise.
func (p promise) check(owners []int) error {
	if len(owners) != p.owners {
		return fmt.Errorf("%d owners, want %d", len(owners), p.owners)
	}
	for r, o := range owners {
		if o < 0 || o >= len(p.slots) || !p.slots[o].Occupied {
			return fmt.Errorf("copy %d lies on slot %d, which holds no node", r, o)
		}
		if slices.Contains(owners[:r], o) {
			return fmt.Errorf("copy %d lies on slot %d like an earlier one", r, o)
		}
	}
	if zones := zonesOf(p.slots, owners); zones < p.zones {
		return fmt.Errorf("the copies lie in %d zones, want %d", zones, p.zones)
	}
	return nil
}

// zonesOf counts the zones of the owners.
func zonesOf(slots []Slot, owners []int) int {
	zones := 0
	for r, o := range owners {
		if !slices.ContainsFunc(owners[:r], func(earlier int) bool { return slots[earlier].Zone == slots[o].Zone }) {
			zones++
		}
	}
	return zones
}

func TestOwnersOfSmallTables(t *testing.T) {
	tests := []struct {
		slots  string
		copies int
		want   []int // sorted
	}{
		{"", 3, nil},
		{"- -", 3, nil},
		{". .", 0, nil},
		{". .", -1, nil},
		{".", 3, []int{0}},
		{"- - - .", 3, []int{3}},
		{". - .", 3, []int{0, 2}},
		{"a b c", 3, []int{0, 1, 2}},
		{"a a a", 3, []int{0, 1, 2}},
		{"a - b", 1, nil}, // either
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s copies %d", tt.slots, tt.copies), func(t *testing.T) {
			slots := layout(tt.slots)
			for key := range uint64(200) {
				got := NewMap(slots, tt.copies).Owners(key, nil)
				if err := promiseOf(slots, tt.copies).check(got); err != nil {
					t.Fatal(err)
				}
				slices.Sort(got)
				if tt.want != nil && !slices.Equal(got, tt.want) {
					t.Fatalf("owners %v, want %v", got, tt.want)
				}
			}
		})
	}
}

// One node among two hundred slots: attempts alone would nearly always fail.
func TestOwnersBeyondTheAttempts(t *testing.T) {
	slots := make([]Slot, 200)
	for _, i := range []int{3, 77, 150, 199} {
		slots[i] = Slot{Occupied: true}
	}
	m := NewMap(slots, 2)
	var load [200]int
	const keys = 40000
	for key := range uint64(keys) {
		for _, o := range m.Owners(key, nil) {
			load[o]++
		}
	}
	for _, i := range []int{3, 77, 150, 199} {
		// 5 standard deviations of a fair draw.
		if d := load[i] - keys/2; d < -500 || d > 500 {
			t.Errorf("slot %d holds %d copies, want about %d", i, load[i], keys/2)
		}
	}
}

func TestOwnersReuseTheDestination(t *testing.T) {
	m := NewMap(zoned(19, 3), 3)
	dst := make([]int, 0, 8)
	first := slices.Clone(m.Owners(1, dst))
	dst = append(dst, 7, 7, 7, 7)
	if again := m.Owners(1, dst); !slices.Equal(again, first) {
		t.Errorf("owners %v into a used buffer, %v into an empty one", again, first)
	}
	if m.Copies() != 3 {
		t.Errorf("%d copies, want 3", m.Copies())
	}
}

func TestOwnersDoNotAllocate(t *testing.T) {
	for name, slots := range map[string][]Slot{
		"no zones":  zoneless(19),
		"zones":     zoned(19, 3),
		"fall back": append(make([]Slot, 200), zoneless(3)...),
		"lonely":    layout("a a a a b b b b c"),
	} {
		m := NewMap(slots, 3)
		dst := make([]int, 0, 3)
		key := uint64(0)
		if n := testing.AllocsPerRun(1000, func() { dst = m.Owners(key, dst); key++ }); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

// NewMap must not see later changes of the slots it was given.
func TestMapKeepsNoSlots(t *testing.T) {
	slots := zoned(9, 3)
	m := NewMap(slots, 3)
	want := m.Owners(42, nil)
	clear(slots)
	if got := m.Owners(42, nil); !slices.Equal(got, want) {
		t.Errorf("owners %v after the caller cleared its slots, %v before", got, want)
	}
}

func BenchmarkOwners(b *testing.B) {
	for _, bb := range []struct {
		name  string
		slots []Slot
	}{
		{"3 nodes", zoneless(3)},
		{"5 nodes", zoneless(5)},
		{"19 nodes", zoneless(19)},
		{"19 nodes in 3 zones", zoned(19, 3)},
		{"100 nodes in 3 zones", zoned(100, 3)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			m := NewMap(bb.slots, 3)
			dst := make([]int, 0, 3)
			key := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				dst = m.Owners(key, dst)
				key++
			}
		})
	}
}
