package proof

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

func testAssignment(nodes, rf int) *table.Assignment {
	t := &table.Assignment{ReplicationFactor: rf}
	for i := range nodes {
		t.Slots = append(t.Slots, table.Slot{Node: table.NodeID(fmt.Sprint(i))})
	}
	return t
}

// servers asks every node that serves, as they would ask themselves.
func servers(p *Proof, owners []int) []int {
	var out []int
	for _, n := range p.Nodes {
		if p.Share(n.Slot).Serves(owners) {
			out = append(out, n.Slot)
		}
	}
	return out
}

func TestServers(t *testing.T) {
	gap := func(peer string, since int64) Gap { return Gap{Peer: table.NodeID(peer), Since: since} }
	for _, tc := range []struct {
		name   string
		states []*State
		owners []int
		want   []int
	}{
		{"all well: the first copy", []*State{{}, {}, {}}, []int{1, 0, 2}, []int{1}},
		{"the first is missing", []*State{{}, nil, {}}, []int{1, 0, 2}, []int{0}},
		{"the first is noted", []*State{{Gaps: []Gap{gap("1", 50)}}, {}, {}}, []int{1, 0, 2}, []int{0}},
		{"noted for later times only", []*State{{Gaps: []Gap{gap("1", 101)}}, {}, {}}, []int{1, 0, 2}, []int{1}},
		{"noted for the last instant", []*State{{Gaps: []Gap{gap("1", 100)}}, {}, {}}, []int{1, 0, 2}, []int{0}},
		{"noted by a node that is no owner", []*State{{}, {}, {}, {Gaps: []Gap{gap("1", 0)}}}, []int{1, 0, 2}, []int{1}},
		{"two note each other, the third is clean", []*State{{Gaps: []Gap{gap("1", 0)}}, {Gaps: []Gap{gap("0", 0)}}, {}}, []int{1, 0, 2}, []int{2}},
		{"none is clean", []*State{{Gaps: []Gap{gap("1", 0)}}, {Gaps: []Gap{gap("0", 0), gap("2", 0)}}, {}}, []int{1, 0, 2}, []int{0, 1}},
		{"none of two is clean", []*State{nil, {Gaps: []Gap{gap("2", 0)}}, {Gaps: []Gap{gap("1", 0)}}}, []int{0, 1, 2}, []int{1, 2}},
		{"a gap for a node that is no member", []*State{{Gaps: []Gap{gap("9", 0)}}, {}, {}}, []int{0, 1, 2}, []int{0}},
	} {
		p := New(testAssignment(max(3, len(tc.states)), 3), tc.states, 100)
		if got := servers(p, tc.owners); !slices.Equal(got, tc.want) {
			t.Errorf("%s: served by %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestShareOfOthers(t *testing.T) {
	p := New(testAssignment(3, 3), []*State{{}, nil, {}}, 0)
	if p.Share(1) != nil || p.Share(7) != nil {
		t.Error("a node that does not serve has a share")
	}
}

// Whatever is noted by whom: if each sample lies on a write quorum, and everybody who holds
// one notes a gap for each owner that does not, those who serve hold all samples together,
// whichever nodes are missing, as long as they are fewer than a write quorum.
func TestServersHoldEverything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	alone, merged := 0, 0
	for range 200_000 {
		rf := 1 + rng.IntN(5)
		nodes := rf + rng.IntN(3)
		tb := testAssignment(nodes, rf)
		owners := rng.Perm(nodes)[:rf]
		states := make([]*State, nodes)
		for i := range states {
			states[i] = &State{}
		}
		samples := make([]map[int]bool, 1+rng.IntN(4)) // who holds it
		for i := range samples {
			samples[i] = map[int]bool{}
			for _, o := range rng.Perm(rf)[:tb.WriteQuorum()+rng.IntN(rf-tb.WriteQuorum()+1)] {
				samples[i][owners[o]] = true
			}
			for _, o := range owners {
				if samples[i][o] {
					continue
				}
				// At least a write quorum of the holders notes it.
				holders := 0
				for _, h := range owners {
					if samples[i][h] && holders < tb.WriteQuorum() {
						states[h].Gaps = append(states[h].Gaps, Gap{Peer: tb.Slots[o].Node, Since: int64(i)})
						holders++
					}
				}
			}
		}
		for _, missing := range rng.Perm(nodes)[:rng.IntN(tb.WriteQuorum())] {
			states[missing] = nil
		}
		until := int64(rng.IntN(len(samples)))
		serving := servers(New(tb, states, until), owners)
		if len(serving) == 1 {
			alone++
		} else {
			merged++
		}
		for i, held := range samples[:until+1] {
			if !slices.ContainsFunc(serving, func(n int) bool { return held[n] }) {
				t.Fatalf("sample %d is on %v of the owners %v; served by %v; states %+v", i, held, owners, serving, states)
			}
		}
	}
	if alone == 0 || merged == 0 {
		t.Errorf("%d were served alone, %d merged: nothing was tested", alone, merged)
	}
}

func TestOverlaps(t *testing.T) {
	s := &State{Damage: []Range{{10, 20}, {40, 50}}}
	for _, tc := range []struct {
		r    Range
		want bool
	}{
		{Range{0, 9}, false},
		{Range{0, 10}, true},
		{Range{20, 30}, true},
		{Range{21, 39}, false},
		{Range{0, 100}, true},
		{Range{51, 60}, false},
	} {
		if got := s.Damaged(tc.r); got != tc.want {
			t.Errorf("damaged in %v: %v, want %v", tc.r, got, tc.want)
		}
	}
}

func BenchmarkServes(b *testing.B) {
	states := make([]*State, 100)
	for i := range states {
		states[i] = &State{Gaps: []Gap{{Peer: "7"}}}
	}
	s := New(testAssignment(100, 3), states, 0).Share(3)
	b.ReportAllocs()
	for b.Loop() {
		s.Serves([]int{7, 3, 50})
	}
}
