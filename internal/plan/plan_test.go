package plan

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

// exact is more than the rounding of sums of shares, sampled more than the error of one share.
const (
	exact   = 1e-9
	sampled = 0.005
)

// assignment returns an assignment whose slots are named by words: "-" for a hole, a capital
// letter for a node that is removed, and a node's zone after a slash.
func assignment(rf int, slots string) *table.Assignment {
	a := &table.Assignment{ReplicationFactor: rf}
	for word := range strings.FieldsSeq(slots) {
		node, zone, _ := strings.Cut(word, "/")
		slot := table.Slot{Node: table.NodeID(strings.ToLower(node)), Zone: zone, Removed: node != strings.ToLower(node)}
		if node == "-" {
			slot = table.Slot{}
		}
		a.Slots = append(a.Slots, slot)
	}
	return a
}

func near(a, b, within float64) bool { return math.Abs(a-b) <= within }

// gains are the shares by destination, sources by source.
func gains(p *Plan) (to, from map[table.NodeID]float64) {
	to, from = map[table.NodeID]float64{}, map[table.NodeID]float64{}
	for _, m := range p.Moves {
		to[m.To] += m.Share
		from[m.From] += m.Share
	}
	return to, from
}

func TestBetween(t *testing.T) {
	tests := []struct {
		name            string
		current, target *table.Assignment
		share           float64 // of all copies that are made
		// maxRatio bounds what moves, as a multiple of the optimum. It is 1 where nothing else
		// may move.
		maxRatio float64
		to, from string // the nodes that gain, and those that they copy from
	}{
		{"nothing", assignment(3, "a b c"), assignment(3, "a b c"), 0, 1, "", ""},
		{"three to four", assignment(3, "a b c"), assignment(3, "a b c d"), 1. / 4, 1, "d", "a b c"},
		{"four to three", assignment(3, "a b c d"), assignment(3, "a - c d"), 1. / 4, 1, "a c d", "a b c d"},
		{"the hole is filled", assignment(3, "a - c d"), assignment(3, "a x c d"), 1. / 4, 1, "x", "a c d"},
		{"five to six", assignment(3, "a b c d e"), assignment(3, "a b c d e f"), 1. / 6, 1.1, "", ""},
		{"one to three", assignment(3, "a"), assignment(3, "a b c"), 2. / 3, 1, "b c", "a"},
		{"a node is replaced", assignment(3, "a b c d e"), assignment(3, "a x c d e"), 1. / 5, 1, "x", "a b c d e"},
		{"a lost node is replaced", assignment(3, "a B c d e"), assignment(3, "a x c d e"), 1. / 5, 1, "x", "a c d e"},
		{"a node is lost", assignment(3, "a B c d"), assignment(3, "a - c d"), 1. / 4, 1, "a c d", "a c d"},
		{"a lost node, and too few to take its place", assignment(3, "a B c"), assignment(3, "a - c"), 0, 1, "", ""},
		{"a lost node comes back", assignment(3, "a B c"), assignment(3, "a b c"), 1. / 3, 1, "b", "a c"},
		{"a new owner is lost meanwhile", assignment(3, "a b c"), assignment(3, "a b c D"), 0, 1, "", ""},
		{"all is lost", assignment(1, "A -"), assignment(1, "- b"), 1, 1, "b", ""},
		{"fewer copies", assignment(3, "a b c d"), assignment(2, "a b c d"), 0, 1, "", ""},
		{"more copies", assignment(2, "a b c d"), assignment(3, "a b c d"), 1. / 3, 1, "a b c d", "a b c d"},
		{"more copies than nodes", assignment(3, "a b c"), assignment(5, "a b c"), 0, 1, "", ""},
		{"a joiner in three zones", assignment(3, "a/x b/y c/z d/x e/y f/z"), assignment(3, "a/x b/y c/z d/x e/y f/z g/x"), 1. / 9, 1.1, "", ""},
		{"a leaver in three zones", assignment(3, "a/x b/y c/z d/x e/y f/z"), assignment(3, "a/x - c/z d/x e/y f/z"), 1. / 6, 1.1, "", ""},
		{"replaced within its zone", assignment(3, "a/x b/y c/z d/x"), assignment(3, "a/x e/y c/z d/x"), 1. / 3, 1, "e", "a b c d"},
		// Of two copies in the first zone one goes to the second.
		{"the second zone", assignment(2, "a/x b/x"), assignment(2, "a/x b/x c/y"), 1. / 2, 1, "c", "a b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Between(tt.current, tt.target)
			t.Logf("%.4f moves, %.4f at best, ratio %.4f", p.Share, p.Optimum, p.Ratio())
			if !near(p.Share, tt.share, sampled+tt.share*(tt.maxRatio-1)) {
				t.Errorf("%.4f of all copies is made, want %.4f", p.Share, tt.share)
			}
			if r := p.Ratio(); r < 1 || r > tt.maxRatio {
				t.Errorf("%.4f times the optimum, want at most %.2f", r, tt.maxRatio)
			}
			check(t, p, tt.current, tt.target)
			to, from := gains(p)
			if tt.to == "" && tt.share > 0 {
				return
			}
			if got := names(to); got != tt.to {
				t.Errorf("copies are made on %q, want %q", got, tt.to)
			}
			if got := names(from); got != tt.from {
				t.Errorf("copies are made from %q, want %q", got, tt.from)
			}
		})
	}
}

