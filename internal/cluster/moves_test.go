package cluster

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/table"
)

// moves is a world that watches over transitions: a phase may end only when everybody whom
// it waits for is there, and all who adopt an epoch adopt the same table.
type moves struct {
	*world
	mu     sync.Mutex
	last   map[table.NodeID]*node // the last start of each node, also of those that are down
	held   map[string]bool        // nodes that lack data
	tables map[uint64]*table.Table
	ended  int // phases
	onEnd  func()
	faults []string
}

// inMoves runs a test on nodes 1..n that founded a cluster together, or one alone.
func inMoves(t *testing.T, n int, test func(m *moves)) {
	t.Helper()
	inWorld(t, func(w *world) {
		m := &moves{
			world: w, last: make(map[table.NodeID]*node), held: make(map[string]bool),
			tables: make(map[uint64]*table.Table), onEnd: func() {},
		}
		for i := 1; i <= n; i++ {
			m.founder(i, n)
		}
		w.agree(30*time.Second, n)
		test(m)
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, f := range m.faults {
			w.Error(f)
		}
	})
}

func (m *moves) founder(i, expect int) *node {
	m.Helper()
	return m.watch(i, func(c *Config) { c.Find.BootstrapExpect = expect })
}

// begin starts node i, new or again.
func (m *moves) begin(i int) *node {
	m.Helper()
	return m.watch(i, func(*Config) {})
}

func (m *moves) watch(i int, change func(*Config)) *node {
	m.Helper()
	name := nodeName(i)
	var self *Cluster
	n := m.start(name, ip(i), func(c *Config) {
		c.Find.Join = seeds(1, 2, 3)
		change(c)
		adopt := c.Adopt
		c.Adopt = func(old, t *table.Table) {
			adopt(old, t)
			m.adopted(name, t)
		}
		c.Ready = func() uint64 {
			if m.mu.Lock(); m.held[name] {
				defer m.mu.Unlock()
				return 0
			}
			m.mu.Unlock()
			return self.present()
		}
	}, func(c *Cluster) { self = c })
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last[n.c.Self()] = n
	return n
}

// adopted checks a table that a node adopts.
func (m *moves) adopted(name string, t *table.Table) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if first := m.tables[t.Epoch]; first != nil {
		a, _ := table.Encode(first)
		b, _ := table.Encode(t)
		if !bytes.Equal(a, b) {
			m.faults = append(m.faults, fmt.Sprintf("%s adopts at epoch %d\n%s, another node adopted\n%s", name, t.Epoch, b, a))
		}
		return
	}
	m.tables[t.Epoch] = t
	before := m.tables[t.Epoch-1]
	if before == nil || before.Transition == nil || phase(t) == table.Copying && phase(before) == table.Copying {
		return
	}
	if phase(t) == phase(before) || phase(before) == table.Copying && phase(t) == "" {
		return // a command that waits, or one that takes the target back
	}
	m.ended++
	reports := make(map[table.NodeID]report)
	for id, n := range m.last {
		if has := n.c.Table(); has != nil {
			reports[id] = report{epoch: has.Epoch}
			if !m.held[n.name] {
				reports[id] = report{has.Epoch, before.Transition.Began}
			}
		}
	}
	if late := awaited(before, reports); len(late) > 0 {
		m.faults = append(m.faults, fmt.Sprintf("epoch %d ends the %s phase while it waits for %v", t.Epoch, phase(before), late))
	}
	if phase(t) == "" {
		m.onEnd()
	}
}

func phase(t *table.Table) table.Phase {
	if t == nil || t.Transition == nil {
		return ""
	}
	return t.Transition.Phase
}

// hold has a node lack data until it is released.
func (m *moves) hold(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[nodeName(i)] = true
}

func (m *moves) release(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, nodeName(i))
	for _, n := range m.last {
		n.c.Announce()
	}
}

