// Package proof is how a query knows what its nodes hold, before it reads any of it: what a
// node says of itself in round one, and which nodes serve a series in round two. It is pure.
//
// The rule, and why it is enough, are in docs/adr/0008-gaps-and-proof.md.
package proof

import (
	"math/bits"
	"slices"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// Gap is a note on a node: a peer may lack acknowledged samples of series that both own.
type Gap struct {
	Peer table.NodeID
	// Since is the time of the oldest such sample, in milliseconds.
	Since int64
	// Late says that the peer may yet confirm all of them, and the gap vanish by itself.
	Late bool
}

// Covers tells whether one of the gaps says that the peer may lack samples of a time.
func Covers(gaps []Gap, peer table.NodeID, t int64) bool {
	return slices.ContainsFunc(gaps, func(g Gap) bool { return g.Peer == peer && g.Since <= t })
}

// Confirmation says what an owner has stored and synced of a batch.
type Confirmation struct {
	series.Outcome
	// Gaps are those that the owner noted for others, read after the batch was stored:
	// whoever relies on them need not have them noted again. They are not to be changed.
	Gaps []Gap
}

// Window is a part of a hand-off: what the peer may lack between two sample times, in
// milliseconds.
type Window struct {
	// Session numbers the hand-off.
	Session uint64
	// Since is inclusive, Until is not; math.MaxInt64 is the end of the last window.
	Since, Until int64
}

// Range is a span of sample times in milliseconds, both inclusive.
type Range struct{ Min, Max int64 }

// Overlaps tells whether a sample can lie in both.
func (r Range) Overlaps(s Range) bool { return max(r.Min, s.Min) <= min(r.Max, s.Max) }

// From returns the part of the range that begins at a time or later. None may be left.
func (r Range) From(t int64) Range { return Range{Min: max(r.Min, t), Max: r.Max} }

const (
	// KeyRanges is how many ranges the partition keys are divided into, of the same size and
	// in their order: as many as a set of bits can name.
	KeyRanges = 64
	// AllRanges are the bits of all ranges.
	AllRanges = ^uint64(0)
)

// KeyRange returns the number of the range that a partition key lies in.
func KeyRange(key uint64) int { return int(key / (1 << 64 / KeyRanges)) }

// Sums sum up series by ranges of keys: each is the sum of the digests of all series whose
// keys are in one range, 0 if there are none.
type Sums [KeyRanges]uint64

// Differing has the bits set of the ranges in which two sums are not the same.
func (s *Sums) Differing(other *Sums) (ranges uint64) {
	for i := range s {
		if s[i] != other[i] {
			ranges |= 1 << i
		}
	}
	return ranges
}

// Part narrows what is read to what a node copies, of the series that it owns.
type Part struct {
	Node table.NodeID
	// Gained leaves those only that it owns by the target of a transition and not yet.
	Gained bool
	// Ranges has the bits set of the ranges of keys that are wanted.
	Ranges uint64
}

// State is what a node says in round one.
type State struct {
	// Session changes whenever the node may hold less than it held before, or notice that
	// it does: with each start and each damage found.
	Session uint64
	// Gaps are those the node notes for its peers.
	Gaps []Gap
	// Damage is where the node lacks what it once confirmed.
	Damage []Range
	// Expired is where its samples are expired. A node that keeps samples of that time, for
	// another clock or other limits, cannot go by it.
	Expired []Range
}

// Damaged tells whether the node cannot vouch for what it holds in the range.
func (s *State) Damaged(r Range) bool {
	return slices.ContainsFunc(s.Damage, r.Overlaps)
}

// Past tells whether samples of the range are expired on the node. The range is one of samples
// that are not on the node which asks.
func (s *State) Past(r Range) bool {
	return slices.ContainsFunc(s.Expired, r.Overlaps)
}

// Proof says who serves a query. All nodes that serve it are told the same.
type Proof struct {
	// Quorum is the read quorum: any so many owners of a series include one that confirmed
	// a given write.
	Quorum int
	// Nodes are those that serve, in ascending order of their slots.
	Nodes []Node
}

// Node is one that serves.
type Node struct {
	Slot    int
	Session uint64
	// Noted are the slots of peers that may lack samples of the query's range.
	Noted []int
}

// New returns the proof of a query by an assignment, for samples up to the given time, in
// milliseconds. The states are by slot, nil for a node that is missing.
func New(a *table.Assignment, states []*State, until int64) *Proof {
	p := &Proof{Quorum: a.ReadQuorum()}
	for slot, s := range states {
		if s == nil {
			continue
		}
		n := Node{Slot: slot, Session: s.Session}
		for _, g := range s.Gaps {
			if noted, ok := a.SlotOf(g.Peer); ok && g.Since <= until {
				n.Noted = append(n.Noted, noted)
			}
		}
		p.Nodes = append(p.Nodes, n)
	}
	return p
}

// Serves tells whether the node in a slot serves.
func (p *Proof) Serves(slot int) bool {
	return slices.ContainsFunc(p.Nodes, func(n Node) bool { return n.Slot == slot })
}

// Noted tells whether a node that serves notes a gap for the one in the slot.
func (p *Proof) Noted(slot int) bool {
	return slices.ContainsFunc(p.Nodes, func(n Node) bool { return slices.Contains(n.Noted, slot) })
}

// Alone tells whether each series is served by one node, by an assignment: not all of its owners
// can be missing or noted. Where that is not sure it is denied.
func (p *Proof) Alone(a *table.Assignment) bool {
	if a.Unproven() {
		return false
	}
	doubtful := 0
	for slot := range a.Slots {
		if a.Slots[slot].Node != "" && (!p.Serves(slot) || p.Noted(slot)) {
			doubtful++
		}
	}
	return doubtful < a.Copies()
}

// Only returns the proof by which the node in a slot serves all series, or nil if it may not hold
// all of them, by an assignment. It is for a proof of all nodes that answered: whoever notes
// something for the node is among them.
func (p *Proof) Only(a *table.Assignment, slot int) *Proof {
	if p.Noted(slot) {
		return nil
	}
	only := &Proof{Quorum: p.Quorum}
	for _, n := range p.Nodes {
		if n.Slot == slot {
			only.Nodes = []Node{{Slot: slot, Session: n.Session}}
		}
	}
	if !only.Alone(a) {
		return nil
	}
	return only
}

// Share returns what one node serves under a proof by an assignment, or nil if it is not one of
// those that do.
func (p *Proof) Share(a *table.Assignment, slot int) *Share {
	if !p.Serves(slot) {
		return nil
	}
	s := &Share{slot: slot, quorum: p.Quorum, unproven: a.Unproven()}
	s.serving = newSet(p.Nodes[len(p.Nodes)-1].Slot + 1)
	s.noted = make([]set, p.Nodes[len(p.Nodes)-1].Slot+1)
	for _, n := range p.Nodes {
		s.serving.add(n.Slot)
		for _, noted := range n.Noted {
			if s.noted[n.Slot] == nil {
				s.noted[n.Slot] = newSet(len(s.noted))
				s.gaps = true
			}
			s.noted[n.Slot].add(noted)
		}
	}
	return s
}

// Share decides for one node which series it serves. It is immutable and does not allocate.
type Share struct {
	slot    int
	quorum  int
	serving set
	// noted are, by the slot of a node that serves, the slots of the peers it notes a gap for.
	noted []set
	gaps  bool
	// unproven is set where nobody may note what a clean owner lacks: then none serves alone.
	unproven bool
}

// Serves tells whether the node serves a series with the given owners, in the order of the
// copies: it is the first clean one, or, where none is clean, one of the first that make a
// read quorum, or one of all that are left if they are fewer.
func (s *Share) Serves(owners []int) bool {
	for _, o := range owners {
		if !s.unproven && s.serving.has(o) && s.clean(o, owners) {
			return o == s.slot
		}
	}
	left := s.quorum
	for _, o := range owners {
		if left == 0 {
			return false
		}
		if s.serving.has(o) {
			if o == s.slot {
				return true
			}
			left--
		}
	}
	return false
}

// ServesBy is Serves where the first owner decides alone. It is not certain if it does not.
func (s *Share) ServesBy(first int) (serves, certain bool) {
	if s.gaps || s.unproven || !s.serving.has(first) {
		return false, false
	}
	return first == s.slot, true
}

// clean tells whether no owner that serves notes a gap for this one.
func (s *Share) clean(slot int, owners []int) bool {
	if !s.gaps {
		return true
	}
	for _, o := range owners {
		if s.serving.has(o) && s.noted[o].has(slot) {
			return false
		}
	}
	return true
}

// set is a set of slots.
type set []uint

func newSet(n int) set { return make(set, (n+bits.UintSize-1)/bits.UintSize) }

// add ignores slots beyond the set: nobody serves there.
func (s set) add(i int) {
	if 0 <= i && i < len(s)*bits.UintSize {
		s[i/bits.UintSize] |= 1 << (i % bits.UintSize)
	}
}

func (s set) has(i int) bool {
	return i >= 0 && i < len(s)*bits.UintSize && s[i/bits.UintSize]&(1<<(i%bits.UintSize)) != 0
}
