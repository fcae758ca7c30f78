package query

import "testing"

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name      string
		tally     tally
		allowed   int
		complete  bool
		hopeless  bool
		isSettled bool
	}{
		{"no nodes", tally{}, 0, false, false, true},
		{"alone, open", tally{nodes: 1, quorum: 1}, 0, false, false, false},
		{"alone, answered", tally{nodes: 1, quorum: 1, answered: 1}, 0, true, false, true},
		{"alone, failed", tally{nodes: 1, quorum: 1, failed: 1}, 0, false, true, true},
		{"three, all", tally{nodes: 3, quorum: 2, answered: 3}, 1, true, false, true},
		{"three, two answered, one open", tally{nodes: 3, quorum: 2, answered: 2}, 1, true, false, false},
		{"three, two answered, one failed", tally{nodes: 3, quorum: 2, answered: 2, failed: 1}, 1, true, false, true},
		{"three, one answered, one failed", tally{nodes: 3, quorum: 2, answered: 1, failed: 1}, 1, false, false, false},
		{"three, one answered, two failed", tally{nodes: 3, quorum: 2, answered: 1, failed: 2}, 1, false, true, true},
		{"three, once written by one", tally{nodes: 3, quorum: 1, answered: 2, failed: 1}, 0, false, true, true},
		{"five of quorum three, two failed", tally{nodes: 5, quorum: 3, answered: 3, failed: 2}, 2, true, false, true},
		{"ten, one failed", tally{nodes: 10, quorum: 2, answered: 9, failed: 1}, 1, true, false, true},
		{"ten, two failed", tally{nodes: 10, quorum: 2, answered: 8, failed: 2}, 1, false, true, true},
		{"never written, one answered", tally{nodes: 3, answered: 1, failed: 2}, 2, true, false, true},
		{"never written, nobody answered", tally{nodes: 3, failed: 3}, 2, false, true, true},
		{"fewer nodes than the quorum, none answered", tally{nodes: 1, quorum: 2, failed: 1}, 0, false, true, true},
		{"refused by a newer table", tally{nodes: 3, quorum: 2, answered: 2, failed: 1, ahead: true}, 1, false, true, true},
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
