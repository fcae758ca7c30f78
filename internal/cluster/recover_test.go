package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/table"
)

// lose crashes nodes, for good as far as the others can see, and waits until they do.
func (m *moves) lose(is ...int) {
	m.Helper()
	for _, i := range is {
		m.node(i).crash()
	}
	m.alone(m.nodes...)
}

// alone waits until nodes see nobody but each other, and no leader.
func (m *moves) alone(nodes ...*node) {
	m.Helper()
	m.eventually(2*time.Minute, "the others are gone, and nobody leads", func() bool {
		for _, n := range nodes {
			for _, s := range n.c.Members() {
				here := slices.ContainsFunc(nodes, func(n *node) bool { return n.c.Self() == s.ID })
				if here != (s.State == Alive) {
					return false
				}
			}
			if n.c.consensus().leader() != "" {
				return false
			}
		}
		return true
	})
}

// recover has node i carry out what it plans.
func (m *moves) recover(i int) (*table.Table, error) {
	m.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := m.node(i)
	plan, err := n.c.PlanRecovery(ctx)
	if err == nil {
		err = n.c.Recover(ctx, plan.Epoch, plan.Survivors)
	}
	return n.c.Table(), err
}

// recovered waits until the running nodes are at a generation's history and can change the table.
func (m *moves) recovered(from *table.Table, is ...int) {
	m.Helper()
	m.eventually(time.Minute, "all are in the new generation", func() bool {
		for _, i := range is {
			t := m.node(i).c.Table()
			if t == nil || t.Lineage() != from.Lineage() {
				return false
			}
		}
		return true
	})
	m.propose(m.node(is[0]), table.Pause)
	m.propose(m.node(is[0]), table.Resume)
}

// Three of five are lost, and the two that are left go on; then the lost ones come back, in
// whatever order, and are members like before.
func TestRecoverFromALostMajority(t *testing.T) {
	for _, back := range [][][]int{{{1}, {2}, {3}}, {{3, 2, 1}}, {{2, 3}, {1}}} {
		t.Run(fmt.Sprint(back), func(t *testing.T) {
			inMoves(t, 5, func(m *moves) {
				before := m.agree(time.Minute, 5)
				m.lose(1, 2, 3)
				after, err := m.recover(4)
				if err != nil {
					m.end()
					m.Fatal(err)
				}
				if !before.Precedes(after) || table.Generation(after.Epoch) != 1 || after.Recovery().From != before.Epoch {
					m.Errorf("epoch %d after %d, recoveries %+v", after.Epoch, before.Epoch, after.Recoveries)
				}
				m.recovered(after, 4, 5)
				for _, together := range back {
					for _, i := range together {
						m.begin(i)
					}
					time.Sleep(20 * time.Second)
				}
				m.settled(1, 2, 3, 4, 5)
				m.begin(6)
				m.settled(1, 2, 3, 4, 5, 6)
				for _, i := range []int{1, 4} {
					if list, _ := filepath.Glob(filepath.Join(m.dirs[nodeName(i)], raftDir+"*")); len(list) != 1 || !strings.HasSuffix(list[0], after.Recovery().ID) {
						m.Errorf("node %d keeps the stores %q", i, list)
					}
				}
			})
		})
	}
}

// The last one can go on alone, and again when it loses those who came back.
func TestRecoverTwice(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		m.lose(1, 2)
		first, err := m.recover(3)
		if err != nil {
			m.end()
			m.Fatal(err)
		}
		m.recovered(first, 3)
		m.begin(1)
		m.begin(2)
		m.settled(1, 2, 3)
		m.lose(2, 3)
		second, err := m.recover(1)
		if err != nil {
			m.end()
			m.Fatal(err)
		}
		if len(second.Recoveries) != 2 || !first.Precedes(second) {
			m.Errorf("recoveries %+v", second.Recoveries)
		}
		m.recovered(second, 1)
		m.begin(3)
		m.begin(2)
		m.settled(1, 2, 3)
	})
}

