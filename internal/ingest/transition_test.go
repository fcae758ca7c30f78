package ingest

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// moving returns a cluster of nodes 0, 1, 2 in a transition that has node 2 replaced by node
// 3: series are owned by all three, and metadata as well.
func moving(t testing.TB, lost bool) *cluster {
	t.Helper()
	c := newCluster(t, 4)
	tb := *c.table
	tb.Epoch++
	slots := slices.Clone(tb.Current.Slots[:3])
	tb.Current.Slots = slices.Clone(slots)
	tb.Current.Slots[2].Removed = lost
	slots[2].Node = "node-3"
	tb.Transition = &table.Transition{Phase: table.Copying, Began: 2, Target: table.Assignment{ReplicationFactor: 3, Slots: slots}}
	c.adopt(&tb)
	c.opts.Table = func() (*table.Table, []Placement) { return c.table, []Placement{modulo{3, 3}, modulo{3, 3}} }
	return c
}

func TestPartsOfATransition(t *testing.T) {
	c := moving(t, true)
	tb, placements := c.opts.Table()
	family := func(name, help string) series.Metadata {
		m := series.Metadata{Family: name}
		m.Help = help
		return m
	}
	b := batch("", "1")
	b.Metadata = []series.Metadata{family("a", "old"), family("a", "new"), family("b", "")}
	p := split(b, tb.Writing(), placements)
	got := map[table.NodeID]*part{}
	for _, part := range p.parts {
		got[part.node] = part
	}
	if len(p.parts) != 3 || len(p.gone) != 1 || p.gone[0].node != "node-2" {
		t.Fatalf("parts for %v, gone %v", got, p.gone)
	}
	for node, want := range map[table.NodeID][2]bool{"node-0": {true, true}, "node-1": {true, true}, "node-3": {false, true}} {
		part := got[node]
		if part == nil || !slices.Equal(part.index, []int{0, 1}) || !slices.Equal(part.batch.Metadata, b.Metadata) {
			t.Fatalf("%s gets %+v, want the whole batch once", node, part)
		}
		for a, owned := range want {
			if part.in(a, 0) != owned || part.in(a, 1) != owned {
				t.Errorf("%s owns the series by assignment %d: want %v", node, a, owned)
			}
		}
	}
}

// The copy of a removed node counts as missing, and the node is left alone.
func TestRemovedOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := moving(t, true)
		replicas := c.opts.Replica
		c.opts.Replica = func(id table.NodeID) Replica {
			if id == "node-2" {
				t.Error("a removed node is asked")
			}
			return replicas(id)
		}
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if got := c.notes("node-2"); len(got) != 0 {
			t.Errorf("a gap of a removed node is noted by %v", got)
		}
		c.nodes["node-1"].err = errors.New("down")
		_, err := c.Write(t.Context(), batch("a"))
		var lacking *ShortError
		if !errors.As(err, &lacking) || !slices.Equal(lacking.Causes, []string{"node node-1: down", "node node-2: it is removed"}) {
			t.Errorf("Write: %v, want both owners that are missing named", err)
		}
	})
}

// A removed node that joins anew is an owner by the target, and gets what is written: it is read
// from in the end. By the current assignment its copy still counts as missing.
func TestRemovedOwnerThatReturns(t *testing.T) {
	for name, tc := range map[string]struct {
		down  table.NodeID
		short bool
		notes int
	}{
		"all are well":          {},
		"the returning is down": {down: "node-2", notes: 2},
		"another one is down":   {down: "node-1", short: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := moving(t, true)
				c.table.Transition.Target.Slots[2] = table.Slot{Node: "node-2"}
				var asked atomic.Bool
				replicas := c.opts.Replica
				c.opts.Replica = func(id table.NodeID) Replica {
					if id == "node-2" {
						asked.Store(true)
					}
					return replicas(id)
				}
				if tc.down != "" {
					c.nodes[tc.down].err = errors.New("down")
				}
				_, err := c.Write(t.Context(), batch("a"))
				var lacking *ShortError
				if errors.As(err, &lacking) != tc.short || err != nil && !tc.short {
					t.Errorf("Write: %v, want it short: %v", err, tc.short)
				}
				if !asked.Load() {
					t.Error("the node that returns is not asked")
				}
				if got := c.notes("node-2"); len(got) != tc.notes {
					t.Errorf("what it misses is noted by %v, want %d", got, tc.notes)
				}
			})
		})
	}
}

