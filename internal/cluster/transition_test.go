package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestAwaited(t *testing.T) {
	// The target has a new node, d, and a leaving one less, c. Nothing is asked of the
	// removed b, nor of e, which waits.
	moving := func(phase table.Phase) *table.Table {
		tab := tableOf("c", 8, "a", "b", "c")
		tab.Current.Slots[1].Removed = true
		target := tableOf("c", 8, "a", "d").Current
		tab.Waiting = []table.Command{{Kind: table.Join, Member: &table.Member{Node: "e"}}}
		tab.Transition = &table.Transition{Phase: phase, Began: 7, Target: target}
		return tab
	}
	for _, c := range []struct {
		name    string
		phase   table.Phase
		reports map[table.NodeID]report
		want    []table.NodeID
	}{
		{"nothing was heard", table.Copying, nil, []table.NodeID{"a", "c", "d"}},
		{"all are there", table.Copying, map[table.NodeID]report{"a": {7, 7}, "c": {7, 0}, "d": {8, 7}}, nil},
		{"nobody is ready", table.Copying, map[table.NodeID]report{"a": {7, 0}, "c": {7, 0}, "d": {7, 0}}, []table.NodeID{"a", "d"}},
		{"ready for another phase", table.Copying, map[table.NodeID]report{"a": {8, 8}, "c": {8, 7}, "d": {7, 6}}, []table.NodeID{"a", "d"}},
		{"the leaving node is behind", table.Copying, map[table.NodeID]report{"a": {7, 7}, "c": {6, 7}, "d": {7, 7}}, []table.NodeID{"c"}},
		{"a ready node is behind", table.Copying, map[table.NodeID]report{"a": {6, 7}, "c": {7, 7}, "d": {7, 7}}, []table.NodeID{"a"}},
		{"one is in another generation", table.Copying, map[table.NodeID]report{"a": {1_000_000_007, 7}, "c": {7, 0}, "d": {8, 7}}, []table.NodeID{"a"}},
		{"all switched", table.Switching, map[table.NodeID]report{"a": {7, 5}, "c": {7, 0}, "d": {9, 5}}, nil},
		{"not all switched", table.Switching, map[table.NodeID]report{"a": {7, 7}, "b": {7, 7}, "c": {6, 7}, "d": {6, 7}}, []table.NodeID{"c", "d"}},
	} {
		if got := awaited(moving(c.phase), c.reports); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestJoinGoesThroughBothPhases(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		m.begin(4)
		m.settled(1, 2, 3, 4)
		var phases []table.Phase
		for epoch := uint64(1); epoch <= 4; epoch++ {
			phases = append(phases, phase(m.tables[epoch]))
		}
		if want := []table.Phase{"", table.Copying, table.Switching, ""}; !slices.Equal(phases, want) {
			m.Errorf("phases %q, want %q", phases, want)
		}
		if m.ended != 2 {
			m.Errorf("%d ends of phases were checked", m.ended)
		}
	})
}

// TestCopyingWaitsForData of a new owner, and of one that owned before.
func TestCopyingWaitsForData(t *testing.T) {
	for _, who := range []int{1, 4} {
		t.Run(fmt.Sprint(who), func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				m.hold(who)
				m.begin(4)
				m.reaches(table.Copying)
				m.stays(table.Copying, "a node lacks data")
				m.handOver()
				m.stays(table.Copying, "another one leads")
				for _, n := range m.nodes {
					if got := n.c.Awaited(); !slices.Equal(got, m.ids(who)) {
						m.Errorf("%s waits for %v", n.name, got)
					}
				}
				m.release(who)
				m.settled(1, 2, 3, 4)
				if got := m.node(1).c.Awaited(); got != nil {
					m.Errorf("after the end it waits for %v", got)
				}
			})
		})
	}
}

