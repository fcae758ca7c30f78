package ingest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// notes returns which nodes note a gap for a peer, and since when.
func (c *cluster) notes(peer table.NodeID) map[table.NodeID]int64 {
	notes := map[table.NodeID]int64{}
	for id, n := range c.nodes {
		for _, g := range n.Offered() {
			if g.Peer == peer {
				notes[id] = g.Since
			}
		}
	}
	return notes
}

func TestMissedWriteIsNotedBeforeItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes["node-2"].err = errors.New("down")
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if got := c.notes("node-2"); len(got) != 2 || got["node-0"] != 1000 || got["node-1"] != 1000 {
			t.Errorf("noted by %v, want by both others since 1000", got)
		}
		start := time.Now()
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if asked := c.nodes["node-0"].asked + c.nodes["node-1"].asked; asked != 2 {
			t.Errorf("%d notes were asked for, want the first two: the gaps are open", asked)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the second write waited %s for an owner whose gap is open", took)
		}
	})
}

func TestHealthyOwnersNoteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		if _, err := c.Write(t.Context(), batch("", "1", "22", "333", "4444")); err != nil {
			t.Fatal(err)
		}
		for id, n := range c.nodes {
			if n.asked != 0 {
				t.Errorf("%s was asked for %d notes", id, n.asked)
			}
		}
	})
}

func TestOlderSamplesAreNotedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes["node-2"].err = errors.New("down")
		for _, id := range []table.NodeID{"node-0", "node-1"} {
			c.nodes[id].gaps = []proof.Gap{{Peer: "node-2", Since: 1001}}
		}
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if got := c.notes("node-2"); got["node-0"] != 1000 || got["node-1"] != 1000 {
			t.Errorf("noted %v, want both since 1000", got)
		}
	})
}

// One note is not enough: R owners that are asked later may not include the one that made it.
func TestWriteFailsWithoutTheNotes(t *testing.T) {
	for name, breaks := range map[string]func(*node){
		"a full disk": func(n *node) { n.noteErr = errors.New("no space left on device") },
		"silence":     func(n *node) { n.hangs = true },
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			c.nodes["node-2"].err = errors.New("down")
			breaks(c.nodes["node-1"])
			res, err := c.Write(t.Context(), batch("a"))
			var short *ShortError
			if !errors.As(err, &short) || short.Samples != 2 || short.Total != 2 || len(short.Causes) != 1 {
				t.Fatalf("%s: Write: %v, want 2 of 2 samples unsafe", name, err)
			}
			if res.Written.Samples != 2 {
				t.Errorf("%s: %d samples are on a write quorum, want 2", name, res.Written.Samples)
			}
		})
	}
}

// With five copies three holders note; a fourth that hangs is not waited for.
func TestEnoughNotesAreEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		c.table.Current.ReplicationFactor = 5
		c.nodes["node-4"].err = errors.New("down")
		c.nodes["node-3"].hangs = true
		start := time.Now()
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if got := c.notes("node-4"); len(got) != 3 || time.Since(start) > time.Second {
			t.Errorf("noted by %v after %s", got, time.Since(start))
		}
	})
}

// Only owners of the series that are missed note anything.
func TestOnlySharersNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		c.nodes["node-2"].err = errors.New("down")
		if _, err := c.Write(t.Context(), batch("", "333")); err != nil { // slots 0, 1, 2 and 3, 4, 0
			t.Fatal(err)
		}
		if got := c.notes("node-2"); len(got) != 2 || got["node-0"] == 0 || got["node-1"] == 0 {
			t.Errorf("noted by %v, want by node-0 and node-1", got)
		}
	})
}

// An owner whose clock or head says no to what its co-owners took lacks it.
func TestRefusalByOneOwnerIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes["node-1"].refusals = []series.Refusal{{Series: 0, Item: 1, Reason: series.Invalid, Message: "too old sample"}}
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if got := c.notes("node-1"); len(got) != 2 || got["node-0"] != 2000 || got["node-2"] != 2000 {
			t.Errorf("noted by %v, want by both others since 2000", got)
		}
	})
}

// What the cluster refuses is missed by nobody, and a conflict is no gap.
func TestRefusedSamplesAreNotNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes["node-2"].err = errors.New("down")
		for _, id := range []table.NodeID{"node-0", "node-1"} {
			c.nodes[id].refusals = []series.Refusal{{Series: 0, Item: 0, Reason: series.Invalid, Message: "too old sample"}}
		}
		res, err := c.Write(t.Context(), batch("a"))
		if err != nil || len(res.Refused) != 1 {
			t.Fatalf("Write = %+v, %v", res, err)
		}
		if got := c.notes("node-2"); got["node-0"] != 2000 || got["node-1"] != 2000 {
			t.Errorf("noted %v, want since 2000: the older sample is refused", got)
		}

		c = newCluster(t, 3)
		c.nodes["node-1"].refusals = []series.Refusal{{Series: 0, Item: 1, Reason: series.Conflict, Message: "another value"}}
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if got := c.notes("node-1"); len(got) != 0 {
			t.Errorf("a conflict was noted by %v", got)
		}
	})
}

// A holder that refused the sample does not hold it, so its note does not count.
func TestNotesOfThoseWhoDoNotHoldItDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		c.table.Current.ReplicationFactor = 5
		c.nodes["node-4"].err = errors.New("down")
		c.nodes["node-3"].refusals = []series.Refusal{{Series: 0, Item: 0, Reason: series.Invalid, Message: "too old sample"}}
		c.nodes["node-0"].noteErr = errors.New("no space left on device")
		_, err := c.Write(t.Context(), batch("a"))
		var short *ShortError
		if !errors.As(err, &short) {
			t.Fatalf("Write: %v: node-1 and node-2 alone hold the first sample and note who misses it", err)
		}
		if !slices.ContainsFunc(short.Causes, func(s string) bool { return strings.Contains(s, "no space left") }) {
			t.Errorf("causes %q", short.Causes)
		}
	})
}

func TestNoteAtAnotherEpochPlansAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes["node-2"].err = errors.New("down")
		refused := 0
		c.nodes["node-1"].noteErr = &table.MismatchError{Want: 1}
		c.opts.Table = func() (*table.Table, []Placement) {
			if c.nodes["node-1"].asked > 0 {
				refused++
				c.nodes["node-1"].noteErr = nil
			}
			return c.table, []Placement{modulo{3, 3}}
		}
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if got := c.notes("node-2"); len(got) != 2 || refused == 0 {
			t.Errorf("noted by %v, planned anew %d times", got, refused)
		}
	})
}

func TestOwnerNotesForMembersOnly(t *testing.T) {
	c := newCluster(t, 3)
	owner := c.nodes["node-0"].owner
	if err := owner.Note(t.Context(), 1, "stranger", 1); err == nil {
		t.Error("a gap was noted for a node that is no member")
	}
	var mismatch *table.MismatchError
	if err := owner.Note(t.Context(), 2, "node-1", 1); !errors.As(err, &mismatch) {
		t.Errorf("a note of another epoch: %v", err)
	}
}
