package model

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
)

// errTooMany says that a scenario has more states than were allowed for.
var errTooMany = errors.New("too many states")

// outcome is what an exploration came to.
type outcome struct {
	states int
	depth  int
	// err is what went wrong in the last state of the trace.
	err   error
	trace []string
}

func (o *outcome) String() string {
	if o.err == nil {
		return fmt.Sprintf("%d states, %d steps deep", o.states, o.depth)
	}
	return fmt.Sprintf("%v, after %d states:\n\t%s", o.err, o.states, strings.Join(o.trace, "\n\t"))
}

// step leads from an earlier state, by its number, to one.
type step struct {
	from uint32
	by   action
}

// explore visits all states, the nearest first, so that a trace is a shortest one. It stops
// at the first in which something is wrong, and with errTooMany after the limit.
func (m *machine) explore(limit int) *outcome {
	seed := maphash.MakeSeed()
	first := m.start()
	seen := map[uint64]struct{}{maphash.Comparable(seed, first): {}}
	steps := []step{{}}
	frontier, numbers := []state{first}, []uint32{0}
	out := &outcome{}
	for len(frontier) > 0 {
		var next []state
		var nextNumbers []uint32
		for i := range frontier {
			s := &frontier[i]
			if out.err = m.wrong(s); out.err == nil && len(steps) > limit {
				out.err = errTooMany
			}
			if out.err != nil {
				out.states, out.trace = len(steps), m.trace(steps, numbers[i])
				return out
			}
			if m.ended(s) {
				continue
			}
			for _, a := range m.actions {
				if !m.can(s, a) {
					continue
				}
				after := m.after(s, a)
				hash := maphash.Comparable(seed, after)
				if _, known := seen[hash]; known {
					continue
				}
				seen[hash] = struct{}{}
				next, nextNumbers = append(next, after), append(nextNumbers, uint32(len(steps)))
				steps = append(steps, step{from: numbers[i], by: a})
			}
		}
		frontier, numbers = next, nextNumbers
		out.depth++
	}
	out.states = len(steps)
	return out
}

// exhaust visits all states like explore, but the deepest first: it needs little memory, and
// finds long traces.
func (m *machine) exhaust(limit int) *outcome {
	v := &visit{machine: m, seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}, limit: limit}
	first := m.start()
	v.out.err = v.from(&first)
	v.out.states = len(v.seen)
	if v.out.err != nil {
		for _, a := range v.path {
			v.out.trace = append(v.out.trace, m.describe(a))
		}
	}
	return &v.out
}

// visit is a walk through all states.
type visit struct {
	*machine
	out   outcome
	seed  maphash.Seed
	seen  map[uint64]struct{}
	path  []action
	limit int
}

// from visits a state and those it leads to, unless it was here before.
func (v *visit) from(s *state) error {
	hash := maphash.Comparable(v.seed, *s)
	if _, known := v.seen[hash]; known {
		return nil
	}
	v.seen[hash] = struct{}{}
	v.out.depth = max(v.out.depth, len(v.path))
	if err := v.wrong(s); err != nil {
		return err
	}
	if len(v.seen) > v.limit {
		return errTooMany
	}
	if v.ended(s) {
		return nil
	}
	for _, a := range v.actions {
		if !v.can(s, a) {
			continue
		}
		after := v.after(s, a)
		v.path = append(v.path, a)
		if err := v.from(&after); err != nil {
			return err
		}
		v.path = v.path[:len(v.path)-1]
	}
	return nil
}

// wrong says what is wrong with a state.
func (m *machine) wrong(s *state) error {
	if err := m.check(s); err != nil {
		return err
	}
	return m.heal(s)
}

// trace returns the steps to a state.
func (m *machine) trace(steps []step, number uint32) []string {
	var lines []string
	for ; number != 0; number = steps[number].from {
		lines = append([]string{m.describe(steps[number].by)}, lines...)
	}
	return lines
}
