package table

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// model is a cluster whose members hear of tables late and in their own time. It knows
// what was acknowledged, and on which nodes it lies.
type model struct {
	rng *rand.Rand
	// history holds the tables by epoch, from 1.
	history []*Table
	// at is the epoch that each node has reported: synced, and in use.
	at     map[NodeID]uint64
	writes []write
	// hasty admits nodes without waiting for reports: the rule that the model is about.
	hasty bool
}

// write is an acknowledged sample.
type write struct {
	epoch     uint64
	confirmed []NodeID
}

func newModel(t *testing.T, seed uint64) *model {
	t.Helper()
	m := &model{rng: rand.New(rand.NewPCG(seed, 2)), at: map[NodeID]uint64{}}
	founders := []NodeID{"f0", "f1", "f2", "f3", "f4"}[:1+m.rng.IntN(5)]
	first, err := Apply(nil, foundCommand(1+m.rng.IntN(5), founders...))
	if err != nil {
		t.Fatal(err)
	}
	m.history = []*Table{first}
	for _, f := range founders {
		m.at[f] = 1
	}
	return m
}

func (m *model) newest() *Table         { return m.history[len(m.history)-1] }
func (m *model) table(id NodeID) *Table { return m.history[m.at[id]-1] }

func (m *model) step(t *testing.T) {
	t.Helper()
	switch m.rng.IntN(6) {
	case 0:
		m.propose(t, joinCommand(NodeID(fmt.Sprintf("j%d", m.rng.IntN(4))), ""))
	case 1:
		m.propose(t, Command{Kind: MarkWritten})
	case 2:
		m.admit(t)
	case 3, 4:
		m.hear()
	default:
		m.write()
	}
}

func (m *model) propose(t *testing.T, c Command) {
	t.Helper()
	next, err := Apply(m.newest(), c)
	if err != nil {
		t.Fatal(err)
	}
	if next != m.newest() {
		m.history = append(m.history, next)
	}
}

// admit is the leader's rule: all members have reported an epoch in which the joining
// nodes stand.
func (m *model) admit(t *testing.T) {
	t.Helper()
	newest := m.newest()
	var joining []NodeID
	for _, s := range newest.Slots {
		if s.Joining && (m.hasty || m.knownToAll(s.Node)) {
			joining = append(joining, s.Node)
		}
	}
	m.propose(t, Command{Kind: Admit, Nodes: joining})
}

func (m *model) knownToAll(id NodeID) bool {
	for _, member := range m.newest().Nodes() {
		if m.at[member] == 0 {
			return false
		}
		if _, known := m.table(member).SlotOf(id); !known {
			return false
		}
	}
	return true
}

// hear lets one member adopt any later table in which it stands.
func (m *model) hear() {
	nodes := m.newest().Nodes()
	id := nodes[m.rng.IntN(len(nodes))]
	later := m.history[m.at[id]:]
	if len(later) == 0 {
		return
	}
	next := later[m.rng.IntN(len(later))]
	if _, member := next.SlotOf(id); member {
		m.at[id] = next.Epoch
	}
}

// write has a write quorum of owners confirm at one epoch: only nodes at that epoch do.
func (m *model) write() {
	t := m.history[m.rng.IntN(len(m.history))]
	if !t.Writable() {
		return
	}
	var ready []NodeID
	for _, s := range t.Slots {
		if s.Owns() && m.at[s.Node] == t.Epoch {
			ready = append(ready, s.Node)
		}
	}
	if len(ready) < t.WriteQuorum() {
		return
	}
	m.rng.Shuffle(len(ready), func(i, j int) { ready[i], ready[j] = ready[j], ready[i] })
	m.writes = append(m.writes, write{t.Epoch, ready[:t.WriteQuorum()]})
}

// hidden finds a write that a reader at some node may miss: it asks all members of its
// table, those at other epochs refuse, and the worst of the others are out of reach.
func (m *model) hidden() error {
	for reader, epoch := range m.at {
		t := m.history[epoch-1]
		var answering, refusing []NodeID
		for _, id := range t.Nodes() {
			if m.at[id] == epoch {
				answering = append(answering, id)
			} else {
				refusing = append(refusing, id)
			}
		}
		// A refusal that arrives makes the reader begin again, so every refusing node has
		// to be out of reach, and those that confirmed are, as far as may be.
		spare := t.AnswerQuorum() - 1 - len(refusing)
		if spare < 0 {
			continue
		}
		for _, w := range m.writes {
			holders := 0
			for _, id := range answering {
				if slices.Contains(w.confirmed, id) {
					holders++
				}
			}
			if holders <= spare {
				return fmt.Errorf("%s at epoch %d answers without the write of epoch %d on %v", reader, epoch, w.epoch, w.confirmed)
			}
		}
	}
	return nil
}

// Whoever reads, at whatever epoch, with as many nodes out of reach as a complete answer
// allows: what was acknowledged is in the answer.
func TestEveryAnswerHoldsEveryWrite(t *testing.T) {
	for seed := range uint64(3000) {
		m := newModel(t, seed)
		for range 60 {
			m.step(t)
			if err := m.hidden(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// The model must be able to fail: without the wait for reports it does.
func TestModelCatchesHastyAdmission(t *testing.T) {
	for seed := range uint64(3000) {
		m := newModel(t, seed)
		m.hasty = true
		for range 60 {
			m.step(t)
			if m.hidden() != nil {
				return
			}
		}
	}
	t.Error("admitting nodes before everybody knows them broke nothing in 3000 histories")
}