func TestCopyingWaitsForANodeThatIsDown(t *testing.T) {
	for _, how := range []string{"down", "down and without its table"} {
		t.Run(how, func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				down := m.node(m.follower())
				down.crash()
				m.begin(4)
				m.reaches(table.Copying)
				m.stays(table.Copying, "one is down")
				m.handOver()
				m.stays(table.Copying, "another one leads")
				old := m.leader()
				old.crash()
				m.begin(old.number())
				m.leader()
				m.stays(table.Copying, "the one that led started again")
				if how != "down" {
					if err := os.Remove(filepath.Join(m.dirs[down.name], tableFile)); err != nil {
						m.Fatal(err)
					}
				}
				m.begin(down.number())
				m.settled(1, 2, 3, 4)
			})
		})
	}
}

func TestCopyingWaitsForANodeThatIsCutOff(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		cut := m.node(m.follower())
		rest := []string{ip(4)}
		for _, n := range m.others(cut) {
			rest = append(rest, n.ip)
		}
		m.net.Partition([]string{cut.ip}, rest)
		m.begin(4)
		m.reaches(table.Copying, cut)
		m.stays(table.Copying, "one is cut off", cut)
		m.net.Heal()
		m.settled(1, 2, 3, 4)
	})
}

// switching brings a join of node 4 into its second phase, which cannot end because the
// node that it returns is down.
func (m *moves) switching() (down *node) {
	m.Helper()
	m.hold(4)
	m.begin(4)
	m.reaches(table.Copying)
	m.eventually(time.Minute, "only the data is missing", func() bool {
		return slices.Equal(m.leader().c.Awaited(), m.ids(4))
	})
	down = m.node(m.follower())
	down.crash()
	m.release(4)
	m.reaches(table.Switching)
	return down
}

func TestSwitchingWaitsForANodeThatIsDown(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		down := m.switching()
		m.stays(table.Switching, "one is down")
		for _, n := range m.others(nil) {
			n.crash()
			m.begin(n.number())
		}
		m.leader()
		m.stays(table.Switching, "all but the one that is down started again")
		m.begin(down.number())
		m.settled(1, 2, 3, 4)
	})
}

// TestLeaderDiesDuringAJoin at each of many moments.
func TestLeaderDiesDuringAJoin(t *testing.T) {
	for step := range 12 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				m.begin(4)
				time.Sleep(time.Duration(step) * 300 * time.Millisecond)
				old := m.leader()
				old.crash()
				time.Sleep(10 * time.Second)
				m.begin(old.number())
				m.settled(1, 2, 3, 4)
			})
		})
	}
}

// TestAllRestartDuringAJoin at each of many moments.
func TestAllRestartDuringAJoin(t *testing.T) {
	for step := range 12 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				m.begin(4)
				time.Sleep(time.Duration(step) * 300 * time.Millisecond)
				for len(m.nodes) > 0 {
					m.nodes[0].crash()
				}
				for i := 1; i <= 4; i++ {
					m.begin(i)
				}
				m.settled(1, 2, 3, 4)
			})
		})
	}
}

func TestLeave(t *testing.T) {
	for _, who := range []string{"leader", "follower", "newest"} {
		t.Run(who, func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				m.begin(4)
				m.settled(1, 2, 3, 4)
				gone := map[string]int{"leader": m.leader().number(), "follower": m.follower(), "newest": 4}[who]
				m.command(m.node(gone), leave(m.ids(gone)...))
				rest := slices.DeleteFunc([]int{1, 2, 3, 4}, func(i int) bool { return i == gone })
				m.settled(rest...)
				n := m.node(gone)
				if !n.logs.has("level=WARN", "is no member of the cluster any more") {
					m.Error("it does not say that it has left")
				}
				n.stop()
				m.change(m.nodes[0])
				n = m.begin(gone)
				m.settled(rest...)
				time.Sleep(time.Minute)
				m.settled(rest...)
				if !n.logs.has("level=WARN", "does not join again") {
					m.Error("it does not say why it does not join")
				}
			})
		})
	}
}