// Those who were taken for lost lived, and changed the table. They serve nobody when they
// meet the others, stay so when they start again, and change nothing any more.
func TestTheOtherSideIsApart(t *testing.T) {
	inMoves(t, 5, func(m *moves) {
		var near, far []string
		for i := 1; i <= 3; i++ {
			far = append(far, ip(i))
		}
		for i := 4; i <= 5; i++ {
			near = append(near, ip(i))
		}
		m.net.Partition(near, far)
		m.alone(m.node(4), m.node(5))
		m.propose(m.node(1), table.Pause)
		asked := time.Now()
		after, err := m.recover(5)
		if err != nil {
			m.end()
			m.Fatal(err)
		}
		// Two surveys wait for the nodes that say nothing; whatever Raft still waits for of them
		// must not hold up who vouches.
		if took := time.Since(asked); took > 7*time.Second {
			m.Errorf("the recovery took %v", took)
		}
		m.recovered(after, 4, 5)
		m.net.Heal()
		apart := func(i int) func() bool {
			return func() bool {
				var e *ApartError
				return errors.As(m.node(i).c.Apart(), &e) && e.Recovery == after.Recovery() && m.node(i).c.consensus().running() == nil
			}
		}
		for i := 1; i <= 3; i++ {
			m.eventually(time.Minute, fmt.Sprintf("node %d is apart", i), apart(i))
			if !m.node(i).logs.has("level=ERROR", "serves nobody", after.Recovery().ID) {
				m.Errorf("node %d does not say what is wrong", i)
			}
			m.node(i).crash()
		}
		m.begin(2)
		if !apart(2)() {
			m.Error("node 2 has forgotten that it is apart")
		}
		if err := m.node(2).c.Learn(m.node(4).c.Table()); err == nil {
			m.Error("a node that is apart adopts a table")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := m.node(2).c.Propose(ctx, table.Command{Kind: table.Resume}); err == nil {
			m.Error("a node that is apart has the table changed")
		}
		m.recovered(after, 4, 5)
	})
}

// What a node was told on the way, and whether it is told at all, makes no difference: a crash
// between any two steps leaves a cluster that can be recovered, or is.
func TestCrashWhileRecovering(t *testing.T) {
	// Each case begins on node 4 of 4 and 5, and crashes one of them.
	begin := func(m *moves) (*table.Table, []table.NodeID) {
		m.Helper()
		n := m.node(4)
		plan, err := n.c.PlanRecovery(context.Background())
		if err != nil {
			m.Fatal(err)
		}
		first, err := table.Recover(n.c.Table(), "CRASHED", plan.generation)
		if err != nil {
			m.Fatal(err)
		}
		if err := n.c.gather(context.Background(), first, plan.Survivors); err != nil {
			m.Fatal(err)
		}
		return first, plan.Survivors
	}
	released := func(m *moves, is ...int) {
		m.Helper()
		m.eventually(time.Minute, "nobody vouches any more", func() bool {
			for _, i := range is {
				if m.node(i).c.era.now().Pledge != nil || m.node(i).c.consensus().running() == nil {
					return false
				}
			}
			return true
		})
	}
	for name, crash := range map[string]func(m *moves) (recovered bool){
		"vouched": func(m *moves) bool {
			begin(m)
			m.node(4).crash()
			if m.node(5).c.consensus().running() != nil {
				m.Error("a node that vouches takes part in Raft")
			}
			m.begin(4)
			released(m, 4, 5)
			return false
		},
		"both vouched": func(m *moves) bool {
			begin(m)
			m.node(5).crash()
			m.node(4).crash()
			m.begin(5)
			if m.node(5).c.era.now().Pledge == nil || m.node(5).c.consensus().running() != nil {
				m.Error("a node has forgotten that it vouches")
			}
			m.begin(4)
			released(m, 4, 5)
			return false
		},
		"half a store": func(m *moves) bool {
			begin(m)
			n := m.node(4)
			n.crash()
			if err := os.MkdirAll(n.c.era.storeOf("CRASHED"), 0o755); err != nil {
				m.Fatal(err)
			}
			m.begin(4)
			released(m, 4, 5)
			if there, err := exists(n.c.era.storeOf("CRASHED")); there || err != nil {
				m.Errorf("the store is left: %v", err)
			}
			return false
		},
		"entered": func(m *moves) bool {
			first, survivors := begin(m)
			n := m.node(4)
			// From here on nothing of it may be adopted before the crash.
			m.net.Down(n.ip)
			n.c.era.lock <- struct{}{}
			var servers []raft.Server
			for _, id := range survivors {
				servers = append(servers, server(id, true))
			}
			if err := n.c.enter(first, servers); err != nil {
				m.Fatal(err)
			}
			<-n.c.era.lock
			n.crash()
			m.begin(4)
			return true
		},
		"follower": func(m *moves) bool {
			first, survivors := begin(m)
			m.node(5).crash()
			if err := m.node(4).c.found(first, survivors); err != nil {
				m.Fatal(err)
			}
			m.begin(5)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			inMoves(t, 5, func(m *moves) {
				m.lose(1, 2, 3)
				done := crash(m)
				m.eventually(time.Minute, "they see each other", func() bool {
					for _, s := range m.node(5).c.Members() {
						if s.ID == m.node(4).c.Self() {
							return s.State == Alive
						}
					}
					return false
				})
				if !done {
					if _, err := m.recover(5); err != nil {
						m.end()
						m.Fatal(err)
					}
				} else {
					m.eventually(time.Minute, "the recovery comes to its end", func() bool {
						return m.node(5).c.Table().Recovery().ID == "CRASHED" && m.node(4).c.Table().Recovery().ID == "CRASHED"
					})
				}
				m.recovered(m.node(5).c.Table(), 4, 5)
				m.begin(2)
				m.begin(1)
				m.begin(3)
				m.settled(1, 2, 3, 4, 5)
			})
		})
	}
}

