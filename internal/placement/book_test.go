package placement

import (
	"encoding/binary"
	"math/big"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/dgryski/go-jump"
)

// book is the rule as the package documentation words it, with sets and exact numbers instead
// of short cuts.
type book struct {
	slots  []Slot
	copies int
	nodes  int
	groups []*bookGroup
}

// bookGroup is a group of zones.
type bookGroup struct {
	slots []int
	zones int
	room  int
	least *big.Int
}

func newBook(slots []Slot, copies int) *book {
	b := &book{slots: slots}
	zones := map[string]*bookGroup{}
	for i, s := range slots {
		if !s.Occupied {
			continue
		}
		if zones[s.Zone] == nil {
			zones[s.Zone] = &bookGroup{zones: 1, least: new(big.Int)}
			b.groups = append(b.groups, zones[s.Zone])
		}
		zones[s.Zone].slots = append(zones[s.Zone].slots, i)
		b.nodes++
	}
	if b.copies = max(0, min(copies, b.nodes)); b.copies > 0 {
		b.limit()
	}
	return b
}

// bySize returns the groups, the smallest first.
func (b *book) bySize() []*bookGroup {
	return slices.SortedStableFunc(slices.Values(b.groups), func(a, b *bookGroup) int { return len(a.slots) - len(b.slots) })
}

func (b *book) even() bool {
	sizes := b.bySize()
	if len(sizes[0].slots) == len(sizes[len(sizes)-1].slots) {
		return true
	}
	chance, left := new(big.Rat), b.nodes
	for draw := range b.copies {
		if left == 0 {
			return false
		}
		chance.Add(chance, big.NewRat(1, int64(left)))
		left -= len(sizes[max(0, len(sizes)-1-draw)].slots)
	}
	return b.copies < len(sizes) && chance.Cmp(big.NewRat(int64(2*b.copies), int64(b.nodes))) <= 0
}

func (b *book) limit() {
	if b.even() {
		for _, g := range b.groups {
			if g.room = 1; b.copies > len(b.groups) {
				g.room = len(g.slots)
			}
		}
		return
	}
	for s := b.bySize(); len(s) > 1 && len(s[1].slots)*2*b.copies < b.nodes; s = b.bySize() {
		first, second := s[0], s[1]
		if first.slots[0] > second.slots[0] {
			first, second = second, first
		}
		first.slots, first.zones = append(first.slots, second.slots...), first.zones+second.zones
		slices.Sort(first.slots)
		b.groups = slices.DeleteFunc(b.groups, func(g *bookGroup) bool { return g == second })
	}
	for _, g := range b.groups {
		if g.room = len(g.slots) * 2 * b.copies / b.nodes; g.room == 0 {
			g.room, g.least = 1, b.least(len(g.slots))
		}
	}
}

// least is the smallest number whose power is enough.
func (b *book) least(slots int) *big.Int {
	whole := new(big.Int).Lsh(big.NewInt(1), 64)
	want := new(big.Int).Mul(whole, big.NewInt(int64(b.nodes-2*b.copies*slots)))
	want.Div(want, big.NewInt(int64(b.nodes)))
	low, high := big.NewInt(0), new(big.Int).Sub(whole, big.NewInt(1))
	for low.Cmp(high) < 0 {
		middle := new(big.Int).Rsh(new(big.Int).Add(low, high), 1)
		power := new(big.Int).Set(middle)
		for range slots - 1 {
			power.Rsh(power.Mul(power, middle), 64)
		}
		if power.Cmp(want) >= 0 {
			high = middle
		} else {
			low = middle.Add(middle, big.NewInt(1))
		}
	}
	return low
}

func (b *book) owners(key uint64) []int {
	var owners []int
	sum := func(r, a uint32) uint64 {
		bytes := binary.LittleEndian.AppendUint32(nil, r)
		bytes = binary.LittleEndian.AppendUint32(bytes, a)
		return xxhash.Sum64(binary.LittleEndian.AppendUint64(bytes, key))
	}
	// best is the first of the slots with the greatest hash.
	best := func(r uint32, may func(used int, g *bookGroup, hash uint64) bool) int {
		best := -1
		for _, g := range b.groups {
			used := 0
			for _, o := range owners {
				if slices.Contains(g.slots, o) {
					used++
				}
			}
			for _, s := range g.slots {
				h, top := sum(r, 1<<31+uint32(s)), sum(r, 1<<31+uint32(max(best, 0)))
				if may(used, g, h) && !slices.Contains(owners, s) && (best < 0 || h > top || h == top && s < best) {
					best = s
				}
			}
		}
		return best
	}
	for r := range uint32(b.copies) {
		slot := -1
		if len(b.groups) == 1 && b.groups[0].zones == 1 {
			for a := uint32(0); a < 64 && slot < 0; a++ {
				if s := int(jump.Hash(sum(r, a), len(b.slots))); b.slots[s].Occupied && !slices.Contains(owners, s) {
					slot = s
				}
			}
			if slot < 0 {
				slot = best(r, func(int, *bookGroup, uint64) bool { return true })
			}
		} else {
			slot = best(1<<31, func(used int, g *bookGroup, h uint64) bool {
				return used == 0 && new(big.Int).SetUint64(h).Cmp(g.least) >= 0
			})
			if slot < 0 {
				slot = best(1<<31, func(used int, g *bookGroup, _ uint64) bool { return used > 0 && used < g.room })
			}
		}
		owners = append(owners, slot)
	}
	return owners
}
