package cluster

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// inWorld runs a whole-cluster test on virtual time.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		test(w)
		w.end()
	})
}

// together starts fresh nodes 1..n that found a cluster together.
func (w *world) together(n int) {
	w.Helper()
	for i := 1; i <= n; i++ {
		w.begin(i, n)
	}
}

func nodeName(i int) string { return fmt.Sprintf("node%d", i) }

// begin starts node i with the seeds 1..3.
func (w *world) begin(i, expect int) *node {
	w.Helper()
	return w.start(nodeName(i), ip(i), func(c *Config) {
		c.Find.Join, c.Find.BootstrapExpect = seeds(1, 2, 3), expect
	})
}

func TestAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.start("only", ip(1), nil)
		w.eventually(10*time.Second, "a cluster of one", func() bool { return n.c.Table() != nil })
		if got := n.c.Table(); got.Epoch != 1 || !slices.Equal(got.Nodes(), []table.NodeID{n.c.Self()}) {
			w.Errorf("table %+v", got)
		}
		w.propose(n, table.Pause)
		if got := n.c.Table(); got.Epoch != 2 || !got.Paused {
			w.Errorf("table after a pause: %+v", got)
		}
		id, cluster := n.c.Self(), n.c.Table().ClusterID
		n.stop()
		n = w.start("only", ip(9), nil)
		if got := n.c.Table(); n.c.Self() != id || got == nil || got.Epoch != 2 || got.ClusterID != cluster {
			w.Errorf("after a restart: node %s, table %+v", n.c.Self(), got)
		}
		start := time.Now()
		w.propose(n, table.Resume)
		if took := time.Since(start); took > time.Second {
			w.Errorf("the only voter took %v to lead after a restart", took)
		}
		if n.c.id.Boots != 2 {
			w.Errorf("%d starts counted, want 2", n.c.id.Boots)
		}
	})
}

func TestFoundTogether(t *testing.T) {
	for _, order := range [][]int{{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}} {
		for _, gap := range []time.Duration{0, 7 * time.Second} {
			t.Run(fmt.Sprintf("%v/%v", order, gap), func(t *testing.T) {
				inWorld(t, func(w *world) {
					for _, i := range order {
						w.begin(i, 3)
						time.Sleep(gap)
					}
					tab := w.agree(30*time.Second, 3)
					if tab.Epoch != 1 {
						w.Errorf("epoch %d, want the founding table to have all three", tab.Epoch)
					}
					if !slices.IsSorted(tab.Nodes()) {
						w.Errorf("founders are not in order: %+v", tab.Current.Slots)
					}
				})
			})
		}
	}
}

func TestMoreFreshNodesThanExpected(t *testing.T) {
	inWorld(t, func(w *world) {
		for i := 1; i <= 5; i++ {
			w.begin(i, 3)
		}
		w.agree(time.Minute, 5)
	})
}

func TestLaterNodeJoinsAtTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		n := w.begin(4, 3) // the same flags as everybody
		w.agree(30*time.Second, 4)
		if slot, _ := n.c.Table().SlotOf(n.c.Self()); slot != 3 {
			w.Errorf("the fourth node got slot %d", slot)
		}
		n = w.begin(5, 0) // a node that only ever joins
		w.agree(30*time.Second, 5)
		if slot, _ := n.c.Table().SlotOf(n.c.Self()); slot != 4 || n.c.Table().Current.Slots[4].Zone != "z-node5" {
			w.Errorf("the fifth node got slot %d, table %+v", slot, n.c.Table())
		}
	})
}

func TestWaitsForACluster(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.start("late", ip(7), func(c *Config) { c.Find.Join = seeds(1, 7) })
		time.Sleep(time.Minute)
		if n.c.Table() != nil {
			w.Fatal("a node that was told to join founded a cluster")
		}
		if !n.logs.has("level=WARN", "waiting=", "a cluster named") {
			w.Error("it does not say what it waits for")
		}
		w.start("first", ip(1), nil)
		w.agree(30*time.Second, 2)
	})
}

func TestRestartOfOne(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		for i, crash := range []bool{false, true} {
			n := w.nodes[0]
			// A process that is killed leaves what it wrote while it ran.
			w.eventually(15*time.Second, "the peers are remembered", func() bool {
				var saved []peer
				return statefile.Load(w.dirs[n.name], peersFile, &saved) == nil && len(saved) == 2
			})
			if crash {
				n.crash()
			} else {
				n.stop()
			}
			before := n.c.Table().Epoch
			// It comes back at another address, and was not told of anybody.
			back := w.start(n.name, ip(20+i), nil)
			if got := back.c.Table(); back.c.Self() != n.c.Self() || got == nil || got.Epoch != before {
				w.Errorf("after the restart: node %s, table %+v", back.c.Self(), got)
			}
			w.agree(3*time.Second, 3)
		}
	})
}