// TestLeaversLearnTheEnd although they are cut off as soon as anybody knows it.
func TestLeaversLearnTheEnd(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			inMoves(t, 4, func(m *moves) {
				gone := m.leader()
				if who == "follower" {
					gone = m.node(m.follower())
				}
				var rest []string
				var stay []int
				for _, n := range m.others(gone) {
					rest, stay = append(rest, n.ip), append(stay, n.number())
				}
				m.onEnd = func() { m.net.Partition([]string{gone.ip}, rest) }
				m.command(gone, leave(gone.c.Self()))
				m.reaches("", gone)
				time.Sleep(time.Minute)
				if !gone.member() {
					m.Error("it learnt the end before it was cut off: the test shows nothing")
				}
				m.net.Heal()
				m.settled(stay...)
			})
		})
	}
}

// TestLeaversMayStopAtOnce when they know that they are no members: those that stay can go
// on changing the table.
func TestLeaversMayStopAtOnce(t *testing.T) {
	inMoves(t, 5, func(m *moves) {
		stays := m.node(m.follower())
		leavers := m.others(stays)
		var ids []table.NodeID
		for _, n := range leavers {
			ids = append(ids, n.c.Self())
		}
		m.command(stays, leave(ids...))
		for len(leavers) > 0 {
			m.eventually(time.Minute, "a leaving node knows that it is no member", func() bool {
				return slices.ContainsFunc(leavers, func(n *node) bool { return !n.member() })
			})
			leavers = slices.DeleteFunc(leavers, func(n *node) bool {
				if n.member() {
					return false
				}
				n.crash()
				return true
			})
		}
		m.change(stays)
		m.settled(stays.number())
	})
}

func TestRemove(t *testing.T) {
	for _, who := range []string{"leader", "follower", "newest"} {
		t.Run(who, func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				m.begin(4)
				m.settled(1, 2, 3, 4)
				gone := map[string]int{"leader": m.leader().number(), "follower": m.follower(), "newest": 4}[who]
				m.node(gone).crash()
				m.command(m.nodes[0], remove(m.ids(gone)...))
				rest := slices.DeleteFunc([]int{1, 2, 3, 4}, func(i int) bool { return i == gone })
				m.settled(rest...)

				n := m.begin(gone)
				m.settled(rest...)
				if !n.logs.has("level=WARN", "is no member of the cluster any more") {
					m.Error("it does not say that it was removed")
				}
				// Without its table it has to ask what became of it.
				n.crash()
				if err := os.Remove(filepath.Join(m.dirs[n.name], tableFile)); err != nil {
					m.Fatal(err)
				}
				n = m.begin(gone)
				time.Sleep(time.Minute)
				m.settled(rest...)
				if !n.logs.has("level=WARN", "does not join again") {
					m.Error("it does not say why it does not join")
				}
			})
		})
	}
}

// TestRemoveOfTheLivingLeader, of whom nobody takes an answer any more.
func TestRemoveOfTheLivingLeader(t *testing.T) {
	inMoves(t, 4, func(m *moves) {
		gone := m.leader().number()
		m.command(m.node(gone), remove(m.ids(gone)...))
		m.settled(slices.DeleteFunc([]int{1, 2, 3, 4}, func(i int) bool { return i == gone })...)
	})
}

// TestRemoveOfANodeThatNeverOwned and is lost while it copies: a cluster of one does not
// depend on it.
func TestRemoveOfANodeThatNeverOwned(t *testing.T) {
	inMoves(t, 1, func(m *moves) {
		m.hold(2)
		lost := m.begin(2)
		m.reaches(table.Copying)
		m.stays(table.Copying, "the new node lacks data")
		lost.crash()
		m.command(m.node(1), remove(lost.c.Self()))
		m.settled(1)
	})
}

