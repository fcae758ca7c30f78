package model

import "math/rand/v2"

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
	x, spare := uint8(rng.IntN(members)), uint8(members)
	// Only one node is lost, and not the only copy.
	if members > 1 && sc.copies == 2 && rng.IntN(4) == 0 {
		sc.commands, sc.losses = []command{removes(x)}, 1
		if rng.IntN(2) == 0 {
			sc.commands[0] = removes(x).by(spare)
		}
		sc.commands[0].dead = true
	}
	if members > 2 && sc.copies > 2 {
		if rng.IntN(4) == 0 {
			sc.commands = []command{removes(x)}
			if rng.IntN(2) == 0 {
				sc.commands[0] = removes(x).by(spare)
			}
			if members < 4 && rng.IntN(2) == 0 {
				sc.commands = append([]command{joins(4)}, sc.commands...)
			}
			sc.losses = 1
		}
	}
	if sc.losses == 0 && sc.copies > 1 {
		all := set(0).with(maxNodes) - 1
		sc.late = rng.IntN(2) == 0
		switch rng.IntN(4) {
		case 0:
			sc.fragile = all
		case 1:
			sc.aged = all
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

// newMoveWalk also returns the protocol in its scenario.
func newMoveWalk(r moveRules, seed uint64) (*walk[moveState], *mover) {
	rng := rand.New(rand.NewPCG(seed, 9))
	m := newMover(r, migration(rng))
	return startWalk(m, m.scenario.nodes, rng), m
}
