package model

import (
	"errors"
	"reflect"
	"slices"
	"testing"
)

// oneWrite is what all scenarios of transitions have in common: a write and a read.
var oneWrite = moveScenario{copies: 3, samples: []int{0}, writes: []uint8{0}, reads: []int{0}}

func (sc moveScenario) with(changes ...func(*moveScenario)) moveScenario {
	for _, change := range changes {
		change(&sc)
	}
	return sc
}

// in has so many nodes in slots of their numbers, and some that are not in it yet. The order
// is the one in which the series prefers the slots.
func in(slots, more uint8, order ...uint8) func(*moveScenario) {
	return func(sc *moveScenario) {
		sc.nodes, sc.slots, sc.series = slots+more, assignment{}, [][]uint8{order}
		for x := range slots {
			sc.slots[x] = x + 1
		}
	}
}

func commands(list ...command) func(*moveScenario) {
	return func(sc *moveScenario) { sc.commands = list }
}

func joins(n uint8) command   { return command{op: join, node: n} }
func leaves(n uint8) command  { return command{op: leave, node: n} }
func removes(n uint8) command { return command{op: remove, node: n} }
func (c command) by(n uint8) command {
	c.successor, c.replace = n, true
	return c
}

// dead lets the last command wait until the node is off.
func dead(sc *moveScenario) {
	sc.commands = slices.Clone(sc.commands)
	sc.commands[len(sc.commands)-1].dead, sc.losses = true, 1
}

func copies(n int) func(*moveScenario)     { return func(sc *moveScenario) { sc.copies = n } }
func handsOff(n uint8) func(*moveScenario) { return func(sc *moveScenario) { sc.handoffs = n } }
func crashes(n uint8) func(*moveScenario)  { return func(sc *moveScenario) { sc.crashes = n } }
func losing(sc *moveScenario)              { sc.losses = 1 }
func fragile(nodes ...uint8) func(*moveScenario) {
	return func(sc *moveScenario) { sc.fragile = setOf(nodes) }
}
func aged(nodes ...uint8) func(*moveScenario) {
	return func(sc *moveScenario) { sc.aged = setOf(nodes) }
}
func idle(sc *moveScenario)       { sc.writes, sc.reads = nil, nil }
func unread(sc *moveScenario)     { sc.reads = nil }
func eager(sc *moveScenario)      { sc.eager = true }
func late(sc *moveScenario)       { sc.late = true }
func twoReading(sc *moveScenario) { sc.reads = []int{0, 0} }
func twoWritten(sc *moveScenario) { sc.samples, sc.writes = []int{0, 0}, []uint8{0, 1} }
func gapsBefore(sc *moveScenario) { sc.gaps = [][2]uint8{{1, 2}, {2, 1}} }
func rewriting(sc *moveScenario)  { sc.writes = []uint8{0, 0} }

var (
	fromOne     = oneWrite.with(in(1, 1, 1, 0), commands(joins(1)), handsOff(1))
	fromTwo     = oneWrite.with(in(2, 1, 2, 0, 1), commands(joins(2)), handsOff(1))
	fromThree   = oneWrite.with(in(3, 1, 3, 0, 1, 2), commands(joins(3)))
	toTwo       = oneWrite.with(in(3, 0, 0, 1, 2), commands(leaves(0)), handsOff(1))
	replaceLost = oneWrite.with(in(3, 1, 0, 1, 2), commands(removes(0).by(3)))
	// oneCopy has two series, of which the second is written.
	oneCopy = oneWrite.with(in(1, 1, 1, 0), copies(1), func(sc *moveScenario) {
		sc.series, sc.samples, sc.reads = append(sc.series, []uint8{0, 1}), []int{1}, []int{1}
	})
	// three nodes own the series, whatever is commanded.
	three = oneWrite.with(in(3, 1, 0, 1, 2, 3))
	// oneOfTwo has two series, of which the second is written and moves away from node 1.
	oneOfTwo = oneWrite.with(in(2, 1, 0, 1, 2), copies(2), commands(joins(2)), func(sc *moveScenario) {
		sc.series, sc.samples, sc.reads = append(sc.series, []uint8{2, 0, 1}), []int{1}, []int{1}
	})
	damagedOne = oneWrite.with(in(2, 0, 0, 1), commands(leaves(0)), fragile(1))
	joinTwice  = oneWrite.with(in(2, 2, 3, 2, 1, 0), copies(2), commands(joins(2), joins(3)))
)

