package model

import (
	"fmt"
	"strings"
)

// action is one step. What w, x and y are is said by its kind.
type action struct{ kind, w, x, y uint8 }

// kind is a sort of action of a protocol M with states S: when it is possible, and what it
// does.
type kind[M, S any] struct {
	name string // with %w, %x and %y
	// numbers are what its actions are about: a write (w), a read (r) or a series (s), and
	// up to two nodes (x, y).
	numbers string
	can     func(m M, s *S, a action) bool
	do      func(m M, s *S, a action)
	// remote actions are messages that arrive, between x and y or between x and a
	// coordinator.
	remote bool
	// weight is how often the random walks choose it, against the others; 0 is 10.
	weight int
}

// word is the first of the name.
func (k *kind[M, S]) word() string {
	word, _, _ := strings.Cut(k.name, ":")
	return word
}

func (k *kind[M, S]) describe(a action) string {
	return strings.NewReplacer("%w", fmt.Sprint(a.w), "%x", fmt.Sprint(a.x), "%y", fmt.Sprint(a.y)).Replace(k.name)
}

// about returns the nodes that an action takes part of, and among them those it has messages
// from or to.
func (k *kind[M, S]) about(a action) (nodes, remote set) {
	if strings.Contains(k.numbers, "x") {
		nodes = nodes.with(a.x)
	}
	if k.remote {
		remote = nodes
		if strings.Contains(k.numbers, "y") {
			remote = remote.with(a.y)
		}
	}
	return nodes, remote
}

// actionsOf returns all actions of some kinds, with so many of each thing that has a number.
func actionsOf[M, S any](kinds []kind[M, S], nodes uint8, writes, reads, series int) (all []action) {
	for i, k := range kinds {
		count := func(letter string, n int) uint8 {
			if strings.Contains(k.numbers, letter) {
				return uint8(n)
			}
			return 1
		}
		for w := range count("w", writes) * count("r", reads) * count("s", series) {
			for x := range count("x", int(nodes)) {
				for y := range count("y", int(nodes)) {
					if y != x || !strings.Contains(k.numbers, "y") {
						all = append(all, action{uint8(i), w, x, y})
					}
				}
			}
		}
	}
	return all
}
