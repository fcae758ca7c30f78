package model

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
)

// walk is one random history. While it goes on, nodes are cut off or paused for a while: no
// message reaches them or comes from them, and a paused one does nothing at all.
type walk struct {
	*machine
	rng         *rand.Rand
	state       state
	cut, paused set
	trace       []action
	byKind      [][]action
	weighted    []int // kinds, each as often as it weighs
}

// run takes up to so many steps and says what went wrong.
func (w *walk) run(steps int) error {
	for range steps {
		w.disturb()
		a, ok := w.choose()
		if !ok {
			continue
		}
		kinds[a.kind].do(w.machine, &w.state, a)
		w.trace = append(w.trace, a)
		if err := w.check(&w.state); err != nil {
			return err
		}
	}
	return w.heal(&w.state)
}

// disturb now and then changes who is cut off or paused.
func (w *walk) disturb() {
	x := uint8(w.rng.IntN(int(w.scenario.nodes)))
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
func (w *walk) choose() (action, bool) {
	for range 30 {
		of := w.byKind[w.weighted[w.rng.IntN(len(w.weighted))]]
		if len(of) == 0 {
			continue
		}
		first := w.rng.IntN(len(of))
		for i := range of {
			if a := of[(first+i)%len(of)]; w.reachable(a) && w.can(&w.state, a) {
				return a, true
			}
		}
	}
	return action{}, false
}

// reachable tells whether no node that an action is about is cut off or paused.
func (w *walk) reachable(a action) bool {
	k := &kinds[a.kind]
	away := w.paused
	if k.remote {
		away |= w.cut
	}
	return !(strings.Contains(k.numbers, "x") && away.has(a.x) ||
		strings.Contains(k.numbers, "y") && k.remote && away.has(a.y))
}

// flock draws a scenario: five nodes, three series on different owners, writes and retries
// of early and late samples, reads of either range.
func flock(rng *rand.Rand) scenario {
	sc := scenario{
		nodes: 5, owners: [][]uint8{{0, 1, 2}, {1, 2, 3}, {4, 0, 2}},
		crashes: uint8(rng.IntN(4)), refusals: uint8(rng.IntN(2)), handoffs: 12,
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

func newWalk(r rules, seed uint64) *walk {
	rng := rand.New(rand.NewPCG(seed, 8))
	w := &walk{machine: newMachine(r, flock(rng)), rng: rng}
	w.state = w.start()
	w.byKind = make([][]action, len(kinds))
	for _, a := range w.actions {
		w.byKind[a.kind] = append(w.byKind[a.kind], a)
	}
	for i, k := range kinds {
		for range cmp.Or(k.weight, 10) {
			w.weighted = append(w.weighted, i)
		}
	}
	return w
}

func (w *walk) String() string {
	lines := []string{fmt.Sprintf("%+v", w.scenario)}
	for _, a := range w.trace {
		lines = append(lines, w.describe(a))
	}
	return strings.Join(lines, "\n\t")
}