func TestCommandsWaitForTheEndOfSwitching(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		down := m.switching()
		for i := 5; i <= 6; i++ {
			m.begin(i)
			m.eventually(time.Minute, "the join waits", func() bool { return m.node(i).member() && m.all(table.Switching) })
		}
		m.command(m.node(4), leave(m.ids(4)...))
		if got := len(m.node(4).c.Table().Waiting); got != 3 {
			m.Errorf("%d commands wait, want 3", got)
		}
		// One that waits may be lost: it does not hold up those who do not wait for it, and it
		// is not forgotten.
		m.node(6).crash()
		m.stays(table.Switching, "one is down")
		for _, n := range m.nodes {
			if !slices.ContainsFunc(n.c.Members(), func(member Member) bool { return member.Name == nodeName(6) }) {
				m.Errorf("%s has forgotten a member that waits", n.name)
			}
		}
		m.begin(down.number())
		m.reaches(table.Copying)
		if got := m.nodes[0].c.Table(); len(got.Waiting) != 0 {
			m.Errorf("%v waits still", got.Waiting)
		}
		m.begin(6)
		m.settled(1, 2, 3, 5, 6)
	})
}

// fewer is how many seeds are tried: a third where the tests are to be short.
func fewer(seeds uint64) uint64 {
	if testing.Short() {
		return max(1, seeds/3)
	}
	return seeds
}

// TestJoinsAndLeavesInARow do not wait for each other.
func TestJoinsAndLeavesInARow(t *testing.T) {
	for seed := range fewer(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				rng := rand.New(rand.NewPCG(seed, 5))
				members, next := []int{1, 2, 3}, 4
				for range 20 {
					if len(members) == 1 || rng.IntN(2) == 0 {
						m.begin(next)
						m.eventually(time.Minute, "the new node is a member", m.node(next).member)
						members = append(members, next)
						next++
					} else {
						k := rng.IntN(len(members))
						m.command(m.node(members[rng.IntN(len(members))]), leave(m.ids(members[k])...))
						members = slices.Delete(members, k, k+1)
					}
					time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
				}
				m.settled(members...)
				m.Logf("%d ends of phases, epoch %d", m.ended, m.nodes[0].c.Table().Epoch)
			})
		})
	}
}

// TestChangesAmidFaults has nodes come, go and be lost while others crash, start again and
// are cut off.
func TestChangesAmidFaults(t *testing.T) {
	for seed := range fewer(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inMoves(t, 3, func(m *moves) {
				rng := rand.New(rand.NewPCG(seed, 6))
				members, next := []int{1, 2, 3}, 4
				for range 25 {
					k := rng.IntN(len(members))
					n, other := m.node(members[k]), m.node(members[(k+1)%len(members)])
					switch what := rng.IntN(5); {
					case what == 0 || what < 3 && len(members) <= 3:
						m.begin(next)
						m.eventually(time.Minute, "the new node is a member", m.node(next).member)
						members = append(members, next)
						next++
					case what == 1:
						m.command(other, leave(n.c.Self()))
						members = slices.Delete(members, k, k+1)
					case what == 2:
						// With three copies, one node may be lost at a time.
						m.eventually(2*time.Minute, "the transition ends", func() bool { return m.all("") })
						n.crash()
						m.command(other, remove(n.c.Self()))
						members = slices.Delete(members, k, k+1)
						m.begin(n.number())
					case what == 3:
						n.crash()
						time.Sleep(time.Duration(rng.IntN(8000)) * time.Millisecond)
						m.begin(n.number())
					default:
						var rest []string
						for _, o := range m.others(n) {
							rest = append(rest, o.ip)
						}
						m.net.Partition([]string{n.ip}, rest)
						time.Sleep(time.Duration(rng.IntN(15000)) * time.Millisecond)
						m.net.Heal()
					}
					time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
				}
				m.settled(members...)
				m.Logf("%d ends of phases, epoch %d, members %v", m.ended, m.nodes[0].c.Table().Epoch, members)
			})
		})
	}
}

// TestPhasesDoNotWaitForGossip that gets lost: what is lost is told again twice a minute.
func TestPhasesDoNotWaitForGossip(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		m.hold(4)
		m.begin(4)
		m.reaches(table.Copying)
		time.Sleep(time.Minute)
		m.net.SetLoss(1, 1)
		m.release(4)
		took := m.eventually(time.Minute, "the transition ends", func() bool { return m.all("") })
		if m.net.SetLoss(0, 1); took > 8*time.Second {
			m.Errorf("it took %v", took)
		}
		m.settled(1, 2, 3, 4)
	})
}