func names(of map[table.NodeID]float64) string {
	var ids []string
	for id := range of {
		ids = append(ids, string(id))
	}
	slices.Sort(ids)
	return strings.TrimSpace(strings.Join(ids, " "))
}

// check tells which promise about every plan this one breaks.
func check(t *testing.T, p *Plan, current, target *table.Assignment) {
	t.Helper()
	if p.CurrentCopies != current.Copies() || p.TargetCopies != target.Copies() {
		t.Errorf("copies %d and %d, want %d and %d", p.CurrentCopies, p.TargetCopies, current.Copies(), target.Copies())
	}
	if p.Share < p.Optimum {
		t.Errorf("share %.6f is below the optimum of %.6f", p.Share, p.Optimum)
	}
	var before, after, moves float64
	to, _ := gains(p)
	for _, n := range p.Nodes {
		before, after = before+n.Before, after+n.After
		if to[n.Node] > n.After+exact {
			t.Errorf("node %s gains %.6f, and then holds %.6f", n.Node, to[n.Node], n.After)
		}
		if i := slices.IndexFunc(current.Slots, func(s table.Slot) bool { return s.Node == n.Node }); (i >= 0) != (n.Before > 0) {
			t.Errorf("node %s has slot %d and share %.4f before", n.Node, i, n.Before)
		}
		if i := slices.IndexFunc(target.Slots, func(s table.Slot) bool { return s.Node == n.Node }); (i >= 0) != (n.After > 0) {
			t.Errorf("node %s has slot %d and share %.4f after", n.Node, i, n.After)
		}
	}
	if !near(before, 1, exact) || !near(after, 1, exact) {
		t.Errorf("the nodes' shares add up to %.6f before and %.6f after", before, after)
	}
	for _, m := range p.Moves {
		moves += m.Share
		_, lives := current.SlotOf(m.From)
		if _, takes := target.SlotOf(m.To); m.Share <= 0 || m.From == m.To || !takes || !lives && m.From != "" {
			t.Errorf("move %+v", m)
		}
	}
	if !near(moves, p.Share, exact) {
		t.Errorf("the moves add up to %.6f, want %.6f", moves, p.Share)
	}
}

// A replacement changes nothing for anybody else.
func TestReplacementTakesOver(t *testing.T) {
	p := Between(assignment(3, "a b c d e"), assignment(3, "a x c d e"))
	shares := map[table.NodeID]NodeShare{}
	for _, n := range p.Nodes {
		shares[n.Node] = n
	}
	if shares["x"].After != shares["b"].Before || shares["x"].After != p.Share || shares["b"].After != 0 {
		t.Errorf("%.4f moves from %+v to %+v", p.Share, shares["b"], shares["x"])
	}
	for _, id := range []table.NodeID{"a", "c", "d", "e"} {
		if n := shares[id]; n.Before != n.After || !near(n.Before, 0.2, sampled) {
			t.Errorf("node %+v", n)
		}
	}
	want := []SlotChange{{Slot: 1, Before: table.Slot{Node: "b"}, After: table.Slot{Node: "x"}}}
	if !slices.Equal(p.Slots, want) {
		t.Errorf("slots %+v, want %+v", p.Slots, want)
	}
}

