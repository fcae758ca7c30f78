package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/table"

	"github.com/prometheus/prometheus/model/labels"
)

// settled waits until all nodes hold the same table, of so many owners and without a
// transition.
func (f *flock) settled(owners int) {
	f.Helper()
	f.eventually(time.Minute, fmt.Sprintf("%d owners", owners), func() error {
		epoch := uint64(0)
		for _, m := range f.nodes {
			p := m.placed.Load()
			if p == nil {
				return fmt.Errorf("%s has no table", m.name)
			}
			tab := p.table
			if tab.Transition != nil || len(tab.Waiting) > 0 || tab.Current.Owners() != owners || epoch != 0 && tab.Epoch != epoch {
				return fmt.Errorf("%s holds %+v, transition %+v", m.name, tab, tab.Transition)
			}
			epoch = tab.Epoch
		}
		return nil
	})
}

// someone returns any node that serves.
func (f *flock) someone() *member {
	f.Helper()
	for _, m := range f.nodes {
		if m.serving() == nil {
			return m
		}
	}
	f.Fatal("no node serves")
	return nil
}

// propose has the cluster agree on a change.
func (m *member) propose(c table.Command) {
	m.flock.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.cluster.Propose(ctx, c); err != nil {
		m.flock.Fatal(err)
	}
}

// lacks returns the samples that a node owns and does not hold.
func (m *member) lacks(samples map[string]string) []string {
	held := m.holds()
	var lacks []string
	owner := m.placed.Load().reading.owner(m.cluster.Self())
	for sample, metric := range samples {
		key := keyOf(labels.FromStrings(labels.MetricName, metric, "i", "0"))
		if owner.owns(key) && !held[sample] {
			lacks = append(lacks, sample)
		}
	}
	slices.Sort(lacks)
	return lacks
}

// TestGrowAndShrink grows a cluster from one node to five, and has nodes leave until three
// others are left, while it takes writes: each copy is where the table says, at any time.
func TestGrowAndShrink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		samples := map[string]string{}
		first := f.start("n0", ip(1), nil)
		f.ready(first)
		written := 0
		write := func() {
			<-time.After(time.Second)
			for i := range 20 {
				metric, at := fmt.Sprintf("m%d", i), time.Now().Add(-time.Duration(i)*time.Minute)
				written++
				if code := f.someone().writeAt(metric, at, float64(written)); code != http.StatusNoContent {
					t.Fatalf("write: %d", code)
				}
				samples[held1(metric, "0", at.UnixMilli(), float64(written))] = metric
			}
		}
		check := func() {
			t.Helper()
			for _, m := range f.nodes {
				if lacks := m.lacks(samples); len(lacks) > 0 {
					t.Errorf("%s lacks %d of the samples that it owns, as %s", m.name, len(lacks), lacks[0])
				}
				metric := fmt.Sprintf("m%d", written/20%20)
				if got := m.query(fmt.Sprintf("count_over_time(%s[3h])", metric)); got.values["0"] != fmt.Sprint(written/20) {
					t.Errorf("%s answers %+v for %s, written %d times", m.name, got, metric, written/20)
				}
			}
		}
		write()
		for i := 1; i < 5; i++ {
			f.start(fmt.Sprintf("n%d", i), ip(i+1), func(c *config.Cluster) { c.Join = seeds(1) })
			write()
			f.settled(i + 1)
			write()
			f.caughtUp(time.Minute)
			check()
		}
		for _, m := range f.nodes {
			equal, all := m.metric(t, "starling_transition_windows_total", "equal"), m.metric(t, "starling_transition_windows_total")
			if m != first && equal < all/2 || m.metric(t, "starling_transition_windows_total", "unread") > 0 {
				t.Errorf("of %v windows that %s copied, %v are equal to those of the owners", all, m.name, equal)
			}
		}
		for _, name := range []string{"n0", "n3"} {
			leaving := f.nodes[name]
			f.nodes["n1"].propose(table.Command{Kind: table.Leave, Nodes: []table.NodeID{leaving.cluster.Self()}})
			write()
			f.eventually(time.Minute, "the node that left knows", func() error {
				if leaving.placed.Load().table.Member(leaving.cluster.Self()) {
					return fmt.Errorf("%+v", leaving.placed.Load().table)
				}
				return nil
			})
			if code := leaving.write("m0", 1); code != http.StatusServiceUnavailable {
				t.Errorf("a node that has left answers a write with %d", code)
			}
			leaving.halt()
			f.settled(len(f.nodes))
			write()
			f.caughtUp(time.Minute)
			check()
		}
	})
}

