package model

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
)

// errTooMany says that a scenario has more states than were allowed for.
var errTooMany = errors.New("too many states")

// protocol is a model that can be explored. Its states are compared by what they hold, and
// have no padding.
type protocol[S comparable] interface {
	start() S
	// choices are all actions that there are; few are possible in any one state.
	choices() []action
	can(s *S, a action) bool
	do(s *S, a action)
	// wrong says what is wrong with a state, and ended that nothing can go wrong after it.
	wrong(s *S) error
	ended(s *S) bool
	describe(a action) string
}

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
func explore[S comparable](p protocol[S], limit int) *outcome {
	seed := maphash.MakeSeed()
	first := p.start()
	seen := map[uint64]struct{}{maphash.Comparable(seed, first): {}}
	steps := []step{{}}
	frontier, numbers := []S{first}, []uint32{0}
	out := &outcome{}
	actions, after := p.choices(), new(S)
	for len(frontier) > 0 {
		var next []S
		var nextNumbers []uint32
		for i := range frontier {
			s := &frontier[i]
			if out.err = p.wrong(s); out.err == nil && len(steps) > limit {
				out.err = errTooMany
			}
			if out.err != nil {
				out.states = len(steps)
				for n := numbers[i]; n != 0; n = steps[n].from {
					out.trace = append([]string{p.describe(steps[n].by)}, out.trace...)
				}
				return out
			}
			if p.ended(s) {
				continue
			}
			for _, a := range actions {
				if !p.can(s, a) {
					continue
				}
				*after = *s
				p.do(after, a)
				hash := maphash.Comparable(seed, *after)
				if _, known := seen[hash]; known {
					continue
				}
				seen[hash] = struct{}{}
				next, nextNumbers = append(next, *after), append(nextNumbers, uint32(len(steps)))
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
func exhaust[S comparable](p protocol[S], limit int) *outcome {
	v := &visit[S]{protocol: p, actions: p.choices(), seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}, limit: limit}
	first := p.start()
	v.out.err = v.from(&first)
	v.out.states = len(v.seen)
	if v.out.err != nil {
		for _, a := range v.path {
			v.out.trace = append(v.out.trace, p.describe(a))
		}
	}
	return &v.out
}

// visit is a walk through all states.
type visit[S comparable] struct {
	protocol[S]
	actions []action
	out     outcome
	seed    maphash.Seed
	seen    map[uint64]struct{}
	path    []action
	states  []*S // one for each step of the path, to be used again
	limit   int
}

// from visits a state and those it leads to, unless it was here before.
func (v *visit[S]) from(s *S) error {
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
	if len(v.states) == len(v.path) {
		v.states = append(v.states, new(S))
	}
	after := v.states[len(v.path)]
	for _, a := range v.actions {
		if !v.can(s, a) {
			continue
		}
		*after = *s
		v.do(after, a)
		v.path = append(v.path, a)
		if err := v.from(after); err != nil {
			return err
		}
		v.path = v.path[:len(v.path)-1]
	}
	return nil
}
