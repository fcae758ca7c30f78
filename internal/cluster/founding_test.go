package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

// nursery runs the founding state machines of several nodes over a network that may
// lose, delay, repeat and reorder messages, while nodes crash and start again with what
// they had synced.
type nursery struct {
	rng    *rand.Rand
	nodes  []*formation
	disk   []founding
	up     []bool
	links  [][]bool // who sees and reaches whom
	mail   []letter
	faults bool
}

type letter struct {
	from, to int
	vouch    *vouch
	answer   *verdict
}

func newNursery(seed uint64, nodes, expect int, faults bool) *nursery {
	n := &nursery{rng: rand.New(rand.NewPCG(seed, 1)), faults: faults}
	for i := range nodes {
		n.nodes = append(n.nodes, nil)
		n.disk = append(n.disk, founding{})
		n.up = append(n.up, false)
		n.links = append(n.links, make([]bool, nodes))
		n.start(i, expect)
	}
	return n
}

func nurseryID(i int) table.NodeID { return table.NodeID(fmt.Sprintf("n%02d", i)) }

func (n *nursery) start(i, expect int) {
	n.nodes[i] = &formation{self: nurseryID(i), expect: expect, newCluster: fmt.Sprintf("c%02d", i), founding: n.disk[i]}
	n.up[i] = true
}

func (n *nursery) view(i int) map[table.NodeID]sighting {
	seen := make(map[table.NodeID]sighting)
	for j, other := range n.nodes {
		if j != i && n.links[i][j] && n.links[j][i] {
			// What gossip says of a node is what it has synced.
			seen[nurseryID(j)] = sighting{Cluster: n.disk[j].Cluster, Expect: other.expect, Alive: n.up[j]}
		}
	}
	return seen
}

// sync writes a node's founding to its disk, unless it crashes just before.
func (n *nursery) sync(i int, changed bool) (alive bool) {
	if !changed {
		return true
	}
	if n.faults && n.rng.IntN(20) == 0 {
		n.up[i] = false
		return false
	}
	d := n.nodes[i].founding
	d.Dropped = maps.Clone(d.Dropped)
	n.disk[i] = d
	if n.faults && n.rng.IntN(20) == 0 {
		n.up[i] = false
		return false
	}
	return true
}

func (n *nursery) tick(i int) {
	if !n.up[i] {
		return
	}
	out, changed := n.nodes[i].look(n.view(i))
	if n.sync(i, changed) && out.to != "" {
		var to int
		_, _ = fmt.Sscanf(string(out.to), "n%d", &to)
		v := out.vouch
		n.mail = append(n.mail, letter{from: i, to: to, vouch: &v})
	}
}

func (n *nursery) deliver() {
	if len(n.mail) == 0 {
		return
	}
	k := n.rng.IntN(len(n.mail))
	l := n.mail[k]
	again := n.faults && n.rng.IntN(10) == 0
	if !again {
		n.mail = append(n.mail[:k], n.mail[k+1:]...)
	}
	if n.faults && n.rng.IntN(5) == 0 || !n.up[l.to] || !n.links[l.from][l.to] {
		return
	}
	if l.vouch != nil {
		a, changed := n.nodes[l.to].receive(nurseryID(l.from), *l.vouch)
		if n.sync(l.to, changed) {
			n.mail = append(n.mail, letter{from: l.to, to: l.from, answer: &a})
		}
		return
	}
	n.sync(l.to, n.nodes[l.to].heed(nurseryID(l.from), *l.answer))
}

func (n *nursery) step(expect int) {
	i, k := n.rng.IntN(len(n.nodes)), n.rng.IntN(20)
	switch {
	case k < 8:
		n.tick(i)
	case k < 16:
		n.deliver()
	case k < 18 || !n.faults: // the view grows, as gossip spreads
		j := n.rng.IntN(len(n.nodes))
		n.links[i][j], n.links[j][i] = true, true
	case k == 18: // and shrinks
		j := n.rng.IntN(len(n.nodes))
		n.links[i][j] = false
	case !n.up[i]:
		n.start(i, expect)
	default:
		n.up[i] = n.rng.IntN(3) > 0
	}
}

func (n *nursery) clusters() map[string][]table.NodeID {
	m := make(map[string][]table.NodeID)
	for i, d := range n.disk {
		if d.Cluster != "" {
			m[d.Cluster] = append(m[d.Cluster], nurseryID(i))
		}
	}
	return m
}

