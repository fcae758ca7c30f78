package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/starling-tsdb/starling/internal/table"
)

// machine is the protocol in a scenario.
type machine struct {
	rules
	scenario scenario
	actions  []action   // all that can be asked for; few are possible in any one state
	pairs    [][2]uint8 // of nodes
	assigned *table.Assignment
	decided  map[question]set // who serves, so far
}

var kinds = append(append(writing, handingOff...), reading...)

func newMachine(r rules, sc scenario) *machine {
	m := &machine{rules: r, scenario: sc, decided: map[question]set{}}
	m.assigned = &table.Assignment{ReplicationFactor: sc.copies(0)}
	for x := range sc.nodes {
		m.assigned.Slots = append(m.assigned.Slots, table.Slot{Node: nodeID(x)})
	}
	for x := range sc.nodes {
		for y := range sc.nodes {
			if x != y {
				m.pairs = append(m.pairs, [2]uint8{x, y})
			}
		}
	}
	m.actions = actionsOf(kinds, sc.nodes, len(sc.writes), len(sc.reads), 0)
	return m
}

func (m *machine) choices() []action { return m.actions }

func (m *machine) can(s *state, a action) bool { return kinds[a.kind].can(m, s, a) }

func (m *machine) do(s *state, a action) { kinds[a.kind].do(m, s, a) }

func (m *machine) about(a action) (nodes, remote set) { return kinds[a.kind].about(a) }

func (m *machine) weight(kind uint8) int { return kinds[kind].weight }

// wrong says what is wrong with a state.
func (m *machine) wrong(s *state) error {
	if err := m.check(s); err != nil {
		return err
	}
	return m.heal(s)
}

func (m *machine) describe(a action) string { return kinds[a.kind].describe(a) }

// check says what a read that succeeded got wrong.
func (m *machine) check(s *state) error {
	for i, q := range m.scenario.reads {
		r := &s.reads[i]
		if r.phase != done {
			continue
		}
		if missing := r.needed &^ r.result; missing != 0 {
			return fmt.Errorf("read %d lacks the samples %v, acknowledged before it began", i, missing)
		}
		if invented := r.result &^ m.scenario.matching(q); invented != 0 {
			return fmt.Errorf("read %d has the samples %v, which are not of its series and range", i, invented)
		}
	}
	return nil
}

// ended tells that no read can go wrong any more.
func (m *machine) ended(s *state) bool {
	for i := range m.scenario.reads {
		if s.reads[i].phase < done {
			return false
		}
	}
	return true
}

// heal ends all hand-offs that can be ended while nothing new is written and nobody fails.
// It returns what is then still not as it should be.
func (m *machine) heal(before *state) error {
	s := *before
	s.handoffs = 255
	try := func(kind, x, y uint8) {
		if a := (action{kind: kind, x: x, y: y}); m.can(&s, a) {
			kinds[kind].do(m, &s, a)
		}
	}
	for _, p := range m.pairs {
		try(firmKind, p[0], p[1])
		try(timeoutKind, p[0], p[1])
	}
	for range 6 { // as many windows as there are times, and some for notes
		open := false
		for _, p := range m.pairs {
			if s.pairs[p[0]][p[1]].gap == never {
				continue
			}
			open = true
			for _, kind := range handoffKinds {
				try(kind, p[0], p[1])
			}
			m.sync(&s, action{x: p[1]})
			try(advanceKind, p[0], p[1])
			try(saveKind, p[0], p[1])
		}
		if !open {
			break
		}
	}
	return m.unhealed(&s)
}

func (m *machine) unhealed(s *state) error {
	for _, p := range m.pairs {
		if s.pairs[p[0]][p[1]].gap != never {
			return fmt.Errorf("node %d's gap for node %d does not close", p[0], p[1])
		}
	}
	for i, sm := range m.scenario.samples {
		for _, n := range m.scenario.owners[sm.series] {
			if s.acked.has(uint8(i)) && !s.nodes[n].missing && !s.nodes[n].holds().has(uint8(i)) {
				return fmt.Errorf("all gaps are closed, and node %d lacks the acknowledged sample %d", n, i)
			}
		}
	}
	return nil
}

// The kinds that heal uses.
var (
	firmKind     = kindOf("firm:")
	timeoutKind  = kindOf("timeout:")
	handoffKinds = []uint8{kindOf("open:"), kindOf("window:"), kindOf("stop:"), kindOf("send:")}
	advanceKind  = kindOf("advance:")
	saveKind     = kindOf("save:")
)

func kindOf(word string) uint8 {
	return uint8(slices.IndexFunc(kinds, func(k kind[*machine, state]) bool { return strings.HasPrefix(k.name, word) }))
}
