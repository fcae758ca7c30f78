package model

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
)

// moveWalk is one random history of transitions. While it goes on, nodes are cut off or
// paused for a while, as in walk.
type moveWalk struct {
	*mover
	rng         *rand.Rand
	state       moveState
	cut, paused set
	trace       []action
	byKind      [][]action
	weighted    []int // kinds, each as often as it weighs
}

// run takes up to so many steps and says what went wrong.
func (w *moveWalk) run(steps int) error {
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
func (w *moveWalk) disturb() {
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
func (w *moveWalk) choose() (action, bool) {
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
func (w *moveWalk) reachable(a action) bool {
	k := &moveKinds[a.kind]
	away := w.paused
	if k.remote {
		away |= w.cut
	}
	return !(strings.Contains(k.numbers, "x") && away.has(a.x) ||
		strings.Contains(k.numbers, "y") && k.remote && away.has(a.y))
}

// migration draws a scenario: one to four nodes that become more and fewer.
func migration(rng *rand.Rand) moveScenario {
	sc := moveScenario{nodes: maxNodes, copies: 1 + rng.IntN(3), crashes: uint8(rng.IntN(3)), handoffs: 8}
	members := 1 + rng.IntN(4)
	for x := range uint8(members) {
		sc.slots[x] = x + 1
	}
	for range maxSeries {
		var order []uint8
		for _, slot := range rng.Perm(maxSlots) {
			order = append(order, uint8(slot))
		}
		sc.series = append(sc.series, order)
	}
	for range 3 {
		sc.samples = append(sc.samples, rng.IntN(maxSeries))
	}
	for range maxWrites {
		sc.writes = append(sc.writes, uint8(rng.IntN(len(sc.samples))))
	}
	for range maxReads {
		sc.reads = append(sc.reads, rng.IntN(maxSeries))
	}
	sc.commands = orders(rng, members)
	if members > 2 && sc.copies > 2 {
		// Only then can a node be lost, and only one.
		x := uint8(rng.IntN(members))
		switch rng.IntN(4) {
		case 0:
			sc.commands = []command{removes(x)}
			if spare := uint8(members); rng.IntN(2) == 0 {
				sc.commands[0] = removes(x).by(spare)
			}
			if members < 4 && rng.IntN(2) == 0 {
				sc.commands = append([]command{joins(4)}, sc.commands...)
			}
			sc.losses = 1
		case 1:
			sc.fragile = set(0).with(x)
		}
	}
	return sc
}

// orders draws commands that all can be followed.
func orders(rng *rand.Rand, members int) (list []command) {
	var in, out []uint8
	for x := range uint8(maxNodes) {
		if int(x) < members {
			in = append(in, x)
		} else {
			out = append(out, x)
		}
	}
	take := func(from *[]uint8) uint8 {
		i := rng.IntN(len(*from))
		x := (*from)[i]
		*from = append(append([]uint8{}, (*from)[:i]...), (*from)[i+1:]...)
		return x
	}
	for range 1 + rng.IntN(3) {
		switch {
		case len(out) > 0 && rng.IntN(3) == 0:
			gone, come := take(&in), take(&out)
			list = append(list, leaves(gone).by(come))
			in, out = append(in, come), append(out, gone)
		case len(in) > 1 && (len(out) == 0 || rng.IntN(2) == 0):
			gone := take(&in)
			list, out = append(list, leaves(gone)), append(out, gone)
		default:
			come := take(&out)
			list, in = append(list, joins(come)), append(in, come)
		}
	}
	return list
}

func newMoveWalk(r moveRules, seed uint64) *moveWalk {
	rng := rand.New(rand.NewPCG(seed, 9))
	w := &moveWalk{mover: newMover(r, migration(rng)), rng: rng}
	w.state = w.start()
	w.byKind = make([][]action, len(moveKinds))
	for _, a := range w.actions {
		w.byKind[a.kind] = append(w.byKind[a.kind], a)
	}
	for i, k := range moveKinds {
		for range cmp.Or(k.weight, 10) {
			w.weighted = append(w.weighted, i)
		}
	}
	return w
}

func (w *moveWalk) String() string {
	lines := []string{fmt.Sprintf("%+v", w.scenario)}
	for _, a := range w.trace {
		lines = append(lines, w.describe(a))
	}
	return strings.Join(lines, "\n\t")
}
