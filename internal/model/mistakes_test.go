package model

import (
	"errors"
	"reflect"
	"testing"
)

// outage is a cluster in which node 0 has missed something before: the others note it.
var outage = scenario{
	nodes: 3, owners: oneSeries, samples: []sample{{0, 0}}, writes: []uint8{0}, reads: []query{{0, 0}},
	gaps: []gap{{1, 0, 0}, {2, 0, 0}}, handoffs: 1,
}

// with changes a scenario.
func (sc scenario) with(change func(*scenario)) scenario {
	change(&sc)
	return sc
}

func crash(sc *scenario)  { sc.crashes = 1 }
func lose(sc *scenario)   { sc.losses = 1 }
func damage(sc *scenario) { sc.damages = 1 }
func refuse(sc *scenario) { sc.refusals = 1 }

// windows lets hand-offs take two.
func windows(sc *scenario) { sc.samples = []sample{{0, 0}, {0, 1}} }

// lateGaps begin after the sample that is written.
func lateGaps(sc *scenario) {
	windows(sc)
	sc.gaps = []gap{{1, 0, 1}, {2, 0, 1}}
}

// healthy has no gaps to begin with.
func healthy(sc *scenario) { sc.gaps = nil }

func twoWrites(sc *scenario) {
	healthy(sc)
	sc.samples, sc.writes = []sample{{0, 0}, {0, 0}}, []uint8{0, 1}
	sc.handoffs, sc.prompt = 0, true
}

// lateWrites are two, of which notes are withdrawn.
func lateWrites(sc *scenario) {
	twoWrites(sc)
	sc.late = true
}

// lateWrite is one.
func lateWrite(sc *scenario) {
	healthy(sc)
	sc.late = true
}

func handOff(sc *scenario) { sc.handoffs = 1 }

func retry(sc *scenario) {
	twoWrites(sc)
	sc.samples, sc.writes = []sample{{0, 0}}, []uint8{0, 0}
}

// Each rule is needed: without it something is lost, or a gap never closes. A trace that
// shows it is printed with -v.
func TestEveryRuleIsNeeded(t *testing.T) {
	tested := map[string]bool{}
	for _, tc := range []struct {
		rule     string
		scenario []func(*scenario)
	}{
		{"SyncBeforeConfirm", []func(*scenario){healthy, crash}},
		{"DuplicateSynced", []func(*scenario){retry, crash}},
		{"OfferAfterStore", nil},
		{"OfferSynced", []func(*scenario){twoWrites, crash}},
		{"OfferOutside", nil},
		{"OfferEarly", []func(*scenario){lateGaps}},
		{"GapBeforeAck", []func(*scenario){healthy}},
		{"GapQuorum", []func(*scenario){healthy}},
		{"RefusalCovered", []func(*scenario){healthy, refuse}},
		{"NoteSynced", []func(*scenario){healthy, crash}},
		{"NoteFromSample", []func(*scenario){healthy}},
		{"NoteMarksAtSync", []func(*scenario){lateGaps}},
		{"OfferFirm", []func(*scenario){lateWrites}},
		{"WithdrawConfirmed", []func(*scenario){lateWrite, crash}},
		{"WithdrawCounted", []func(*scenario){lateWrites}},
		{"FirmForgets", []func(*scenario){lateWrites}},
		{"FirmForgets", []func(*scenario){lateWrites, handOff}},
		{"StopBeforeRead", nil},
		{"SyncBeforeAdvance", []func(*scenario){healthy, crash}},
		{"MissedAtAdvance", []func(*scenario){windows}},
		{"MissedAtClose", nil},
		{"SessionChecked", nil},
		{"WindowChecked", []func(*scenario){windows}},
		{"RestartEndsSession", []func(*scenario){crash}},
		{"SilenceEndsSession", []func(*scenario){crash}},
		{"HeldWhileSaving", nil},
		{"ReadQuorum", []func(*scenario){healthy}},
		{"MissingApart", []func(*scenario){healthy, lose}},
		{"MissingApart", []func(*scenario){healthy, damage}},
		{"SecondRound", nil},
		{"CleanOnly", nil},
		{"MergeWhereNone", []func(*scenario){twoWrites}},
		{"SameSession", []func(*scenario){healthy, lose}},
		{"SameSession", []func(*scenario){healthy, damage}},
		{"OneProof", nil},
	} {
		tested[tc.rule] = true
		t.Run(tc.rule, func(t *testing.T) {
			sc := outage
			for _, change := range tc.scenario {
				sc = sc.with(change)
			}
			// Prompt scenarios are large, and among those that are explored with all rules.
			if !sc.prompt {
				if out := exhaust(newMachine(allRules, sc), 3_000_000); out.err != nil {
					t.Fatalf("with all rules: %v", out)
				}
			}
			mistaken := allRules
			reflect.ValueOf(&mistaken).Elem().FieldByName(tc.rule).SetBool(false)
			out := explore(newMachine(mistaken, sc), 1_000_000)
			if out.err == nil || errors.Is(out.err, errTooMany) {
				t.Fatalf("the rule is switched off, and nobody notices: %v", out)
			}
			t.Log(out)
		})
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[rules]()) {
		if !tested[f.Name] {
			t.Errorf("no scenario shows that the rule %s is needed", f.Name)
		}
	}
}
