package model

import (
	"cmp"
	"math/rand/v2"
	"strings"
)

// walkable is a protocol that random histories can follow.
type walkable[S comparable] interface {
	protocol[S]
	// check says what is wrong with the answers that a state holds, heal with what is left
	// once everything has come to rest.
	check(s *S) error
	heal(s *S) error
	// about returns the nodes that take part in an action, and those of them that messages
	// come from or go to. Actions of a kind are chosen as often as it weighs.
	about(a action) (nodes, remote set)
	weight(kind uint8) int
}

// walk is one random history. While it goes on, nodes are cut off or paused for a while: no
// message reaches them or comes from them, and a paused one does nothing at all.
type walk[S comparable] struct {
	walkable[S]
	rng         *rand.Rand
	nodes       uint8
	state       S
	cut, paused set
	trace       []action
	byKind      [][]action
	weighted    []uint8 // kinds, each as often as it weighs
}

func startWalk[S comparable](p walkable[S], nodes uint8, rng *rand.Rand) *walk[S] {
	w := &walk[S]{walkable: p, rng: rng, nodes: nodes, state: p.start()}
	for _, a := range p.choices() {
		for int(a.kind) >= len(w.byKind) {
			kind := uint8(len(w.byKind))
			w.byKind = append(w.byKind, nil)
			for range cmp.Or(p.weight(kind), 10) {
				w.weighted = append(w.weighted, kind)
			}
		}
		w.byKind[a.kind] = append(w.byKind[a.kind], a)
	}
	return w
}

// run takes up to so many steps and says what went wrong.
func (w *walk[S]) run(steps int) error {
	for range steps {
		w.disturb()
		a, ok := w.choose()
		if !ok {
			continue
		}
		w.do(&w.state, a)
		w.trace = append(w.trace, a)
		if err := w.check(&w.state); err != nil {
			return err
		}
	}
	return w.heal(&w.state)
}

// disturb now and then changes who is cut off or paused.
func (w *walk[S]) disturb() {
	x := uint8(w.rng.IntN(int(w.nodes)))
	switch w.rng.IntN(40) {
	case 0:
		w.cut = w.cut.with(x)
	case 1:
		w.paused = w.paused.with(x)
	case 2, 3, 4, 5, 6, 7:
		w.cut, w.paused = w.cut.without(x), w.paused.without(x)
	}
}

// choose returns one of the possible actions: a kind by its weight, and then any of it.
func (w *walk[S]) choose() (action, bool) {
	for range 30 {
		of := w.byKind[w.weighted[w.rng.IntN(len(w.weighted))]]
		if len(of) == 0 {
			continue
		}
		first := w.rng.IntN(len(of))
		for i := range of {
			a := of[(first+i)%len(of)]
			if !w.can(&w.state, a) {
				continue
			}
			if nodes, remote := w.about(a); nodes&w.paused == 0 && remote&(w.cut|w.paused) == 0 {
				return a, true
			}
		}
	}
	return action{}, false
}

// String returns the steps.
func (w *walk[S]) String() string {
	var lines []string
	for _, a := range w.trace {
		lines = append(lines, "\n\t"+w.describe(a))
	}
	return strings.Join(lines, "")
}

// flock draws a scenario: five nodes, three series on different owners, writes and retries
// of early and late samples, reads of either range.
func flock(rng *rand.Rand) scenario {
	sc := scenario{
		nodes: 5, owners: [][]uint8{{0, 1, 2}, {1, 2, 3}, {4, 0, 2}},
		crashes: uint8(rng.IntN(4)), refusals: uint8(rng.IntN(2)), handoffs: 12, late: rng.IntN(2) == 0,
	}
	if rng.IntN(2) == 0 {
		sc.losses = uint8(rng.IntN(2))
	} else {
		sc.damages = uint8(rng.IntN(2))
	}
	for range 3 {
		sc.samples = append(sc.samples, sample{rng.IntN(3), instant(rng.IntN(3))})
	}
	for range maxWrites {
		sc.writes = append(sc.writes, uint8(rng.IntN(len(sc.samples))))
	}
	for range maxReads {
		sc.reads = append(sc.reads, query{rng.IntN(3), instant(rng.IntN(3))})
	}
	for x := range uint8(5) {
		if y := uint8(rng.IntN(5)); y != x && rng.IntN(4) == 0 {
			sc.gaps = append(sc.gaps, gap{x, y, instant(rng.IntN(3))})
		}
	}
	return sc
}

// newWalk also returns the scenario.
func newWalk(r rules, seed uint64) (*walk[state], scenario) {
	rng := rand.New(rand.NewPCG(seed, 8))
	sc := flock(rng)
	return startWalk(newMachine(r, sc), sc.nodes, rng), sc
}