// The node that began a recovery is lost as well, having come about in it or not; another one
// recovers. Back again, it is a member if nothing was agreed on there.
func TestRecoverFromALostRecovery(t *testing.T) {
	for _, entered := range []bool{false, true} {
		t.Run(fmt.Sprintf("entered %t", entered), func(t *testing.T) {
			inMoves(t, 5, func(m *moves) {
				m.lose(1, 2, 3)
				n := m.node(4)
				plan, err := n.c.PlanRecovery(context.Background())
				if err != nil {
					m.Fatal(err)
				}
				first, err := table.Recover(n.c.Table(), "LOST", plan.generation)
				if err != nil {
					m.Fatal(err)
				}
				if err := n.c.gather(context.Background(), first, plan.Survivors); err != nil {
					m.Fatal(err)
				}
				if entered {
					m.net.Down(n.ip)
					if err := errors.Join(n.c.found(first, plan.Survivors), n.c.adopt(first)); err != nil {
						m.Fatal(err)
					}
				}
				m.lose(4)
				after, err := m.recover(5)
				if err != nil {
					m.end()
					m.Fatal(err)
				}
				if table.Generation(after.Epoch) != 2 || !first.Precedes(after) {
					m.Errorf("epoch %d, recoveries %+v", after.Epoch, after.Recoveries)
				}
				m.recovered(after, 5)
				for _, i := range []int{4, 1, 2, 3} {
					m.begin(i)
				}
				m.settled(1, 2, 3, 4, 5)
			})
		})
	}
}

// Two operators recover on two survivors at once: one history comes of it, or none, and then
// one of them tries again.
func TestTwoRecoveries(t *testing.T) {
	for seed := range 8 {
		inMoves(t, 5, func(m *moves) {
			m.lose(1, 2, 3)
			results := make(chan error, 2)
			for _, i := range []int{4, 5} {
				go func() {
					if i == 5 {
						time.Sleep(time.Duration(seed) * 700 * time.Microsecond)
					}
					_, err := m.recover(i)
					results <- err
				}()
			}
			a, b := <-results, <-results
			if a == nil && b == nil {
				// The second one recovered from the first.
				m.Logf("seed %d: both: %+v", seed, m.node(4).c.Table().Recoveries)
			}
			for _, err := range []error{a, b} {
				if err != nil && !errors.Is(err, ErrNotRecoverable) {
					m.Errorf("seed %d: %v", seed, err)
				}
			}
			if a != nil && b != nil {
				m.eventually(time.Minute, "one tries again", func() bool { _, err := m.recover(4); return err == nil })
			}
			m.eventually(time.Minute, "one history", func() bool {
				x, y := m.node(4).c.Table(), m.node(5).c.Table()
				return x.Lineage() == y.Lineage() && len(x.Recoveries) == 1
			})
			m.recovered(m.node(4).c.Table(), 4, 5)
		})
	}
}

// With a majority there, or with a newer table elsewhere, nothing is recovered.
func TestRecoveryIsRefused(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		refused := func(i int, says string) {
			m.Helper()
			if _, err := m.recover(i); !errors.Is(err, ErrNotRecoverable) || !strings.Contains(err.Error(), says) {
				m.Errorf("node %d: %v, want a refusal that says %q", i, err, says)
			}
		}
		refused(1, "leader")
		m.node(1).crash()
		m.eventually(time.Minute, "another leader", func() bool {
			return m.node(2).c.consensus().leader() != "" && m.node(2).c.consensus().leader() == m.node(3).c.consensus().leader()
		})
		refused(2, "leader")
		ctx := context.Background()
		m.node(2).crash()
		m.alone(m.node(3))
		plan, err := m.node(3).c.PlanRecovery(ctx)
		if err != nil {
			m.Fatal(err)
		}
		if !slices.Equal(plan.Survivors, m.ids(3)) || len(plan.Gone) != 2 || len(plan.Voters) != 3 {
			m.Errorf("%+v", plan)
		}
		if err := m.node(3).c.Recover(ctx, plan.Epoch-1, plan.Survivors); !errors.Is(err, ErrNotRecoverable) {
			m.Errorf("another epoch than was shown: %v", err)
		}
		if err := m.node(3).c.Recover(ctx, plan.Epoch, m.ids(2, 3)); !errors.Is(err, ErrNotRecoverable) {
			m.Errorf("other survivors than were shown: %v", err)
		}
		if m.node(3).c.era.now() != (place{}) {
			m.Errorf("a refusal left %+v", m.node(3).c.era.now())
		}
	})
}

