package placement

import (
	"encoding/binary"

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

// hole is the zone number of a slot without a node.
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
	// zoneOf holds, by slot, the number of the slot's zone, or hole.
	zoneOf []int32
	// zones counts the distinct zones of the occupied slots.
	zones int
	// copies is at most the number of occupied slots.
	copies int
}

// NewMap returns the placement of as many copies as asked for, or of as many as there
// are occupied slots if those are fewer. It does not keep slots.
func NewMap(slots []Slot, copies int) *Map {
	m := &Map{zoneOf: make([]int32, len(slots))}
	numbers := make(map[string]int32)
	occupied := 0
	for i, s := range slots {
		if !s.Occupied {
			m.zoneOf[i] = hole
			continue
		}
		occupied++
		n, ok := numbers[s.Zone]
		if !ok {
			n = int32(len(numbers))
			numbers[s.Zone] = n
		}
		m.zoneOf[i] = n
	}
	m.zones = len(numbers)
	m.copies = max(0, min(copies, occupied))
	return m
}

// Copies is the number of owners of every key.
func (m *Map) Copies() int { return m.copies }

// Owners appends the slots that hold copies 0, 1, … of the key to dst[:0], and returns
// the result: all distinct, all occupied, in distinct zones as far as there are zones.
// It allocates only if dst has too little capacity.
func (m *Map) Owners(key uint64, dst []int) []int {
	dst = dst[:0]
	for len(dst) < m.copies {
		dst = append(dst, m.next(key, dst))
	}
	return dst
}

// next returns the slot of the copy whose number is len(chosen).
//
// There is always an eligible slot: if zones are unused, each has an occupied slot, and
// otherwise fewer slots are chosen than occupied.
func (m *Map) next(key uint64, chosen []int) int {
	replica := uint32(len(chosen))
	if m.zones > 1 {
		return m.greatest(ranking, key, chosen)
	}
	for attempt := range uint32(maxAttempts) {
		slot := int(jump.Hash(hash(replica, attempt, key), len(m.zoneOf)))
		if m.eligible(slot, chosen) {
			return slot
		}
	}
	return m.greatest(replica, key, chosen)
}

// eligible tells whether the next copy may lie in the slot.
//
// Unused zones remain while fewer copies are placed than there are zones, because each
// of those copies was made to take a new zone.
func (m *Map) eligible(slot int, chosen []int) bool {
	zone := m.zoneOf[slot]
	if zone == hole {
		return false
	}
	newZone := len(chosen) < m.zones
	for _, c := range chosen {
		if c == slot || newZone && m.zoneOf[c] == zone {
			return false
		}
	}
	return true
}

// greatest returns the eligible slot with the greatest hash of its own (rendezvous
// hashing; the lowest of several equal ones). That spreads the keys evenly over all
// eligible slots and moves none between slots that stay eligible.
func (m *Map) greatest(replica uint32, key uint64, chosen []int) int {
	best, bestHash := -1, uint64(0)
	for slot := range m.zoneOf {
		if !m.eligible(slot, chosen) {
			continue
		}
		if h := hash(replica, fallbackBit|uint32(slot), key); best < 0 || h > bestHash {
			best, bestHash = slot, h
		}
	}
	return best
}

// hash is xxhash64 over replica, attempt and key.
func hash(replica, attempt uint32, key uint64) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint32(b[0:], replica)
	binary.LittleEndian.PutUint32(b[4:], attempt)
	binary.LittleEndian.PutUint64(b[8:], key)
	return xxhash.Sum64(b[:])
}
