package model

import (
	"slices"
	"testing"
)

// All that can happen to a write and a read or two while the table changes.
func TestMovesExhaustively(t *testing.T) {
	for _, tc := range []struct {
		name     string
		effort   int
		scenario moveScenario
	}{
		{"one node and another, a crash", 0, fromOne.with(crashes(1))},
		{"one node and another, a write and its retry, two crashes", 0, fromOne.with(rewriting, crashes(2))},
		{"two nodes and another, a crash", 0, fromTwo.with(crashes(1))},
		{"two nodes and another, two writes", 0, fromTwo.with(twoWritten)},
		{"two nodes and another, two reads", 0, fromTwo.with(twoReading)},
		{"two nodes, and another in place of one", 0, fromTwo.with(commands(leaves(0).by(2)), crashes(1))},
		{"two nodes and another that leaves again", 0, fromTwo.with(commands(joins(2), leaves(2)))},
		{"two nodes and two others, two copies", 0, joinTwice},
		{"three nodes and another", 0, fromThree.with(handsOff(1))},
		{"three nodes and another, two copies, a crash", 0, fromThree.with(copies(2), handsOff(1), crashes(1))},
		{"three nodes, one leaves, a crash", 0, toTwo.with(crashes(1))},
		{"three nodes, one leaves and comes back", 0, toTwo.with(commands(leaves(0), joins(0)), handsOff(0))},
		{"three nodes, one leaves, gaps from before", 0, toTwo.with(gapsBefore)},
		{"three nodes, another in place of one", 0, fromThree.with(commands(leaves(0).by(3)))},
		{"three nodes, one is lost and removed", 0, toTwo.with(commands(removes(0)), losing, crashes(1))},
		{"three nodes, one is lost and replaced", 0, replaceLost.with(losing, handsOff(1))},
		{"two nodes, one is off and removed", 0, oneWrite.with(in(2, 0, 0, 1), commands(removes(0)), dead, crashes(1))},
		{"two nodes, one is off and replaced", 0, fromTwo.with(commands(removes(0).by(2)), dead, crashes(1))},
		{"three nodes, one leaves, another is off and removed", 0, toTwo.with(commands(leaves(0), removes(1)), dead)},
		{"three nodes and another, one is lost and removed", 0, fromThree.with(commands(joins(3), removes(0)), losing, unread)},
		{"two nodes of which one is damaged, the other leaves", 0, damagedOne},
		{"three nodes and another, one is damaged", 0, fromThree.with(fragile(1), unread)},
		{"three nodes and another, which is damaged", 0, fromThree.with(fragile(3), unread)},
		{"two nodes of which one is damaged, and another", 0, oneOfTwo.with(fragile(1), crashes(1))},
		{"three nodes, one is damaged", 0, three.with(fragile(0, 1, 2), handsOff(1))},
		{"three nodes, one is damaged, a crash", 0, three.with(fragile(0), crashes(1))},
		{"three nodes, one is an old copy", 0, three.with(aged(0, 1, 2), handsOff(1))},
		{"three nodes, one is an old copy, a crash", 0, three.with(aged(1), crashes(1))},
		{"three nodes, one is damaged, two writes", 0, three.with(fragile(1), twoWritten, unread)},
		{"three nodes, one is an old copy, two writes", 0, three.with(aged(1), twoWritten, unread)},
		{"three nodes and an idle one, one is an old copy", 0, three.with(aged(1), commands(joins(3)), unread)},
		{"two nodes and another, one is damaged late", 0, fromTwo.with(fragile(0, 1, 2), late)},
		{"two nodes and another, one is an old copy, late", 0, fromTwo.with(aged(0, 1, 2), late)},
		{"two nodes, another in place of one, one is damaged late", 0, fromTwo.with(commands(leaves(0).by(2)), fragile(0, 1, 2), late)},
		{"two nodes, another in place of one, one is an old copy", 0, fromTwo.with(commands(leaves(0).by(2)), aged(0, 1, 2))},
		{"three nodes, one leaves, one is damaged late", 0, toTwo.with(fragile(0, 1, 2), late)},
		{"three nodes, one leaves, one is an old copy", 0, toTwo.with(aged(0, 1, 2), late)},
		{"three nodes and another, two copies, one is damaged", 0, fromThree.with(copies(2), fragile(0, 1, 2, 3), handsOff(1))},
		{"three nodes and another, two copies, one is an old copy", 0, fromThree.with(copies(2), aged(0, 1, 2, 3), handsOff(1))},
		{"a series that moves twice", 0, oneCopy.with(commands(joins(1), leaves(0), joins(2)), func(sc *moveScenario) { sc.nodes++ })},

		{"two nodes and another, two writes, a crash", 1, fromTwo.with(twoWritten, crashes(1))},
		{"two nodes and another, two writes, two reads", 1, fromTwo.with(twoWritten, twoReading)},
		{"three nodes, one is damaged and replaced, late", 1, replaceLost.with(fragile(0), late, handsOff(1))},
		{"three nodes, one is an old copy and replaced, late", 1, replaceLost.with(aged(0), late, handsOff(1))},
		{"two nodes and two others, one is damaged late", 1, joinTwice.with(fragile(0, 1, 2, 3), late)},
		{"two nodes and two others, one is an old copy", 1, joinTwice.with(aged(0, 1, 2, 3))},
		{"three nodes, one is damaged, two writes and reads", 1, three.with(fragile(0, 1, 2), twoWritten, twoReading)},
		{"three nodes, one is an old copy, two writes and reads", 1, three.with(aged(0, 1, 2), twoWritten, twoReading)},
		{"three nodes, one is an old copy, two writes, a hand-off", 1, three.with(aged(0, 1, 2), twoWritten, handsOff(1))},
		{"three nodes, one leaves and comes back, one is an old copy", 1, toTwo.with(commands(leaves(0), joins(0)), aged(0, 1, 2))},
		{"three nodes, another in place of one, one is damaged late", 1, fromThree.with(commands(leaves(0).by(3)), fragile(0, 1, 2, 3), late)},
		{"three nodes, another in place of one, one is an old copy", 1, fromThree.with(commands(leaves(0).by(3)), aged(0, 1, 2, 3), late)},
		{"three nodes and another, one is damaged late", 1, fromThree.with(fragile(0, 1, 2, 3), late)},
		{"three nodes and another, one is an old copy", 1, fromThree.with(aged(0, 1, 2, 3), late)},
		{"three nodes and another, one is an old copy, a crash", 2, fromThree.with(aged(0, 1, 2), crashes(1), unread)},
		{"three nodes and another, a crash", 1, fromThree.with(handsOff(1), crashes(1))},
		{"three nodes, another in place of one, a crash", 1, fromThree.with(commands(leaves(0).by(3)), handsOff(1), crashes(1))},
		{"three nodes, one is lost and replaced, a crash", 1, replaceLost.with(losing, handsOff(1), crashes(1))},
		{"three nodes, one leaves, two writes", 1, toTwo.with(twoWritten)},
		{"three nodes and another, one leaves", 1, fromThree.with(commands(joins(3), leaves(0)))},
		{"three nodes and another, one is lost and removed, a read", 1, fromThree.with(commands(joins(3), removes(0)), losing)},
		{"two nodes and two others, three copies", 1, joinTwice.with(copies(3))},
		{"three nodes and another, one leaves, a crash", 2, fromThree.with(commands(joins(3), leaves(0)), crashes(1))},
		{"three nodes and another, two crashes", 2, fromThree.with(handsOff(1), crashes(2))},
		{"three nodes and another, two writes", 2, fromThree.with(twoWritten)},
	} {
		if tc.effort > effort(t) {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			out := exhaust(newMover(allMoveRules, tc.scenario), 500_000_000)
			if out.err != nil {
				t.Fatal(out)
			}
			t.Log(out)
		})
	}
}

