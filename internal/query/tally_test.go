package query

import (
	"slices"
	"testing"
)

// outcomes are so many that answered, failed and are open.
func outcomes(answered, failed, open int) []outcome {
	return slices.Concat(slices.Repeat([]outcome{hasAnswered}, answered), slices.Repeat([]outcome{hasFailed}, failed), make([]outcome, open))
}

// inZones has each two nodes share a zone, and zones suffice.
func inZones(told func(int) bool) int {
	zones := map[int]bool{}
	for node := range 6 {
		if told(node) {
			zones[node/2] = true
		}
	}
	return len(zones)
}

// twoGivenUp has two more nodes that were given up.
func twoGivenUp(told func(int) bool) int {
	n := 2
	for node := range 2 {
		if told(node) {
			n++
		}
	}
	return n
}

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name      string
		tally     tally
		allowed   int
		complete  bool
		hopeless  bool
		isSettled bool
	}{
		{"no nodes", tally{}, 0, false, true, true},
		{"alone, open", tally{outcomes: outcomes(0, 0, 1), quorum: 1}, 0, false, false, false},
		{"alone, answered", tally{outcomes: outcomes(1, 0, 0), quorum: 1}, 0, true, false, true},
		{"alone, failed", tally{outcomes: outcomes(0, 1, 0), quorum: 1}, 0, false, true, true},
		{"three, all", tally{outcomes: outcomes(3, 0, 0), quorum: 2}, 1, true, false, true},
		{"three, two answered, one open", tally{outcomes: outcomes(2, 0, 1), quorum: 2}, 1, true, false, false},
		{"three, two answered, one failed", tally{outcomes: outcomes(2, 1, 0), quorum: 2}, 1, true, false, true},
		{"three, one answered, one failed", tally{outcomes: outcomes(1, 1, 1), quorum: 2}, 1, false, false, false},
		{"three, one answered, two failed", tally{outcomes: outcomes(1, 2, 0), quorum: 2}, 1, false, true, true},
		{"three, once written by one", tally{outcomes: outcomes(2, 1, 0), quorum: 1}, 0, false, true, true},
		{"five of quorum three, two failed", tally{outcomes: outcomes(3, 2, 0), quorum: 3}, 2, true, false, true},
		{"ten, one failed", tally{outcomes: outcomes(9, 1, 0), quorum: 2}, 1, true, false, true},
		{"ten, two failed", tally{outcomes: outcomes(8, 2, 0), quorum: 2}, 1, false, true, true},
		{"never written, one answered", tally{outcomes: outcomes(1, 2, 0)}, 3, true, false, true},
		{"never written, nobody answered", tally{outcomes: outcomes(0, 3, 0)}, 3, false, true, true},
		{"fewer nodes than the quorum, none answered", tally{outcomes: outcomes(0, 1, 0), quorum: 2}, 1, false, true, true},
		{"a zone failed", tally{outcomes: []outcome{hasAnswered, hasAnswered, hasFailed, hasFailed, hasAnswered, hasAnswered}, quorum: 2, mostCopies: inZones}, 1, true, false, true},
		{"a zone failed, another is open", tally{outcomes: []outcome{hasAnswered, hasAnswered, hasFailed, hasFailed, hasAnswered, isOpen}, quorum: 2, mostCopies: inZones}, 1, false, false, false},
		{"one node of each of two zones failed", tally{outcomes: []outcome{hasAnswered, hasFailed, hasFailed, hasAnswered, hasAnswered, hasAnswered}, quorum: 2, mostCopies: inZones}, 1, false, true, true},
		{"more given up than the quorum spares, all others answered", tally{outcomes: outcomes(2, 0, 0), quorum: 2, mostCopies: twoGivenUp}, 1, true, false, true},
		{"more given up than the quorum spares, one is open", tally{outcomes: outcomes(1, 0, 1), quorum: 2, mostCopies: twoGivenUp}, 1, false, false, false},
		{"more given up than the quorum spares, one failed", tally{outcomes: outcomes(1, 1, 0), quorum: 2, mostCopies: twoGivenUp}, 1, false, true, true},
		{"refused by a newer table", tally{outcomes: outcomes(2, 1, 0), quorum: 2, ahead: true}, 1, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.tally.allowed(); got != c.allowed {
				t.Errorf("allowed: got %d, want %d", got, c.allowed)
			}
			if got := c.tally.complete(); got != c.complete {
				t.Errorf("complete: got %v, want %v", got, c.complete)
			}
			if got := c.tally.hopeless(); got != c.hopeless {
				t.Errorf("hopeless: got %v, want %v", got, c.hopeless)
			}
			if got := c.tally.settled(); got != c.isSettled {
				t.Errorf("settled: got %v, want %v", got, c.isSettled)
			}
		})
	}
}