// calm ends all faults and lets everybody talk until nothing more happens.
func (n *nursery) calm(expect int) {
	n.faults = false
	for i := range n.nodes {
		if !n.up[i] {
			n.start(i, expect)
		}
		for j := range n.nodes {
			n.links[i][j] = true
		}
	}
	for range 40 {
		for i := range n.nodes {
			n.tick(i)
		}
		for len(n.mail) > 0 {
			n.deliver()
		}
	}
}

func TestFoundingNeverTwoClusters(t *testing.T) {
	founded, seeds := 0, uint64(20000)
	if testing.Short() {
		seeds /= 20
	}
	for seed := range seeds {
		expect := 1 + int(seed%4)
		nodes := expect + int(seed/4)%expect // from expect to 2*expect-1
		n := newNursery(seed, nodes, expect, true)
		for range 400 {
			n.step(expect)
			if c := n.clusters(); len(c) > 1 {
				t.Fatalf("seed %d: %d nodes expecting %d formed %v", seed, nodes, expect, c)
			}
		}
		if len(n.clusters()) == 1 {
			founded++
		}
		// Whatever happened, once the faults end everybody is in one cluster.
		n.calm(expect)
		c := n.clusters()
		if len(c) != 1 {
			t.Fatalf("seed %d: %d nodes expecting %d formed %v", seed, nodes, expect, c)
		}
		for id, members := range c {
			if len(members) != nodes {
				t.Fatalf("seed %d: only %v of %d nodes are in %s", seed, members, nodes, id)
			}
		}
	}
	if founded < int(seeds/20) {
		t.Errorf("only %d schedules founded a cluster amid faults: the test shows little", founded)
	}
}

func TestFoundingWithoutFaultsIsOne(t *testing.T) {
	for seed := range uint64(5000) {
		expect := 1 + int(seed%5)
		nodes := expect + int(seed/5)%expect
		n := newNursery(seed, nodes, expect, false)
		for range 200 {
			n.step(expect)
		}
		n.calm(expect)
		c := n.clusters()
		if len(c) != 1 {
			t.Fatalf("seed %d: %d nodes expecting %d formed %v", seed, nodes, expect, c)
		}
		for _, members := range c {
			if len(members) != nodes {
				t.Fatalf("seed %d: only %v of %d nodes joined", seed, members, nodes)
			}
		}
	}
}

func TestFoundersAreVoters(t *testing.T) {
	f := &formation{self: "b", zone: "z", expect: 3, newCluster: "c1"}
	f.look(map[table.NodeID]sighting{"c": {Expect: 3, Alive: true}, "d": {Expect: 3, Alive: true}})
	if f.VouchFor != "b" {
		t.Fatalf("vouches for %q, want itself, the smallest in view", f.VouchFor)
	}
	if a, _ := f.receive("d", vouch{Seq: 1, Expect: 2}); a.Expect != 3 || a.Cluster != "" {
		t.Errorf("a vouch for a cluster of another size: %+v, want it refused", a)
	}
	f.receive("d", vouch{Seq: 1, Expect: 3, Zone: "y"})
	a, changed := f.receive("c", vouch{Seq: 1, Expect: 3, Zone: "x"})
	if a.Cluster != "c1" || !changed {
		t.Fatalf("third vouch: %+v, changed %v", a, changed)
	}
	want := []founder{{"b", "z"}, {"c", "x"}, {"d", "y"}}
	if fmt.Sprint(f.Founders) != fmt.Sprint(want) {
		t.Errorf("founders %v, want %v", f.Founders, want)
	}
}

func TestFoundingWaitsForItsCandidate(t *testing.T) {
	f := &formation{self: "d", expect: 3, newCluster: "c1"}
	f.look(map[table.NodeID]sighting{"a": {Expect: 3, Alive: true}, "b": {Expect: 3, Alive: true}})
	// A cluster appears, founded by others, while a is out of sight.
	out, changed := f.look(map[table.NodeID]sighting{"b": {Cluster: "x", Alive: true}})
	if changed || out.to != "a" || !out.Withdraw {
		t.Fatalf("a cluster in view: %+v, changed %v; want a withdrawal from a first", out, changed)
	}
	if f.heed("a", verdict{Seq: f.Seq - 1, Dropped: true}) {
		t.Error("heeded an answer to another vouch")
	}
	if !f.heed("a", verdict{Seq: f.Seq, Dropped: true}) {
		t.Fatal("a dropped the vouch, and nothing changed")
	}
	if _, changed := f.look(map[table.NodeID]sighting{"b": {Cluster: "x", Alive: true}}); !changed || f.Cluster != "x" {
		t.Errorf("cluster %q, want x", f.Cluster)
	}
}
