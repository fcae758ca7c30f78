package placement

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/dgryski/go-jump"
)

// maxAttempts bounds the jump-hash attempts per copy. Where at least one slot in three
// is eligible, fewer than one copy in 10^11 exhausts it; where eligible slots are rare
// (a lonely zone, many holes), the fallback costs less than further attempts would.
//
// The bound is part of the placement: changing it moves data. It does not depend on the
// number of slots: a bound that grew with them would shift copies between old slots.
const maxAttempts = 64

const (
	// fallbackBit marks the attempt field of the fallback's hashes. It keeps them apart
	// from those of the attempts.
	fallbackBit = 1 << 31
	// ranking stands in the replica field where slots are ranked: one ranking serves all
	// copies of a key.
	ranking = 1 << 31
)

// hole is the group number of a slot without a node.
const hole = -1

// Slot is what placement needs to know of one jump-hash bucket.
type Slot struct {
	// Occupied is false for a hole.
	Occupied bool
	// Zone is the failure domain of the slot's node, meaningless for a hole. All empty
	// zones are one and the same zone.
	Zone string
}

// Map places copies on the slots of one table. It is immutable and safe for concurrent
// use.
type Map struct {
	// groupOf holds, by slot, the number of the slot's group of zones, or hole.
	groupOf []int32
	groups  []group
	// zones counts the distinct zones of the occupied slots.
	zones int
	// copies is at most the number of occupied slots.
	copies int
}

// NewMap returns the placement of as many copies as asked for, or of as many as there
// are occupied slots if those are fewer. It does not keep slots.
func NewMap(slots []Slot, copies int) *Map {
	m := &Map{groupOf: make([]int32, len(slots))}
	numbers := make(map[string]int32)
	var sizes []int
	for i, s := range slots {
		if !s.Occupied {
			m.groupOf[i] = hole
			continue
		}
		zone, ok := numbers[s.Zone]
		if !ok {
			zone = int32(len(numbers))
			numbers[s.Zone] = zone
			sizes = append(sizes, 0)
		}
		m.groupOf[i] = zone
		sizes[zone]++
	}
	m.zones = len(sizes)
	if m.copies = max(0, min(copies, sum(sizes))); m.copies == 0 {
		return m
	}
	groups, groupOf := limit(sizes, m.copies)
	m.groups = groups
	for i, zone := range m.groupOf {
		if zone != hole {
			m.groupOf[i] = groupOf[zone]
		}
	}
	return m
}

// Copies is the number of owners of every key.
func (m *Map) Copies() int { return m.copies }

// First returns the first of the key's owners, or -1 if there are none.
func (m *Map) First(key uint64) int {
	if m.copies == 0 {
		return -1
	}
	return m.next(key, nil)
}

// Owners appends the slots that hold copies 0, 1, … of the key to dst[:0], and returns
// the result: all distinct, all occupied, in distinct zones as far as there are zones and no
// node is given more than [MaxLoad] times the mean.
// It allocates only if dst has too little capacity.
func (m *Map) Owners(key uint64, dst []int) []int {
	dst = dst[:0]
	for len(dst) < m.copies {
		dst = append(dst, m.next(key, dst))
	}
	return dst
}

// next returns the slot of the copy whose number is len(chosen).
func (m *Map) next(key uint64, chosen []int) int {
	if m.zones > 1 {
		return m.ranked(key, chosen)
	}
	replica := uint32(len(chosen))
	for attempt := range uint32(maxAttempts) {
		slot := int(jump.Hash(hash(replica, attempt, key), len(m.groupOf)))
		if m.groupOf[slot] != hole && !slices.Contains(chosen, slot) {
			return slot
		}
	}
	best := greatest{slot: -1}
	for slot, group := range m.groupOf {
		if group != hole && !slices.Contains(chosen, slot) {
			best.offer(slot, hash(replica, fallbackBit|uint32(slot), key))
		}
	}
	return best.slot
}

// ranked returns the slot with the greatest hash of its own in a group without a copy that
// takes the key, or else in one that has room for another copy. That spreads the keys evenly
// over all eligible slots and moves none between slots that stay eligible (rendezvous hashing).
func (m *Map) ranked(key uint64, chosen []int) int {
	first, further := greatest{slot: -1}, greatest{slot: -1}
	for slot, number := range m.groupOf {
		if number == hole || slices.Contains(chosen, slot) {
			continue
		}
		used := 0
		for _, c := range chosen {
			if m.groupOf[c] == number {
				used++
			}
		}
		g := &m.groups[number]
		if used >= g.room {
			continue
		}
		h := hash(ranking, fallbackBit|uint32(slot), key)
		switch {
		case used > 0:
			further.offer(slot, h)
		case h >= g.least:
			first.offer(slot, h)
		}
	}
	if first.slot >= 0 {
		return first.slot
	}
	return further.slot
}

// greatest is the slot with the greatest hash of those that were offered, the first of equal
// ones.
type greatest struct {
	slot int
	hash uint64
}

func (g *greatest) offer(slot int, hash uint64) {
	if g.slot < 0 || hash > g.hash {
		g.slot, g.hash = slot, hash
	}
}

// hash is xxhash64 over replica, attempt and key.
func hash(replica, attempt uint32, key uint64) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint32(b[0:], replica)
	binary.LittleEndian.PutUint32(b[4:], attempt)
	binary.LittleEndian.PutUint64(b[8:], key)
	return xxhash.Sum64(b[:])
}