// Each rule of transitions is needed: without it something is lost, or a transition never
// ends. A trace that shows it is printed with -v.
func TestEveryMoveRuleIsNeeded(t *testing.T) {
	tested := map[string]bool{}
	for _, tc := range []struct {
		rule     string
		scenario moveScenario
	}{
		{"WriteCurrent", fromTwo},
		{"WriteTarget", fromOne.with(crashes(1))},
		{"WriteTarget", fromTwo},
		{"NoteCurrent", fromThree},
		{"NoteCurrent", toTwo},
		{"NoteTarget", fromTwo},
		{"NotePerAssignment", fromThree},
		{"EpochChecked", fromTwo},
		{"AppendsBeforeNext", fromTwo},
		{"NotesBeforeNext", toTwo},
		{"TableSynced", fromOne.with(crashes(1))},
		{"CopyQuorum", fromThree},
		{"CopyClean", fromThree},
		{"CopyAtEpoch", fromTwo},
		{"CopySecondRound", fromThree.with(handsOff(1))},
		{"CopySynced", fromOne.with(crashes(1))},
		{"RetainedClean", toTwo},
		{"RetainedQuorum", toTwo},
		{"RetainedAtEpoch", toTwo},
		{"RebuildMissing", three.with(fragile(0))},
		{"RebuildLater", three.with(fragile(0))},
		{"RebuildLater", three.with(aged(0))},
		{"OldCopyLater", three.with(aged(0), commands(joins(3)))},
		{"OldCopyRefuses", fromTwo.with(aged(0, 1))},
		{"OldCopyRefuses", fromOne.with(copies(2), aged(0))},
		{"RebuildQuorum", three.with(fragile(0))},
		{"RebuildApart", three.with(fragile(0))},
		{"RebuildClean", three.with(fragile(2))},
		{"RebuildAtEpoch", three.with(fragile(0))},
		{"RebuildSecondRound", three.with(fragile(2), handsOff(1))},
		{"RebuildRead", fromTwo.with(copies(2), commands(leaves(0).by(2)), fragile(1))},
		{"RebuildAll", fromThree.with(fragile(3), late)},
		{"RebuildSynced", three.with(fragile(0), crashes(1))},
		{"RebuildTakesNotes", three.with(aged(1))},
		{"GiveIntact", three.with(fragile(1), handsOff(1))},
		{"DamagedUnready", damagedOne},
		{"ReadyTakenBack", damagedOne},
		{"SwitchReady", fromTwo},
		{"ReadyPerPhase", oneCopy.with(commands(joins(1), leaves(0)))},
		{"SwitchPhase", fromTwo},
		{"SwitchPhase", fromThree},
		{"EndReported", fromTwo},
		{"EndReported", fromThree},
		{"AdvanceForEpoch", joinTwice},
		{"RemovalAtOnce", fromThree.with(commands(joins(3), removes(0)), losing, idle)},
		{"RemovalBounded", oneWrite.with(in(3, 0, 0, 1, 2), commands(removes(0), removes(1)))},
		{"RemovalProven", oneWrite.with(in(2, 0, 0, 1), commands(removes(0)), dead)},
		{"ReadCurrent", fromTwo},
		{"ReadTarget", fromTwo},
		{"ReadTarget", fromThree},
		{"ReadAtEpoch", fromThree},
		{"RemovedUnread", replaceLost},
		{"RemovedUncopied", replaceLost},
		{"CleanUpAtEnd", fromThree},
		{"HandOffBoth", fromThree.with(handsOff(1))},
		{"HandOffBoth", fromTwo},
		{"HandOffAtEpoch", fromTwo.with(eager)},
	} {
		tested[tc.rule] = true
		t.Run(tc.rule, func(t *testing.T) {
			out := explore(newMover(allMoveRules.without(tc.rule), tc.scenario), 2_000_000)
			if out.err == nil || errors.Is(out.err, errTooMany) {
				t.Fatalf("the rule is switched off, and nobody notices: %v", out)
			}
			t.Log(out)
		})
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[moveRules]()) {
		if !tested[f.Name] {
			t.Errorf("no scenario shows that the rule %s is needed", f.Name)
		}
	}
}