func TestPlanRecovery(t *testing.T) {
	own := tableOf("c", 7, "a", "b", "c", "d", "e")
	newer := tableOf("c", 8, "a", "b", "c", "d", "e")
	all := []table.NodeID{"a", "b", "c", "d", "e"}
	at := func(t *table.Table) survey { return survey{Table: t, Voters: all, Index: 9} }
	with := func(s survey, change func(*survey)) survey { change(&s); return s }
	vouch := func(by table.NodeID) func(*survey) {
		return func(s *survey) {
			s.Voters, s.Place = nil, place{Promised: 4, Pledge: &pledge{ID: "R", Generation: 4, By: by}}
		}
	}
	for _, c := range []struct {
		name    string
		answers map[table.NodeID]survey
		alive   []table.NodeID
		says    string // empty if it can be recovered
		left    []table.NodeID
		number  uint64
	}{
		{"two of five", map[table.NodeID]survey{"a": at(own), "b": at(own)}, nil, "", []table.NodeID{"a", "b"}, 1},
		{"one is behind", map[table.NodeID]survey{"a": at(own), "b": at(tableOf("c", 6, all...))}, nil, "", []table.NodeID{"a", "b"}, 1},
		{"a majority", map[table.NodeID]survey{"a": at(own), "b": at(own), "c": at(own)}, nil, "3 of the 5 voters", nil, 0},
		{"alive and silent", map[table.NodeID]survey{"a": at(own), "b": at(own)}, []table.NodeID{"e"}, "3 of the 5 voters", nil, 0},
		{"alone with one that is silent", map[table.NodeID]survey{"a": at(own)}, []table.NodeID{"e"}, "node e does not answer", nil, 0},
		{"newer elsewhere", map[table.NodeID]survey{"a": at(own), "b": at(newer)}, nil, "recover there", nil, 0},
		{"a leader", map[table.NodeID]survey{"a": at(own), "b": with(at(own), func(s *survey) { s.Leader = "d" })}, nil, "a leader of Raft, node d", nil, 0},
		{"fewer voters by a newer log", map[table.NodeID]survey{"a": at(own), "b": with(at(own), func(s *survey) { s.Voters, s.Index = all[:3], 10 })}, nil, "2 of the 3 voters", nil, 0},
		{"another recovery", map[table.NodeID]survey{"a": with(at(own), vouch("b")), "b": with(at(own), vouch("b"))}, nil, "node b has begun", nil, 0},
		{"a lost recovery", map[table.NodeID]survey{"a": with(at(own), vouch("c")), "b": with(at(own), vouch("c"))}, nil, "", []table.NodeID{"a", "b"}, 5},
		{"vouched by all, and lost", map[table.NodeID]survey{"a": with(at(own), vouch("e")), "b": with(at(own), vouch("e")), "c": with(at(own), vouch("e"))}, nil, "", []table.NodeID{"a", "b", "c"}, 5},
		{"a fresh log", map[table.NodeID]survey{"a": {Table: own}}, nil, "", []table.NodeID{"a"}, 1},
		{"without a table", map[table.NodeID]survey{"a": at(own), "b": with(at(own), func(s *survey) { s.Table = nil })}, nil, "", []table.NodeID{"a"}, 1},
	} {
		alive := map[table.NodeID]bool{}
		for _, id := range c.alive {
			alive[id] = true
		}
		plan, err := planRecovery("a", own, c.answers, alive)
		switch {
		case c.says != "" && (!errors.Is(err, ErrNotRecoverable) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want a refusal that says %q", c.name, err, c.says)
		case c.says == "" && (err != nil || !slices.Equal(plan.Survivors, c.left) || plan.generation != c.number):
			t.Errorf("%s: %+v, %v", c.name, plan, err)
		}
	}
}