func TestSlotChanges(t *testing.T) {
	p := Between(assignment(2, "a/x B c/x d/x"), assignment(2, "a/x - c/y d/x - e"))
	want := []SlotChange{
		{1, table.Slot{Node: "b", Removed: true}, table.Slot{}},
		{2, table.Slot{Node: "c", Zone: "x"}, table.Slot{Node: "c", Zone: "y"}},
		{5, table.Slot{}, table.Slot{Node: "e"}},
	}
	if !slices.Equal(p.Slots, want) {
		t.Errorf("slots %+v, want %+v", p.Slots, want)
	}
	// The order of the nodes is that of the slots, the current ones first.
	var nodes []table.NodeID
	for _, n := range p.Nodes {
		nodes = append(nodes, n.Node)
	}
	if want := []table.NodeID{"a", "b", "c", "d", "e"}; !slices.Equal(nodes, want) {
		t.Errorf("nodes %v, want %v", nodes, want)
	}
}

func TestDeterministic(t *testing.T) {
	current, target := assignment(3, "a b c d/x"), assignment(3, "a - c d/x e")
	if one, two := Between(current, target), Between(current, target); !reflect.DeepEqual(one, two) {
		t.Errorf("%+v, then %+v", one, two)
	}
}

// Whatever changes at once, the plan adds up, and the source of a copy never lacks it.
func TestRandomPlans(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	random := func(removed bool) *table.Assignment {
		a := &table.Assignment{ReplicationFactor: 1 + rng.IntN(4)}
		nodes := rng.Perm(8)
		a.Slots = append(a.Slots, table.Slot{Node: table.NodeID(rune('a' + nodes[0]))})
		for _, n := range nodes[1 : 1+rng.IntN(6)] {
			s := table.Slot{Node: table.NodeID(rune('a' + n)), Removed: removed && rng.IntN(4) == 0}
			if rng.IntN(5) == 0 {
				s = table.Slot{}
			} else if rng.IntN(2) == 0 {
				s.Zone = "east"
			}
			a.Slots = append(a.Slots, s)
		}
		return a
	}
	for range 15 {
		current, target := random(true), random(false)
		p := Between(current, target)
		check(t, p, current, target)
		for _, m := range p.Moves {
			if m.From == "" && current.Removed() < current.Copies() {
				t.Errorf("%+v to %+v: node %s has nobody to copy from", current, target, m.To)
			}
		}
		if t.Failed() {
			t.Fatalf("%+v to %+v: %+v", current, target, p)
		}
	}
}

// The slots of removed nodes are placed on, and holes are not.
func TestPlace(t *testing.T) {
	m := Place(assignment(3, "a B - c"))
	if m.Copies() != 3 {
		t.Fatalf("%d copies, want 3", m.Copies())
	}
	owners := m.Owners(1, nil)
	slices.Sort(owners)
	if !slices.Equal(owners, []int{0, 1, 3}) {
		t.Errorf("owners %v, want all slots but the hole", owners)
	}
	zoned := Place(assignment(2, "a/x b/x c/y"))
	for key := range uint64(100) {
		if owners := zoned.Owners(key, nil); !slices.Contains(owners, 2) {
			t.Errorf("key %d: owners %v, both in one zone", key, owners)
		}
	}
}

func BenchmarkBetween(b *testing.B) {
	for _, bb := range []struct{ name, current, target string }{
		{"one zone", "a b c d e f g h i j k l m n o p q r s t", "a b c d e f g h i j k l m n o p q r s t u"},
		{"three zones", "a/1 b/2 c/3 d/1 e/2 f/3 g/1 h/2 i/3 j/1 k/2 l/3", "a/1 b/2 c/3 d/1 e/2 f/3 g/1 h/2 i/3 j/1 k/2 l/3 m/1"},
	} {
		current, target := assignment(3, bb.current), assignment(3, bb.target)
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				Between(current, target)
			}
		})
	}
}