// TestLostNodeIsReplaced: a node dies for good and another one takes its place.
func TestLostNodeIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c", "d")
		samples := map[string]string{}
		write := func(n int) {
			<-time.After(time.Second)
			for i := range n {
				metric, at := fmt.Sprintf("m%d", i), time.Now()
				if code := m[0].writeAt(metric, at, float64(i)); code != http.StatusNoContent {
					t.Fatalf("write: %d", code)
				}
				samples[held1(metric, "0", at.UnixMilli(), float64(i))] = metric
			}
		}
		write(30)
		lost := m[1].cluster.Self()
		place, _ := m[0].placed.Load().table.SlotOf(lost)
		m[1].crash()
		write(30)
		spare := f.start("e", ip(5), func(c *config.Cluster) { c.Join = seeds(1) })
		f.eventually(time.Minute, "the new node is a member", func() error {
			if tab := m[0].placed.Load().table; !tab.Member(spare.cluster.Self()) {
				return fmt.Errorf("%+v", tab)
			}
			return nil
		})
		write(30)
		m[0].propose(table.Command{Kind: table.Replace, Nodes: []table.NodeID{lost, spare.cluster.Self()}, Lost: true})
		write(30)
		f.settled(4)
		if slot, ok := m[0].placed.Load().table.SlotOf(spare.cluster.Self()); !ok || slot != place {
			t.Errorf("the new node has slot %d, %t; the old one had %d", slot, ok, place)
		}
		f.caughtUp(time.Minute)
		for _, n := range f.nodes {
			if lacks := n.lacks(samples); len(lacks) > 0 {
				t.Errorf("%s lacks %d of the samples that it owns, as %s", n.name, len(lacks), lacks[0])
			}
		}
		// Nobody needs the old node any more.
		m[2].crash()
		if got := spare.query(`count(last_over_time({__name__=~"m.*"}[1h]))`); got.values[""] != "30" {
			t.Errorf("with another node down: %+v", got)
		}
	})
}

// TestAcknowledgedIsAnsweredWhileDataMoves is TestAcknowledgedIsAnswered with nodes that join,
// leave, are given up and replaced, and come back in other zones meanwhile.
func TestAcknowledgedIsAnsweredWhileDataMoves(t *testing.T) {
	for seed := range faultSeeds(t, 5) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runMovingHistory(t, uint64(seed)) })
		})
	}
}

func runMovingHistory(t *testing.T, seed uint64) {
	h := newHistory(t, seed)
	changes := 0
	for range 200 {
		if h.rng.IntN(12) == 0 {
			changes += h.change()
		} else {
			h.step()
		}
		<-time.After(time.Duration(h.rng.IntN(500)) * time.Millisecond)
	}
	h.net.Heal()
	h.startAll()
	var members []*member
	h.eventually(10*time.Minute, "the transitions end", func() error {
		members = nil
		epoch := uint64(0)
		for _, m := range h.nodes {
			tab := m.placed.Load()
			switch {
			case tab == nil:
				return fmt.Errorf("%s has no table", m.name)
			case !tab.table.Member(m.cluster.Self()):
				continue
			case tab.table.Transition != nil || len(tab.table.Waiting) > 0 || epoch != 0 && tab.table.Epoch != epoch:
				return fmt.Errorf("%s holds %+v, transition %+v", m.name, tab.table, tab.table.Transition)
			}
			epoch = tab.table.Epoch
			members = append(members, m)
		}
		return nil
	})
	for _, m := range members {
		h.eventually(time.Minute, m.name+" answers again", func() error { return h.check(m, true) })
	}
	h.caughtUp(2 * time.Minute)
	h.wantAll()
	epoch := members[0].placed.Load().table.Epoch
	t.Logf("%d changes, epoch %d, %d members; %d writes acknowledged, %d refused; %d queries answered, %d refused",
		changes, epoch, len(members), h.writes, h.refusedWrites, h.answers, h.refusedQueries)
}

// change has a node join, leave, be given up or come back in another zone, if the cluster takes
// that. It returns how many changes it took.
func (h *history) change() int {
	m := h.any()
	p := m.placed.Load()
	if p == nil {
		return 0
	}
	nodes := p.table.Nodes()
	c := table.Command{Nodes: []table.NodeID{nodes[h.rng.IntN(len(nodes))]}}
	switch i := h.rng.IntN(5); {
	case i < 2 && len(h.ips) < 7:
		name := fmt.Sprintf("n%d", len(h.ips))
		h.ips[name] = ip(len(h.ips) + 1)
		h.start(name)
		return 1
	case i == 2 && len(nodes) > 3:
		c.Kind = table.Leave
	case i == 3:
		h.zones[m.name] = []string{"", "east", "west"}[h.rng.IntN(3)]
		m.crash()
		h.start(m.name)
		return 1
	default:
		for _, n := range h.nodes {
			if n.cluster.Self() == c.Nodes[0] {
				return 0 // it is alive
			}
		}
		c.Kind = table.Remove
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if m.cluster.Propose(ctx, c) != nil {
		return 0
	}
	return 1
}
