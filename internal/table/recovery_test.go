package table

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// branch is a table with the one that it came from.
type branch struct {
	*Table
	from      *branch
	recovered bool // by a recovery, not by a command
}

// grow makes a tree of tables: recoveries branch off wherever survivors may have stood.
func grow(seed uint64) ([]*branch, error) {
	h, err := newHistory(seed)
	if err != nil {
		return nil, err
	}
	tree := []*branch{{Table: h.now}}
	for i := range 25 {
		at := tree[h.rng.IntN(len(tree))]
		if h.rng.IntN(4) == 0 {
			// Two who know nothing of each other take the same number now and then.
			next, err := Recover(at.Table, fmt.Sprintf("R%d", i), Generation(at.Epoch)+1+h.rng.Uint64N(2))
			if err != nil {
				return nil, err
			}
			tree = append(tree, &branch{next, at, true})
			continue
		}
		// Within a generation there is one history: only its end goes on.
		last := !contains(tree, func(b *branch) bool { return b.from == at && !b.recovered })
		h.now = at.Table
		if next, err := Apply(at.Table, h.command()); err == nil && next != at.Table && last {
			tree = append(tree, &branch{Table: next, from: at})
		}
	}
	return tree, nil
}

func contains(tree []*branch, which func(*branch) bool) bool {
	for _, b := range tree {
		if which(b) {
			return true
		}
	}
	return false
}

// leadsTo is what Precedes has to find out without the tree.
func (b *branch) leadsTo(to *branch) bool {
	later := Generation(to.Epoch) > Generation(b.Epoch)
	for at := b; ; at = at.from {
		for up := to; up != nil; up = up.from {
			if up == at && to.Epoch > b.Epoch && (at == b || later) {
				return true
			}
		}
		if !at.recovered {
			return false
		}
	}
}

func TestPrecedes(t *testing.T) {
	yes, no := 0, 0
	for seed := range uint64(1500) {
		tree, err := grow(seed)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range tree {
			checkFile(t, a.Table)
			for _, b := range tree {
				want := a.leadsTo(b)
				if got := a.Precedes(b.Table); got != want {
					t.Fatalf("seed %d: epoch %d %v precedes epoch %d %v: %t", seed, a.Epoch, a.Recoveries, b.Epoch, b.Recoveries, got)
				}
				if want {
					yes++
				} else if Generation(a.Epoch) < Generation(b.Epoch) {
					no++
				}
				if a != b && a.Epoch == b.Epoch && a.Lineage() == b.Lineage() {
					t.Fatalf("seed %d: two tables of epoch %d in %s", seed, a.Epoch, a.Lineage())
				}
			}
		}
	}
	if yes < 10_000 || no < 10_000 {
		t.Errorf("%d pairs of one history, %d of two", yes, no)
	}
}

// A recovery places as before, on epochs above all that the generation can reach, and no
// report of the old phase counts in the new one.
func TestRecover(t *testing.T) {
	for seed := range uint64(2000) {
		h, err := newHistory(seed)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := h.step(h.command()); err != nil {
				t.Fatal(err)
			}
		}
		was := h.now
		if h.now, err = Recover(was, "R1", 1+rand.Uint64N(5)); err != nil {
			t.Fatal(err)
		}
		if Generation(h.now.Epoch) != h.now.Recovery().Generation || h.now.Recovery().From != was.Epoch || !was.Precedes(h.now) {
			t.Fatalf("seed %d: %s became %s", seed, show(was), show(h.now))
		}
		if !was.Current.equal(&h.now.Current) || !was.Target().equal(h.now.Target()) || h.now.Transition != nil && h.now.Transition.Began != h.now.Epoch {
			t.Fatalf("seed %d: %s became %s", seed, show(was), show(h.now))
		}
		for range 10 {
			if err := h.step(h.command()); err != nil {
				t.Fatalf("seed %d: %s: %v", seed, show(h.now), err)
			}
		}
		if err := h.end(); err != nil {
			t.Fatalf("seed %d: %s: %v", seed, show(h.now), err)
		}
	}
}

func TestGenerationsDoNotOverlap(t *testing.T) {
	last := settled(3, "abc")
	last.Epoch = generationEpochs - 1
	if next, err := Apply(last, Command{Kind: Pause}); err == nil {
		t.Errorf("epoch %d of the next generation by a command", next.Epoch)
	}
}

func TestRecoveriesAreChecked(t *testing.T) {
	good, err := Recover(settled(3, "abc"), "R1", 2)
	if err != nil {
		t.Fatal(err)
	}
	for says, spoil := range map[string]func(*Table){
		"letters and digits": func(t *Table) { t.Recoveries[0].ID = "../raft" },
		"generation 0":       func(t *Table) { t.Recoveries[0].Generation = 0 },
		"not of generation 2": func(t *Table) {
			t.Epoch = 7
		},
		"not of generation 0": func(t *Table) { t.Recoveries[0].From = generationEpochs },
		"the greatest is":     func(t *Table) { t.Recoveries[0].Generation = maxGeneration + 1 },
	} {
		bad := good.clone()
		bad.Recoveries = append([]Recovery(nil), good.Recoveries...)
		spoil(bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
	if _, err := Recover(good, "R2", 2); err == nil {
		t.Error("two recoveries with one number in one history")
	}
}