func TestLeaderLoss(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		lost, start := w.leader(), time.Now()
		lost.crash()
		w.eventually(30*time.Second, "another leader", func() bool {
			return w.nodes[0].c.consensus().leading() || w.nodes[1].c.consensus().leading()
		})
		w.Logf("a new leader within %v", time.Since(start))
		w.change(w.nodes[0])
		back := w.start(lost.name, lost.ip, func(c *Config) { c.Find.Join = seeds(1, 2, 3) })
		w.eventually(30*time.Second, "the lost leader follows", func() bool { return back.c.Table().Epoch == 2 })
		w.agree(30*time.Second, 3)
	})
}

func TestGracefulStopHandsOver(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		l := w.leader()
		l.stop()
		if took := w.eventually(2*time.Second, "another leader", func() bool {
			return w.nodes[0].c.consensus().leading() || w.nodes[1].c.consensus().leading()
		}); took > time.Second {
			w.Errorf("leadership took %v to hand over", took)
		}
		w.eventually(5*time.Second, "its peers know that it left", func() bool {
			for _, m := range w.nodes[0].c.Members() {
				if m.ID == l.c.Self() {
					return m.State == Left && m.Slot >= 0
				}
			}
			return false
		})
	})
}

func TestProposeFromFollowers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		leader := w.leader()
		for _, n := range w.nodes {
			if n == leader {
				continue
			}
			before := leader.c.Table().Epoch
			w.change(n)
			if got := n.c.Table(); got.Epoch <= before {
				w.Errorf("the proposer's table is %+v when Propose returns", got)
			}
		}
		if err := w.nodes[0].c.Propose(w.Context(), table.Command{Kind: "nonsense"}); err == nil {
			w.Error("a command of an unknown kind was taken")
		}
	})
}

func TestSevenNodesFiveVote(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		for i := 4; i <= 7; i++ {
			w.begin(i, 0)
		}
		tab := w.agree(time.Minute, 7)
		w.eventually(time.Minute, "five voters", func() bool {
			f := w.leader().c.consensus().running().GetConfiguration()
			if f.Error() != nil {
				return false
			}
			votes := 0
			for _, s := range f.Configuration().Servers {
				if slot, _ := tab.SlotOf(table.NodeID(s.ID)); s.Suffrage == raft.Voter && slot < 5 {
					votes++
				}
			}
			return votes == 5 && len(f.Configuration().Servers) == 7
		})
		// Two of the three founders are lost, and there is still a quorum.
		a, b := w.nodes[1], w.nodes[2]
		a.crash()
		b.crash()
		w.change(w.nodes[4])
	})
}

func TestLongSplitMerges(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		for i := 4; i <= 6; i++ {
			w.begin(i, 0)
		}
		w.agree(time.Minute, 6)
		w.net.Partition([]string{ip(1), ip(2), ip(3)}, []string{ip(4), ip(5), ip(6)})
		time.Sleep(10 * time.Minute)
		alive := 0
		for _, m := range w.nodes[0].c.Members() {
			if m.State == Alive {
				alive++
			}
		}
		if alive != 3 {
			w.Fatalf("%d nodes look alive across the split", alive)
		}
		w.net.Heal()
		w.Logf("merged after %v", w.eventually(30*time.Second, "all see all", func() bool { return w.agreed(6) }))
		w.change(w.nodes[5])
	})
}

func TestAllRestartWithNewAddresses(t *testing.T) {
	// Found again through names, or through the one address that stayed.
	for _, how := range []string{"names", "one-stayed"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, func(w *world) {
				join := seeds(1, 2, 3)
				if how == "names" {
					join = []string{"a.db:7946", "b.db:7946", "c.db:7946"}
				}
				at := func(first int) {
					for i, name := range []string{"a.db", "b.db", "c.db"} {
						w.net.SetName(name, ip(first+i))
					}
				}
				at(1)
				for i := 1; i <= 3; i++ {
					w.start(nodeName(i), ip(i), func(c *Config) { c.Find.Join, c.Find.BootstrapExpect = join, 3 })
				}
				before := w.agree(30*time.Second, 3)
				for len(w.nodes) > 0 {
					w.nodes[0].crash()
				}
				at(11)
				for i := 1; i <= 3; i++ {
					address := ip(10 + i)
					if how == "one-stayed" && i == 2 {
						address = ip(2)
					}
					w.start(nodeName(i), address, func(c *Config) { c.Find.Join, c.Find.BootstrapExpect = join, 3 })
				}
				for _, n := range w.nodes {
					if got := n.c.Table(); got == nil || got.Epoch != before.Epoch {
						w.Errorf("%s has no table at once after the restart: %+v", n.name, got)
					}
				}
				w.agree(30*time.Second, 3)
				w.change(w.nodes[2])
				for _, n := range w.nodes {
					if a, _ := w.nodes[0].c.Address(n.c.Self()); a != fmt.Sprintf("%s:%d", n.ip, rpcPort) {
						w.Errorf("address of %s is %s, it is at %s", n.name, a, n.ip)
					}
				}
			})
		})
	}
}
