package model

import (
	"fmt"
	"hash/maphash"
	"slices"
)

// mover is the protocol of transitions in a scenario.
type mover struct {
	moveRules
	scenario moveScenario
	actions  []action
	samples  []set     // by series
	tables   []*placed // that came up so far
	numbers  map[moveTable]uint8
	decided  map[moveQuestion]set // who serves, so far
	healing  []action             // those that heal uses
	healed   map[uint64]struct{}  // the hashes of states that can be healed, so far
	seed     maphash.Seed
}

var moveKinds = slices.Concat(moveWriting, adopting, moving, leading, mending, moveReading)

func newMover(r moveRules, sc moveScenario) *mover {
	m := &mover{
		moveRules: r, scenario: sc, numbers: map[moveTable]uint8{}, decided: map[moveQuestion]set{},
		healed: map[uint64]struct{}{}, seed: maphash.MakeSeed(),
	}
	for series := range sc.series {
		m.samples = append(m.samples, sc.of(series))
	}
	m.actions = actionsOf(moveKinds, sc.nodes, len(sc.writes), len(sc.reads), len(sc.series))
	for _, a := range m.actions {
		if slices.Contains(healing, moveKinds[a.kind].word()) {
			m.healing = append(m.healing, a)
		}
	}
	return m
}

func (m *mover) choices() []action { return m.actions }

func (m *mover) can(s *moveState, a action) bool {
	k := &moveKinds[a.kind]
	if s.nodes[a.x].gone != 0 && k.numbers != "" && k.numbers != "w" {
		return false
	}
	return k.can(m, s, a)
}

func (m *mover) do(s *moveState, a action) { moveKinds[a.kind].do(m, s, a) }

func (m *mover) describe(a action) string { return moveKinds[a.kind].describe(a) }

func (m *mover) about(a action) (nodes, remote set) { return moveKinds[a.kind].about(a) }

func (m *mover) weight(kind uint8) int { return moveKinds[kind].weight }

// ended tells that no read can go wrong any more. Without reads it is all about what is kept.
func (m *mover) ended(s *moveState) bool {
	if len(m.scenario.reads) == 0 {
		return false
	}
	for i := range m.scenario.reads {
		if s.reads[i].phase < done {
			return false
		}
	}
	return true
}

// wrong says what is wrong with a state.
func (m *mover) wrong(s *moveState) error {
	if err := m.check(s); err != nil {
		return err
	}
	return m.heal(s)
}

// check says what a read that succeeded got wrong.
func (m *mover) check(s *moveState) error {
	for i := range m.scenario.reads {
		if r := &s.reads[i]; r.phase == broken {
			if missing := r.needed &^ r.result; missing != 0 {
				return fmt.Errorf("read %d lacks the samples %v, acknowledged before it began", i, missing)
			}
			return fmt.Errorf("read %d has the samples %v, which include some of other series", i, r.result)
		}
	}
	return nil
}

// healing are the kinds that heal uses.
var healing = []string{
	"adopt", "vouch", "copy", "sync", "ready", "open", "send", "close", "command", "advance", "renew", "mend", "propose", "apply",
}

// heal lets everybody come back and do all there is to do, without a new write. It returns
// what is then still not as it should be. That depends neither on reads nor on how far
// writes are, so that it is known for many states.
func (m *mover) heal(before *moveState) error {
	s := *before
	s.handoffs, s.crashes, s.losses, s.fragile, s.aged = 255, 0, 0, 0, 0
	s.writes, s.reads = [maxWrites]moveWrite{}, [maxReads]moveRead{}
	for x := range m.scenario.nodes {
		s.nodes[x].copies = [maxSeries]moveCopy{}
		for y := range m.scenario.nodes {
			s.pairs[x][y] = movePair{gap: s.pairs[x][y].gap}
		}
	}
	hash := maphash.Comparable(m.seed, s)
	if _, known := m.healed[hash]; known {
		return nil
	}
	for moved := true; moved; {
		moved = false
		for _, a := range m.healing {
			if m.can(&s, a) {
				m.do(&s, a)
				moved = true
			}
		}
	}
	err := m.unhealed(&s)
	if err == nil {
		m.healed[hash] = struct{}{}
	}
	return err
}

func (m *mover) unhealed(s *moveState) error {
	t := m.newest(s)
	if t.phase != settled {
		return fmt.Errorf("the transition does not end: %+v", t.moveTable)
	}
	if m.canFollow(s) {
		return fmt.Errorf("the command %v is not followed", m.scenario.commands[s.next])
	}
	members := t.members()
	for x := range m.scenario.nodes {
		n := &s.nodes[x]
		if !members.has(x) || n.gone != 0 {
			continue
		}
		for y := range m.scenario.nodes {
			if s.pairs[x][y].gap != 0 && members.has(y) && s.nodes[y].gone == 0 {
				return fmt.Errorf("node %d's gap for node %d does not close", x, y)
			}
		}
		if n.damaged != 0 {
			return fmt.Errorf("node %d does not make its damage good", x)
		}
		if missing := s.acked & m.ownedBy(x, t.byCurrent) &^ n.holds(); missing != 0 {
			return fmt.Errorf("all has ended, and node %d lacks the acknowledged samples %v", x, missing)
		}
	}
	return nil
}