// Five nodes, two series, several writes, retries and reads, while nodes join, leave, are
// lost and replaced, and crash, and are cut off and paused.
func TestRandomMoves(t *testing.T) {
	histories := 2000
	if n := effort(t); n > 0 {
		histories *= 100 << min(n-1, 10)
	}
	acked, reads, ended, failing, mended := 0, 0, 0, 0, 0
	for seed := range histories {
		w, m := newMoveWalk(allMoveRules, uint64(seed))
		if err := w.run(250); err != nil {
			t.Fatalf("seed %d: %v: %+v%v", seed, err, m.scenario, w)
		}
		acked += w.state.acked.len()
		for _, r := range w.state.reads {
			if r.phase == done {
				reads++
			}
		}
		if int(w.state.next) == len(m.scenario.commands) && m.newest(&w.state).phase == settled {
			ended++
		}
		if w.state.crashes+w.state.losses < m.scenario.crashes+m.scenario.losses {
			failing++
		}
		if slices.ContainsFunc(w.trace, func(a action) bool { return moveKinds[a.kind].word() == "mend" }) {
			mended++
		}
	}
	t.Logf("%d histories, %d with failing nodes, %d with damage made good, %d whose transitions ended; %d samples acknowledged, %d reads answered",
		histories, failing, mended, ended, acked, reads)
	if acked < histories || reads < histories/2 || failing < histories/4 || mended < histories/20 || ended < histories/4 {
		t.Error("too little happened for the test to mean anything")
	}
}

// The random histories, too, notice when a rule is left out.
func TestRandomMovesCatchMistakes(t *testing.T) {
	for _, rule := range []string{
		"WriteCurrent", "WriteTarget", "NoteCurrent", "EpochChecked", "CopyQuorum", "CopyAtEpoch", "SwitchReady",
	} {
		t.Run(rule, func(t *testing.T) {
			mistaken := allMoveRules.without(rule)
			const histories = 5000
			for seed := range uint64(histories) {
				w, _ := newMoveWalk(mistaken, seed)
				if err := w.run(250); err != nil {
					t.Logf("%v, in history %d after %d steps", err, seed, len(w.trace))
					return
				}
			}
			t.Errorf("%d histories without the rule, and nobody notices", histories)
		})
	}
}
