package model

import "fmt"

// maxSlots and maxEpochs are what a table and its history have room for.
const (
	maxSlots  = 5
	maxEpochs = 14
)

// assignment says which node is in each slot: its number and one, or 0 for a hole.
type assignment [maxSlots]uint8

func (a assignment) members() (nodes set) {
	for _, n := range a {
		if n != 0 {
			nodes = nodes.with(n - 1)
		}
	}
	return nodes
}

// put lets a node, or a hole, take the place of what is in the first slot that holds another.
func (a assignment) put(n, inPlaceOf uint8) (assignment, bool) {
	for slot := range a {
		if a[slot] == inPlaceOf {
			a[slot] = n
			return a, true
		}
	}
	return a, false
}

// phases of a transition.
const (
	settled   uint8 = iota // there is none
	copying                // writes go to both assignments, the current one is read
	switching              // writes go to both, the target is read
)

// moveTable is the table of one epoch. Where there is no transition, the target is the
// current assignment.
type moveTable struct {
	current, target assignment
	removed         set
	phase           uint8
}

func (t *moveTable) members() set {
	return (t.current.members() | t.target.members()) &^ t.removed
}

// command changes the table.
type command struct {
	op commandKind
	// node joins, leaves or is removed; successor takes its slot, with replace set.
	node, successor uint8
	replace         bool
	// dead removes only a node that is off for good. It cannot answer with what it missed, so
	// that more may be removed: all but a read quorum.
	dead bool
}

type commandKind uint8

const (
	join commandKind = iota
	leave
	remove
)

func (c command) String() string {
	text := fmt.Sprint([]string{"join", "leave", "remove"}[c.op], " ", c.node)
	if c.replace {
		text += fmt.Sprint(", replaced by ", c.successor)
	}
	return text
}

// command returns the table after a command. It is done when the target follows it; a node
// that is removed while the target is read is marked first.
func (m *mover) command(t moveTable, c command) (next moveTable, done, ok bool) {
	if t.phase == switching {
		if !m.RemovalAtOnce || c.op != remove || t.removed.has(c.node) {
			return t, false, false
		}
		next = t
		next.removed = next.removed.with(c.node)
		return next, false, m.enoughLeft(&next, c.dead)
	}
	next = t
	switch {
	case c.op == join:
		next.target, ok = t.target.put(c.node+1, 0)
	case c.replace:
		next.target, ok = t.target.put(c.successor+1, c.node+1)
	default:
		next.target, ok = t.target.put(0, c.node+1)
	}
	if c.op == remove {
		next.removed = next.removed.with(c.node)
	}
	next.phase = copying
	if next.target == next.current {
		next.phase = settled
	}
	next.removed &= next.current.members() | next.target.members()
	return next, true, ok && next.target != assignment{} && m.enoughLeft(&next, c.dead)
}

// enoughLeft tells whether each assignment can be read and copied without the nodes that are
// removed, and not with them alone. If they are dead, the latter cannot be.
func (m *mover) enoughLeft(t *moveTable, dead bool) bool {
	if !m.RemovalBounded {
		return true
	}
	for _, a := range []assignment{t.current, t.target} {
		copies := min(m.scenario.copies, a.members().len())
		removed, ask := (a.members() & t.removed).len(), copies-copies/2
		if removed > copies-ask || removed >= ask && !dead {
			return false
		}
	}
	return true
}

// advanced returns the table with the next phase.
func (m *mover) advanced(t moveTable) moveTable {
	if t.phase == copying && m.SwitchPhase {
		t.phase = switching
		return t
	}
	t.current, t.phase = t.target, settled
	t.removed &= t.current.members()
	return t
}

// owned is who owns a series by one assignment.
type owned struct {
	owners     []uint8 // in the order of the copies
	set        set
	write, ask int // the write quorum and the read quorum
}

// placed is a table, and where it places each series.
type placed struct {
	moveTable
	byCurrent, byTarget []owned
}

// owners returns the owners of a series by either assignment.
func (p *placed) owners(series int) set { return p.byCurrent[series].set | p.byTarget[series].set }

// own places a series: its copies are in the first slots, in its own order, that are taken.
func (sc *moveScenario) own(series int, a assignment) owned {
	o := owned{}
	copies := min(sc.copies, a.members().len())
	for _, slot := range sc.series[series] {
		if n := a[slot]; n != 0 && len(o.owners) < copies {
			o.owners, o.set = append(o.owners, n-1), o.set.with(n-1)
		}
	}
	o.write = copies/2 + 1
	o.ask = copies - o.write + 1
	return o
}

// number returns the number of a table, which stands for it in states.
func (m *mover) number(t moveTable) uint8 {
	if n, known := m.numbers[t]; known {
		return n
	}
	p := &placed{moveTable: t}
	for i := range m.scenario.series {
		p.byCurrent = append(p.byCurrent, m.scenario.own(i, t.current))
		p.byTarget = append(p.byTarget, m.scenario.own(i, t.target))
	}
	n := uint8(len(m.tables))
	m.tables, m.numbers[t] = append(m.tables, p), n
	return n
}

// at returns the table of an epoch.
func (m *mover) at(s *moveState, epoch uint8) *placed { return m.tables[s.log[epoch]] }

// began returns the epoch with which the phase began that is under way at an epoch: those that
// follow it in the same phase, for the same target, change nothing about it.
func (m *mover) began(s *moveState, epoch uint8) uint8 {
	t := m.at(s, epoch)
	for ; epoch > 1; epoch-- {
		if before := m.at(s, epoch-1); before.phase != t.phase || before.target != t.target {
			break
		}
	}
	return epoch
}

// newest returns the last table that was agreed upon.
func (m *mover) newest(s *moveState) *placed { return m.at(s, s.newest) }

// agree adds a table to the history.
func (m *mover) agree(s *moveState, t moveTable) {
	s.newest++
	s.log[s.newest] = m.number(t)
}
