// Package plan says what moves when the cluster goes from one assignment to another. It is
// pure, and an estimate: it places a sample of keys by both assignments and counts.
package plan

import (
	"math/rand/v2"
	"slices"

	"github.com/starling-tsdb/starling/internal/placement"
	"github.com/starling-tsdb/starling/internal/table"
)

// sampleSize is the number of keys that are placed. The standard error of a share s is at
// most sqrt(s*(1-s)/sampleSize), below 0.2 percentage points.
const sampleSize = 100_000

// Plan is what it takes to lead from one assignment to another. A share of before is one of
// all copies by the current assignment, every other share one of all copies by the target:
// multiply it with the number, or bytes, of series and with the copies of each.
type Plan struct {
	// CurrentCopies and TargetCopies are the copies of each series, before and after.
	CurrentCopies, TargetCopies int
	// Slots are the slots that change, in their order.
	Slots []SlotChange
	// Moves are the copies that are made, by the order of their nodes in Nodes.
	Moves []Move
	// Nodes are those with a slot in either assignment, first those in the current one, in
	// slot order.
	Nodes []NodeShare
	// Share is the share of copies that are made, the sum of all Moves.
	Share float64
	// Optimum is the least share that any placement would have to make which gives every
	// node the same number of copies as this one does.
	Optimum float64
	// CurrentCrowded and TargetCrowded are the parts of the series that have their copies in
	// fewer zones than they could, before and after.
	CurrentCrowded, TargetCrowded float64
}

// SlotChange is a slot with another occupant, zone or removal than before. A slot that an
// assignment does not have is a hole.
type SlotChange struct {
	// Slot is its number, from 0.
	Slot int
	// Before and After are its contents.
	Before, After table.Slot
}

// Move is what one node copies from another.
type Move struct {
	// From is the first current owner that is not removed, of those series that To owns by
	// the target and not yet; empty if all their current owners are removed.
	From table.NodeID
	// To is the node that comes to own the copies.
	To table.NodeID
	// Share is the share of copies.
	Share float64
}

// NodeShare is how much of the data a node owns.
type NodeShare struct {
	// Node is the node.
	Node table.NodeID
	// Before and After are its shares of copies by the current and by the target
	// assignment. Those of a removed node are what is placed on it, and missing.
	Before, After float64
}

// Ratio is how many times the optimum moves, 1 if nothing has to move.
func (p *Plan) Ratio() float64 {
	if p.Share == p.Optimum {
		return 1
	}
	return p.Share / p.Optimum
}

// Place returns the placement by an assignment. The slots of removed nodes count as
// occupied: what is placed on them is missing until others have it.
func Place(a *table.Assignment) *placement.Map {
	slots := make([]placement.Slot, len(a.Slots))
	for i, s := range a.Slots {
		slots[i] = placement.Slot{Occupied: s.Node != "", Zone: s.Zone}
	}
	return placement.NewMap(slots, a.ReplicationFactor)
}

// Between says what moves from the current to the target assignment. The same assignments
// give the same plan, always. It takes a good part of a second: callers keep what it returns
// as long as the assignments stand.
func Between(current, target *table.Assignment) *Plan {
	s := newSample(current, target)
	keys := rand.NewPCG(0, 0)
	for range sampleSize {
		s.add(keys.Uint64())
	}
	return s.plan()
}

// side is one of the two assignments as the sample sees it.
type side struct {
	assignment *table.Assignment
	placed     *placement.Map
	// node holds, by slot, the index of its node among all nodes, negative for a hole.
	node []int
	// owners are those of the key at hand.
	owners []int
	// copies counts, by node, the copies that are placed on it.
	copies []int
}

// live tells whether the occupant of a slot can hold copies.
func (s *side) live(slot int) bool { return !s.assignment.Slots[slot].Removed }

// held is the number of copies that a node really holds.
func (s *side) held(node int) int {
	if slot := slices.Index(s.node, node); slot < 0 || !s.live(slot) {
		return 0
	}
	return s.copies[node]
}

// sample counts what becomes of the copies of some keys.
type sample struct {
	nodes           []table.NodeID
	current, target side
	// moved counts, by source and destination, the copies that are made. The source after
	// all nodes stands for none.
	moved [][]int
}

func newSample(current, target *table.Assignment) *sample {
	s := &sample{}
	for _, a := range []*table.Assignment{current, target} {
		for _, slot := range a.Slots {
			if slot.Node != "" && !slices.Contains(s.nodes, slot.Node) {
				s.nodes = append(s.nodes, slot.Node)
			}
		}
	}
	newSide := func(a *table.Assignment) side {
		d := side{assignment: a, placed: Place(a), copies: make([]int, len(s.nodes))}
		for _, slot := range a.Slots {
			d.node = append(d.node, slices.Index(s.nodes, slot.Node))
		}
		return d
	}
	s.current, s.target = newSide(current), newSide(target)
	for range len(s.nodes) + 1 {
		s.moved = append(s.moved, make([]int, len(s.nodes)))
	}
	return s
}

// add counts the copies of one more key.
func (s *sample) add(key uint64) {
	for _, d := range []*side{&s.current, &s.target} {
		d.owners = d.placed.Owners(key, d.owners)
		for _, slot := range d.owners {
			d.copies[d.node[slot]]++
		}
	}
	source := len(s.nodes)
	if i := slices.IndexFunc(s.current.owners, s.current.live); i >= 0 {
		source = s.current.node[s.current.owners[i]]
	}
	for _, slot := range s.target.owners {
		if to := s.target.node[slot]; s.target.live(slot) && !s.holds(to) {
			s.moved[source][to]++
		}
	}
}

// holds tells whether the node holds a copy of the key at hand by the current assignment.
func (s *sample) holds(node int) bool {
	return slices.ContainsFunc(s.current.owners, func(slot int) bool {
		return s.current.node[slot] == node && s.current.live(slot)
	})
}

func (s *sample) plan() *Plan {
	p := &Plan{
		CurrentCopies: s.current.placed.Copies(),
		TargetCopies:  s.target.placed.Copies(),
		Slots:         slotChanges(s.current.assignment.Slots, s.target.assignment.Slots),

		CurrentCrowded: Crowded(s.current.assignment),
		TargetCrowded:  Crowded(s.target.assignment),
	}
	share := func(copies, each int) float64 { return float64(copies) / float64(max(1, each)*sampleSize) }
	moved, least := 0, 0
	for i, id := range s.nodes {
		p.Nodes = append(p.Nodes, NodeShare{
			Node:   id,
			Before: share(s.current.copies[i], p.CurrentCopies),
			After:  share(s.target.copies[i], p.TargetCopies),
		})
		least += max(0, s.target.held(i)-s.current.held(i))
	}
	for from, row := range s.moved {
		for to, n := range row {
			if n == 0 {
				continue
			}
			moved += n
			m := Move{To: s.nodes[to], Share: share(n, p.TargetCopies)}
			if from < len(s.nodes) {
				m.From = s.nodes[from]
			}
			p.Moves = append(p.Moves, m)
		}
	}
	p.Share, p.Optimum = share(moved, p.TargetCopies), share(least, p.TargetCopies)
	return p
}

func slotChanges(before, after []table.Slot) []SlotChange {
	at := func(slots []table.Slot, i int) table.Slot {
		if i < len(slots) {
			return slots[i]
		}
		return table.Slot{}
	}
	var changes []SlotChange
	for i := range max(len(before), len(after)) {
		if b, a := at(before, i), at(after, i); b != a {
			changes = append(changes, SlotChange{Slot: i, Before: b, After: a})
		}
	}
	return changes
}
