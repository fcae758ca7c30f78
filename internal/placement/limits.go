package placement

import (
	"math/big"
	"math/bits"
	"slices"
)

// MaxLoad is how many times the mean number of copies a node is given at most. Zones of which
// each has at least half as many nodes as the mean keep copies spread strictly: that is so
// when one of several even zones, of two nodes or more, loses a node.
const MaxLoad = 2

// group is one zone, or several that are too small to hold a copy of every key without
// overloading their nodes, and count as one.
type group struct {
	slots int
	// room is how many copies of one key the group may hold.
	room int
	// least is the hash from which on the group takes a key: where the group is too small
	// even so, its nodes take a share of the keys.
	least uint64
}

// limit groups zones, whose sizes are given, and returns by zone the number of its group.
//
// No node is overloaded: a group takes room copies of each key at most, which is MaxLoad
// times the mean for its nodes or less, or a share of the keys that makes as much. Nor can a
// copy lack a place: all groups together may take MaxLoad times the copies there are, at most
// one of them less than a whole copy of each key, and of each other one less than a copy is
// rounded down.
func limit(sizes []int, copies int) (groups []group, groupOf []int32) {
	groupOf = make([]int32, len(sizes))
	for zone, n := range sizes {
		groups = append(groups, group{slots: n, room: n})
		groupOf[zone] = int32(zone)
	}
	if even(sizes, copies) {
		if copies <= len(sizes) {
			for i := range groups {
				groups[i].room = 1
			}
		}
		return groups, groupOf
	}
	occupied := sum(sizes)
	// whole is how many copies of each key so many nodes may take.
	whole := func(nodes int) int { return MaxLoad * copies * nodes / occupied }
	groups, groupOf = join(groups, groupOf, func(g group) bool { return whole(g.slots) == 0 })
	large := 0
	for i := range groups {
		g := &groups[i]
		if g.room = whole(g.slots); g.room > 0 {
			large++
			continue
		}
		g.room, g.least = 1, least(g.slots, uint64(occupied-MaxLoad*copies*g.slots), uint64(occupied))
	}
	if large >= copies {
		for i := range groups {
			groups[i].room = 1
		}
	}
	return groups, groupOf
}

// even tells whether no node is overloaded if each copy takes a new zone as long as there is
// one, and any slot then.
func even(sizes []int, copies int) bool {
	if slices.Max(sizes) == slices.Min(sizes) {
		return true
	}
	if copies >= len(sizes) {
		return false
	}
	// At each draw a slot is taken with a chance of one in those that are eligible, which
	// are fewest when the largest zones are used up.
	sorted := slices.Sorted(slices.Values(sizes))
	left, load := sum(sizes), new(big.Rat)
	most := big.NewRat(int64(MaxLoad*copies), int64(left))
	for draw := range copies {
		load.Add(load, big.NewRat(1, int64(left)))
		left -= sorted[len(sorted)-1-draw]
	}
	return load.Cmp(most) <= 0
}

// join makes one group of the two smallest, the first of equal ones, as long as both are too
// small.
func join(groups []group, groupOf []int32, small func(group) bool) ([]group, []int32) {
	for {
		bySize := make([]int, len(groups))
		for i := range bySize {
			bySize[i] = i
		}
		slices.SortStableFunc(bySize, func(a, b int) int { return groups[a].slots - groups[b].slots })
		if len(groups) < 2 || !small(groups[bySize[1]]) {
			return groups, groupOf
		}
		kept, gone := min(bySize[0], bySize[1]), max(bySize[0], bySize[1])
		groups[kept].slots += groups[gone].slots
		groups = slices.Delete(groups, gone, gone+1)
		for zone, g := range groupOf {
			switch {
			case int(g) == gone:
				groupOf[zone] = int32(kept)
			case int(g) > gone:
				groupOf[zone]--
			}
		}
	}
}

// least is the smallest 64-bit fraction whose power, cut to 64 bits at each step, is at least
// part/whole: the greatest of so many hashes is smaller in that part of all cases.
func least(power int, part, whole uint64) uint64 {
	want, _ := bits.Div64(part, 0, whole)
	fraction := uint64(0)
	for bit := uint64(1 << 63); bit > 0; bit >>= 1 {
		// The greatest fraction whose power is too small.
		product := fraction | bit
		for range power - 1 {
			product, _ = bits.Mul64(product, fraction|bit)
		}
		if product < want {
			fraction |= bit
		}
	}
	return fraction + 1
}

func sum(sizes []int) int {
	total := 0
	for _, n := range sizes {
		total += n
	}
	return total
}