// node returns the last start of node i.
func (m *moves) node(i int) *node {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.last {
		if n.name == nodeName(i) {
			return n
		}
	}
	return nil
}

func (m *moves) ids(is ...int) []table.NodeID {
	var ids []table.NodeID
	for _, i := range is {
		ids = append(ids, m.node(i).c.Self())
	}
	return ids
}

// reaches waits until all running nodes but some are in a phase, all in the same epoch.
func (m *moves) reaches(p table.Phase, but ...*node) {
	m.Helper()
	m.eventually(time.Minute, fmt.Sprintf("phase %q", p), func() bool { return m.all(p, but...) })
}

func (m *moves) all(p table.Phase, but ...*node) bool {
	epoch := uint64(0)
	for _, n := range m.nodes {
		if slices.Contains(but, n) {
			continue
		}
		t := n.c.Table()
		if t == nil || phase(t) != p || epoch != 0 && t.Epoch != epoch {
			return false
		}
		epoch = t.Epoch
	}
	return true
}

// stays expects the phase not to end for a long time.
func (m *moves) stays(p table.Phase, when string, but ...*node) {
	m.Helper()
	for range 60 {
		time.Sleep(time.Second)
		if !m.all(p, but...) {
			m.end()
			m.Fatalf("%s: phase %q has ended", when, p)
		}
	}
}

// settled waits until the nodes are all the members, there is no transition, everybody who
// runs knows that, and Raft's servers are the members.
func (m *moves) settled(members ...int) {
	m.Helper()
	want := m.ids(members...)
	slices.Sort(want)
	m.Logf("settled after %v", m.eventually(2*time.Minute, fmt.Sprintf("members %v, and no transition", members), func() bool {
		for _, n := range m.nodes {
			t := n.c.Table()
			if t == nil || t.Transition != nil || !slices.Equal(slices.Sorted(slices.Values(t.Nodes())), want) {
				return false
			}
		}
		return m.all("")
	}))
	m.eventually(time.Minute, fmt.Sprintf("Raft's servers are %v", members), func() bool {
		t := m.leader().c.Table()
		voters, others := m.servers()
		servers := slices.Sorted(slices.Values(slices.Concat(voters, others)))
		first := t.Current.Nodes()
		first = first[:min(len(first), 5)]
		slices.Sort(first)
		return slices.Equal(servers, want) && slices.Equal(voters, first)
	})
}

// servers returns who votes in Raft and who does not, as the leader has it.
func (m *moves) servers() (voters, others []table.NodeID) {
	m.Helper()
	f := m.leader().c.consensus().running().GetConfiguration()
	if f.Error() != nil {
		return nil, nil
	}
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, table.NodeID(s.ID))
		} else {
			others = append(others, table.NodeID(s.ID))
		}
	}
	slices.Sort(voters)
	return voters, others
}

// handOver has another node lead.
func (m *moves) handOver() {
	m.Helper()
	old := m.leader()
	if err := old.c.consensus().running().LeadershipTransfer().Error(); err != nil {
		m.Fatal(err)
	}
	m.eventually(time.Minute, "another one leads", func() bool { return !old.c.consensus().leading() && m.leader() != old })
}

// follower returns the number of a founder among 1..3 that does not lead.
func (m *moves) follower() int {
	m.Helper()
	leader := m.leader()
	for i := 1; ; i++ {
		if n := m.node(i); n != leader {
			return i
		}
	}
}

func (n *node) number() int {
	var i int
	_, _ = fmt.Sscanf(n.name, "node%d", &i)
	return i
}

func (n *node) member() bool {
	t := n.c.Table()
	return t != nil && t.Member(n.c.Self())
}

func leave(ids ...table.NodeID) table.Command {
	return table.Command{Kind: table.Leave, Nodes: ids}
}

func remove(ids ...table.NodeID) table.Command {
	return table.Command{Kind: table.Remove, Nodes: ids}
}
