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
func servers(p *Proof, a *table.Assignment, owners []int) []int {
	var out []int
	for _, n := range p.Nodes {
		share := p.Share(a, n.Slot)
		serves := share.Serves(owners)
		if by, certain := share.ServesBy(owners[0]); certain && by != serves {
			panic(fmt.Sprintf("the first of %v decides that %d serves: %t", owners, n.Slot, by))
		}
		if serves {
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
		a := testAssignment(max(3, len(tc.states)), 3)
		if got := servers(New(a, tc.states, 100), a, tc.owners); !slices.Equal(got, tc.want) {
			t.Errorf("%s: served by %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestShareOfOthers(t *testing.T) {
	a := testAssignment(3, 3)
	if p := New(a, []*State{{}, nil, {}}, 0); p.Share(a, 1) != nil || p.Share(a, 7) != nil {
		t.Error("a node that does not serve has a share")
	}
}

// scatter puts samples of a series with up to so many copies on write quorums of its owners, or
// on more of them, and has a write quorum of the holders note a gap for each owner that lacks one.
// It returns who owns the series, what all nodes say, and who holds each sample.
func scatter(rng *rand.Rand, most int) (tb *table.Assignment, owners []int, states []*State, samples []map[int]bool) {
	rf := 1 + rng.IntN(most)
	nodes := rf + rng.IntN(3)
	tb = testAssignment(nodes, rf)
	owners = rng.Perm(nodes)[:rf]
	states = make([]*State, nodes)
	for i := range states {
		states[i] = &State{}
	}
	samples = make([]map[int]bool, 1+rng.IntN(4))
	for i := range samples {
		samples[i] = map[int]bool{}
		for _, o := range rng.Perm(len(owners))[:tb.WriteQuorum()+rng.IntN(len(owners)-tb.WriteQuorum()+1)] {
			samples[i][owners[o]] = true
		}
		for _, o := range owners {
			if samples[i][o] {
				continue
			}
			notes := 0
			for _, k := range rng.Perm(len(owners)) {
				if h := owners[k]; samples[i][h] && notes < tb.WriteQuorum() {
					states[h].Gaps = append(states[h].Gaps, Gap{Peer: tb.Slots[o].Node, Since: int64(i)})
					notes++
				}
			}
		}
	}
	return tb, owners, states, samples
}

// However many are given up: of what was acknowledged, those who serve hold all that anybody holds
// who is left, if all of them answer.
func TestServersHoldAllThatIsLeft(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	alone, merged, lost := 0, 0, 0
	for range 200_000 {
		tb, owners, states, samples := scatter(rng, 6)
		for _, gone := range rng.Perm(len(states))[:rng.IntN(len(states))] {
			tb.Slots[gone].Removed, states[gone] = true, nil
		}
		if tb.Removed() < tb.WriteQuorum() {
			continue // within what the quorums can spare
		}
		serving := servers(New(tb, states, int64(len(samples))), tb, owners)
		switch len(serving) {
		case 0:
			lost++
		case 1:
			alone++
		default:
			merged++
		}
		for i, held := range samples {
			left := slices.ContainsFunc(owners, func(o int) bool { return held[o] && !tb.Slots[o].Removed })
			if left && !slices.ContainsFunc(serving, func(n int) bool { return held[n] }) {
				t.Fatalf("sample %d is on %v of the owners %v; served by %v; slots %+v, states %+v", i, held, owners, serving, tb.Slots, states)
			}
		}
	}
	if alone == 0 || merged == 0 || lost == 0 {
		t.Errorf("%d were served alone, %d merged, %d by nobody: too little was tested", alone, merged, lost)
	}
}

// Whatever is noted by whom: if each sample lies on a write quorum, and everybody who holds
// one notes a gap for each owner that does not, those who serve hold all samples together,
// whichever nodes are missing, as long as fewer owners than a write quorum are.
func TestServersHoldEverything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	alone, merged := 0, 0
	for range 200_000 {
		tb, owners, states, samples := scatter(rng, 5)
		spare := rng.IntN(tb.WriteQuorum())
		for _, missing := range rng.Perm(len(states)) {
			switch {
			case !slices.Contains(owners, missing) && rng.IntN(2) == 0:
				states[missing] = nil
			case spare > 0:
				states[missing] = nil
				spare--
			}
		}
		until := int64(rng.IntN(len(samples)))
		serving := servers(New(tb, states, until), tb, owners)
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

// Whatever is missing and noted: a node that may serve all series alone owns them all, and holds
// all that was acknowledged of them.
func TestOnly(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	only, none := 0, 0
	for range 200_000 {
		tb, owners, states, samples := scatter(rng, 5)
		missing := rng.Perm(len(states))[:rng.IntN(tb.WriteQuorum())]
		for _, m := range missing {
			states[m] = nil
		}
		until := int64(rng.IntN(len(samples)))
		p := New(tb, states, until)
		for slot := range states {
			o := p.Only(tb, slot)
			if o == nil {
				none++
				continue
			}
			only++
			if got := servers(o, tb, owners); !slices.Equal(got, []int{slot}) {
				t.Fatalf("%v serve alone instead of %d, of the owners %v", got, slot, owners)
			}
			for i, held := range samples[:until+1] {
				if !held[slot] {
					t.Fatalf("sample %d is on %v of the owners %v, and %d serves alone; states %+v", i, held, owners, slot, states)
				}
			}
		}
	}
	if only < 10_000 || none < 10_000 {
		t.Errorf("%d may serve alone, %d may not: too little was tested", only, none)
	}

	a := testAssignment(4, 3)
	if New(a, []*State{{}, {}, {}, {}}, 0).Only(a, 0) != nil {
		t.Error("one of four serves series that it does not own")
	}
	a = testAssignment(3, 3)
	if New(a, []*State{nil, {}, {}}, 0).Only(a, 0) != nil {
		t.Error("a node serves that did not answer")
	}
}

// Where each series is said to be served by one node, it is, whoever owns it.
func TestAlone(t *testing.T) {
	var alone int
	for seed := range uint64(20_000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		rf := 1 + rng.IntN(5)
		a := testAssignment(rf+rng.IntN(3), rf)
		states := make([]*State, len(a.Slots))
		for i := range states {
			if rng.IntN(5) == 0 {
				continue
			}
			states[i] = &State{}
			for range rng.IntN(3) / 2 {
				states[i].Gaps = append(states[i].Gaps, Gap{Peer: table.NodeID(fmt.Sprint(rng.IntN(len(a.Slots)))), Since: rng.Int64N(3)})
			}
		}
		p := New(a, states, 1)
		if !p.Alone(a) {
			continue
		}
		alone++
		for range 20 {
			owners := rng.Perm(len(a.Slots))[:rf]
			if got := servers(p, a, owners); len(got) != 1 {
				t.Fatalf("seed %d: owners %v are served by %v, states %+v", seed, owners, got, states)
			}
		}
	}
	if alone < 1000 {
		t.Errorf("%d cases only", alone)
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
		{Range{0, 100}.From(51), false},
		{Range{0, 45}.From(50), false},
		{Range{0, 45}.From(30), true},
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
	a := testAssignment(100, 3)
	s := New(a, states, 0).Share(a, 3)
	b.ReportAllocs()
	for b.Loop() {
		s.Serves([]int{7, 3, 50})
	}
}
