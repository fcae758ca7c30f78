package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestAdmissible(t *testing.T) {
	slots := []table.Slot{{Node: "a"}, {}, {Node: "x", Joining: true}, {Node: "y", Joining: true}}
	tab := &table.Table{Epoch: 7, Slots: slots}
	for _, c := range []struct {
		name     string
		reported map[table.NodeID]uint64
		want     []table.NodeID
	}{
		{"everybody is there", map[table.NodeID]uint64{"a": 7, "x": 7, "y": 8}, []table.NodeID{"x", "y"}},
		{"an owner is behind", map[table.NodeID]uint64{"a": 6, "x": 7, "y": 7}, nil},
		{"a joining node is behind", map[table.NodeID]uint64{"a": 7, "x": 7, "y": 6}, nil},
		{"nothing was heard of an owner", map[table.NodeID]uint64{"x": 7, "y": 7}, nil},
	} {
		if got := admissible(tab, c.reported); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// joins watches over the admission of the fourth node of a cluster.
type joins struct {
	*world
	mu    sync.Mutex
	seen  map[string]*node // the last start of each node, also of those that are down
	fault string
}

// begin starts node i, and has each admission that it hears of checked: by then everybody
// has to hold a table in which the admitted node stands.
func (j *joins) begin(i int) *node {
	j.Helper()
	started := j.start(nodeName(i), ip(i), func(c *Config) {
		c.Find.Join = seeds(1, 2, 3)
		if i <= 3 {
			c.Find.BootstrapExpect = 3
		}
		c.Adopt = func(_, t *table.Table) {
			if t.Epoch != 3 { // 1 is the founding, 2 the join
				return
			}
			j.mu.Lock()
			defer j.mu.Unlock()
			for _, n := range j.seen {
				if has := n.c.Table(); has == nil || has.Epoch < 2 {
					j.fault = fmt.Sprintf("admitted while %s has %+v", n.name, has)
				}
			}
		}
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seen[started.name] = started
	return started
}

// joining tells whether all nodes but the absent have the fourth node in their table, and
// none has it as an owner.
func (j *joins) joining(absent *node) bool {
	for _, n := range j.nodes {
		t := n.c.Table()
		if n != absent && (t == nil || len(t.Slots) != 4 || !t.Slots[3].Joining) {
			return false
		}
	}
	return true
}

func (j *joins) admitted() bool {
	for _, n := range j.nodes {
		if t := n.c.Table(); t == nil || len(t.Slots) != 4 || t.Slots[3].Joining {
			return false
		}
	}
	return true
}

// found founds a cluster of three and returns a node that does not lead.
func (j *joins) found() *node {
	j.Helper()
	for i := 1; i <= 3; i++ {
		j.begin(i)
	}
	j.agree(30*time.Second, 3)
	return j.others(j.leader())[0]
}

func (n *node) number() int {
	var i int
	_, _ = fmt.Sscanf(n.name, "node%d", &i)
	return i
}

// stays waits, and expects the fourth node to be joining all the time.
func (j *joins) stays(absent *node, when string) {
	j.Helper()
	for range 60 {
		time.Sleep(time.Second)
		if !j.joining(absent) {
			j.end()
			j.Fatalf("%s: the newcomer is not joining any more", when)
		}
	}
}

// finish expects the admission within a time.
func (j *joins) finish(limit time.Duration) {
	j.Helper()
	j.Logf("admitted after %v", j.eventually(limit, "the newcomer is admitted", j.admitted))
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fault != "" {
		j.Error(j.fault)
	}
}

func TestAdmissionWaitsForANodeThatIsDown(t *testing.T) {
	for _, how := range []string{"down", "down and without its table"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, func(w *world) {
				j := &joins{world: w, seen: make(map[string]*node)}
				down := j.found()
				down.crash()
				j.begin(4)
				w.eventually(30*time.Second, "the newcomer is joining", func() bool { return j.joining(nil) })
				j.stays(nil, "one is down")

				old := w.leader()
				if err := old.c.consensus.running().LeadershipTransfer().Error(); err != nil {
					w.Fatal(err)
				}
				j.stays(nil, "another one leads")
				if w.leader() == old {
					w.Error("leadership did not change")
				}
				old = w.leader()
				old.crash()
				j.begin(old.number())
				w.eventually(30*time.Second, "the one that led is back", func() bool { return j.joining(nil) })
				w.leader()
				j.stays(nil, "the one that led started again")

				if how != "down" {
					if err := os.Remove(filepath.Join(w.dirs[down.name], tableFile)); err != nil {
						w.Fatal(err)
					}
				}
				j.begin(down.number())
				j.finish(10 * time.Second)
			})
		})
	}
}

func TestAdmissionWaitsForANodeThatIsCutOff(t *testing.T) {
	inWorld(t, func(w *world) {
		j := &joins{world: w, seen: make(map[string]*node)}
		cut := j.found()
		var rest []string
		for _, n := range w.others(cut) {
			rest = append(rest, n.ip)
		}
		w.net.Partition([]string{cut.ip}, append(rest, ip(4)))
		j.begin(4)
		w.eventually(30*time.Second, "the newcomer is joining", func() bool { return j.joining(cut) })
		j.stays(cut, "one is cut off")
		w.net.Heal()
		w.eventually(30*time.Second, "the node is back", func() bool { return cut.c.Table().Epoch >= 2 })
		j.finish(10 * time.Second)
	})
}

// TestLeaderDiesDuringAdmission at each of many moments around the join.
func TestLeaderDiesDuringAdmission(t *testing.T) {
	for step := range 12 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			inWorld(t, func(w *world) {
				j := &joins{world: w, seen: make(map[string]*node)}
				j.found()
				j.begin(4)
				time.Sleep(time.Duration(step) * 300 * time.Millisecond)
				old := w.leader()
				old.crash()
				time.Sleep(10 * time.Second)
				j.begin(old.number())
				j.finish(time.Minute)
			})
		})
	}
}

// TestOlderCopyOfADirectory: what a node reported counts no more once it runs on a
// directory that is older.
func TestOlderCopyOfADirectory(t *testing.T) {
	r := &registry{peers: make(map[table.NodeID]peer)}
	r.put(peer{ID: "a", Boots: 5, Epoch: 7, State: Alive})
	if r.put(peer{ID: "a", Boots: 4, Epoch: 3, State: Alive}); r.peers["a"].Epoch != 7 {
		t.Error("a rumour of an older start counts while a newer one is alive")
	}
	r.gone(identity{Node: "a", Boots: 5}, Dead)
	if p, _ := r.get("a"); p.Epoch != 7 {
		t.Error("a node that is down has forgotten its table")
	}
	if newer := r.put(peer{ID: "a", Boots: 4, Epoch: 3, State: Alive}); newer != 5 {
		t.Errorf("newer start %d, want 5", newer)
	}
	if p, _ := r.get("a"); p.Epoch != 3 || p.State != Dead || p.Boots != 5 {
		t.Errorf("an older copy of a node's directory: %+v, want epoch 3 and else what was", p)
	}
}
