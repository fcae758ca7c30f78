package model

import (
	"os"
	"reflect"
	"strconv"
	"testing"
)

// STARLING_MODEL makes the exploration larger: 1 adds the scenarios that take minutes and
// a hundred times as many random histories, each further number doubles the latter.
func effort(t *testing.T) int {
	t.Helper()
	value := os.Getenv("STARLING_MODEL")
	if value == "" {
		return 0
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("STARLING_MODEL: %v", err)
	}
	return n
}

var oneSeries = [][]uint8{{0, 1, 2}}

// Three nodes, one series, and all that can happen to a few writes and a read.
func TestExhaustively(t *testing.T) {
	one := scenario{
		nodes: 3, owners: oneSeries, samples: []sample{{0, 0}}, writes: []uint8{0}, reads: []query{{0, 1}},
		crashes: 1, handoffs: 2,
	}
	two := func(sc *scenario) { sc.samples, sc.writes = []sample{{0, 0}, {0, 1}}, []uint8{0, 1} }
	again := func(sc *scenario) { sc.writes = []uint8{0, 0} }
	late := func(sc *scenario) { sc.late = true }
	prompt := func(sc *scenario) { sc.prompt = true }
	handoffs := func(n uint8) func(*scenario) { return func(sc *scenario) { sc.handoffs = n } }
	crashes := func(n uint8) func(*scenario) { return func(sc *scenario) { sc.crashes = n } }
	for _, tc := range []struct {
		name    string
		effort  int
		changes []func(*scenario)
	}{
		{"a write, a crash, two hand-offs", 0, nil},
		{"and a lost disk", 0, []func(*scenario){lose}},
		{"and damage", 0, []func(*scenario){damage}},
		{"and a refusal for age", 0, []func(*scenario){refuse}},
		{"a write, two crashes, a lost disk, three hand-offs", 0, []func(*scenario){crashes(2), lose, handoffs(3)}},
		{"a late confirmation, a crash, a hand-off", 0, []func(*scenario){late, handoffs(1)}},
		{"late confirmations of two writes", 0, []func(*scenario){two, late, prompt, crashes(0), handoffs(0)}},
		{"late confirmations of two writes, a hand-off", 1, []func(*scenario){two, late, prompt, crashes(0), handoffs(1)}},
		{"late confirmations of two writes, a crash", 1, []func(*scenario){two, late, prompt, handoffs(0)}},
		{"late confirmations of two writes, a crash, a hand-off", 2, []func(*scenario){two, late, prompt, handoffs(1)}},
		{"gaps, a write between windows, two hand-offs", 0, []func(*scenario){lateGaps, crashes(0)}},
		{"an early and a late write, a hand-off", 0, []func(*scenario){two, prompt, crashes(0), handoffs(1)}},
		{"a write and its retry, a crash, a hand-off", 0, []func(*scenario){again, prompt, handoffs(1)}},
		{"an early and a late write, a crash, a hand-off", 1, []func(*scenario){two, prompt, handoffs(1)}},
		{"an early and a late write, two hand-offs", 1, []func(*scenario){two, crashes(0)}},
		{"an early and a late write, a lost disk, two hand-offs", 1, []func(*scenario){two, prompt, crashes(0), lose}},
		{"an early and a late write, a crash, two hand-offs", 1, []func(*scenario){two, prompt}},
		{"a write and its retry, a crash, two hand-offs, nothing in one step", 1, []func(*scenario){again}},
		{"gaps, an early write, a crash, two hand-offs", 1, []func(*scenario){lateGaps}},
		{"an early and a late write, a crash, two hand-offs, nothing in one step", 3, []func(*scenario){two}},
	} {
		if tc.effort > effort(t) {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			sc := one
			for _, change := range tc.changes {
				sc = sc.with(change)
			}
			out := exhaust(newMachine(allRules, sc), 500_000_000)
			if out.err != nil {
				t.Fatal(out)
			}
			t.Log(out)
		})
	}
}

// Five nodes, three series, several writes, retries and reads, with nodes that crash, lose
// their disk or find it damaged, and are cut off and paused.
func TestRandomHistories(t *testing.T) {
	histories := 3000
	if n := effort(t); n > 0 {
		histories *= 100 << min(n-1, 10)
	}
	acked, reads, failing := 0, 0, 0
	for seed := range histories {
		w, sc := newWalk(allRules, uint64(seed))
		if err := w.run(160); err != nil {
			t.Fatalf("seed %d: %v: %+v%v", seed, err, sc, w)
		}
		acked += w.state.acked.len()
		for _, r := range w.state.reads {
			if r.phase == done {
				reads++
			}
		}
		if w.state.crashes+w.state.losses+w.state.damages < sc.crashes+sc.losses+sc.damages {
			failing++
		}
	}
	t.Logf("%d histories, %d with failing nodes; %d samples acknowledged, %d reads answered", histories, failing, acked, reads)
	if acked < histories || reads < histories/2 || failing < histories/4 {
		t.Error("too little happened for the test to mean anything")
	}
}

// The random histories, too, notice when a rule is left out.
func TestRandomHistoriesCatchMistakes(t *testing.T) {
	for _, rule := range []string{
		"SyncBeforeConfirm", "OfferEarly", "GapBeforeAck", "GapQuorum", "RefusalCovered", "NoteFromSample",
		"MissingApart", "CleanOnly", "ReadQuorum",
	} {
		t.Run(rule, func(t *testing.T) {
			mistaken := allRules
			reflect.ValueOf(&mistaken).Elem().FieldByName(rule).SetBool(false)
			const histories = 5000
			for seed := range uint64(histories) {
				w, _ := newWalk(mistaken, seed)
				if err := w.run(160); err != nil {
					t.Logf("%v, in history %d after %d steps", err, seed, len(w.trace))
					return
				}
			}
			t.Errorf("%d histories without the rule, and nobody notices", histories)
		})
	}
}