// Without the quorum of either assignment nothing is acknowledged.
func TestWriteNeedsBothQuorums(t *testing.T) {
	invalid := []series.Refusal{{Series: 0, Item: 0, Reason: series.Invalid, Message: "too old sample"}}
	conflict := []series.Refusal{{Series: 0, Item: 0, Reason: series.Conflict, Message: "another value"}}
	down := errors.New("down")
	for name, tc := range map[string]struct {
		errs           map[table.NodeID]error
		refusals       map[table.NodeID][]series.Refusal
		short, refused int
		notes          map[table.NodeID]int // by node that misses something
	}{
		"all are well":            {},
		"one in both is down":     {errs: map[table.NodeID]error{"node-0": down}, notes: map[table.NodeID]int{"node-0": 3}},
		"the old one is down":     {errs: map[table.NodeID]error{"node-2": down}, notes: map[table.NodeID]int{"node-2": 2}},
		"the new one is down":     {errs: map[table.NodeID]error{"node-3": down}, notes: map[table.NodeID]int{"node-3": 2}},
		"old and new one":         {errs: map[table.NodeID]error{"node-2": down, "node-3": down}, notes: map[table.NodeID]int{"node-2": 2, "node-3": 2}},
		"no current quorum":       {errs: map[table.NodeID]error{"node-0": down, "node-2": down}, short: 2},
		"no target quorum":        {errs: map[table.NodeID]error{"node-0": down, "node-3": down}, short: 2},
		"refused by the target":   {refusals: map[table.NodeID][]series.Refusal{"node-1": invalid, "node-3": invalid}, refused: 1},
		"refused by the current":  {refusals: map[table.NodeID][]series.Refusal{"node-1": invalid, "node-2": invalid}, refused: 1},
		"too old for the new one": {refusals: map[table.NodeID][]series.Refusal{"node-3": invalid}, notes: map[table.NodeID]int{"node-3": 2}},
		"too old for one in both": {refusals: map[table.NodeID][]series.Refusal{"node-1": invalid}, notes: map[table.NodeID]int{"node-1": 3}},
		"another value on one":    {refusals: map[table.NodeID][]series.Refusal{"node-1": conflict}},
		"conflict in the target":  {refusals: map[table.NodeID][]series.Refusal{"node-1": conflict, "node-3": conflict}, refused: 1},
		"refused here, short there": {
			refusals: map[table.NodeID][]series.Refusal{"node-1": invalid, "node-2": invalid},
			errs:     map[table.NodeID]error{"node-3": down}, short: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := moving(t, false)
				for id, err := range tc.errs {
					c.nodes[id].err = err
				}
				for id, r := range tc.refusals {
					c.nodes[id].refusals = r
				}
				res, err := c.Write(t.Context(), batch("a"))
				var lacking *ShortError
				if errors.As(err, &lacking) != (tc.short > 0) || tc.short > 0 && lacking.Samples != tc.short {
					t.Fatalf("Write: %v, want %d short", err, tc.short)
				}
				if len(res.Refused) != tc.refused || res.Written.Samples != 2-tc.short-tc.refused {
					t.Errorf("%+v, want %d short and %d refused", res, tc.short, tc.refused)
				}
				for id := range c.nodes {
					if got := c.notes(id); len(got) != tc.notes[id] {
						t.Errorf("what %s misses is noted by %v, want %d", id, got, tc.notes[id])
					}
				}
			})
		})
	}
}
