package query

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/table"
)

// TestNearby: the node that asks reads few series alone, where it holds all that the others do.
func TestNearby(t *testing.T) {
	note := func(peer table.NodeID) proof.State { return proof.State{Gaps: []proof.Gap{{Peer: peer}}} }
	for _, tc := range []struct {
		name   string
		change func(f *Fanout, n []*owned)
		// served tells for each series by whom, asked how often each node was.
		served string
		asked  [3]int64
		// outcome is what is counted of a nearby read, "" if there was none.
		outcome string
	}{
		{"few series", func(*Fanout, []*owned) {}, "a:1 b:1 c:1", [3]int64{0, 1, 0}, "complete"},
		{"another node is down", func(_ *Fanout, n []*owned) { n[0].stateErr = errDown }, "a:1 b:1 c:1", [3]int64{0, 1, 0}, "complete"},
		{"another node is noted", func(_ *Fanout, n []*owned) { n[1].state = note("n0") }, "a:1 b:1 c:1", [3]int64{0, 1, 0}, "complete"},
		{"it is noted by another", func(_ *Fanout, n []*owned) { n[2].state = note("n1") }, "a:0 b:2 c:2", [3]int64{1, 1, 1}, ""},
		{"many series", func(f *Fanout, _ []*owned) { f.opts.NearbyWork = 3 }, "a:0 b:1 c:2", [3]int64{1, 2, 1}, "divided"},
		{"it fails", func(_ *Fanout, n []*owned) { n[1].err = errDown }, "a:0 b:2 c:2", [3]int64{1, 1, 1}, "error"},
		{"it is damaged", func(_ *Fanout, n []*owned) { n[1].state.Damage = []proof.Range{{Max: 1}} }, "a:0 b:2 c:2", [3]int64{1, 0, 1}, ""},
		{"turned off", func(f *Fanout, _ []*owned) { f.opts.NearbyWork = -1 }, "a:0 b:1 c:2", [3]int64{1, 1, 1}, ""},
		{"more nodes than copies", func(f *Fanout, _ []*owned) {
			view, _ := f.opts.View()
			view.Assignment.Slots = append(view.Assignment.Slots, table.Slot{Node: "n3"})
		}, "a:0 b:1 c:2", [3]int64{1, 1, 1}, ""},
		{"it is no member", func(f *Fanout, _ []*owned) {
			view, _ := f.opts.View()
			view.Self = "n7"
			f.opts.View = func() (View, error) { return view, nil }
		}, "a:0 b:1 c:2", [3]int64{1, 1, 1}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, nodes := rig()
				view, _ := f.opts.View()
				view.Self = "n1"
				f.opts.View = func() (View, error) { return view, nil }
				tc.change(f, nodes)
				ctx, told := spent.With(t.Context())
				got, warnings, err := served(ctx, t, f)
				asked := [3]int64{}
				for i, n := range nodes {
					asked[i] = n.selects.Load()
				}
				if got != tc.served || warnings > 0 || err != nil || asked != tc.asked {
					t.Errorf("%q, %d warnings, error %v; asked %v", got, warnings, err, asked)
				}
				for _, outcome := range []string{"complete", "divided", "error"} {
					want := 0.0
					if outcome == tc.outcome {
						want = 1
					}
					if n := testutil.ToFloat64(f.metrics.nearby.WithLabelValues(outcome)); n != want {
						t.Errorf("%v nearby reads %s", n, outcome)
					}
				}
				for _, read := range told.Reads() {
					_, noted := read.Noted()
					for _, n := range noted {
						if n.Failed != "" && tc.outcome != "error" {
							t.Errorf("told of %+v", n)
						}
					}
				}
			})
		})
	}
}

// TestNearbyIsNotPartial: an answer that lacks something is not made to lack what the others have.
func TestNearbyIsNotPartial(t *testing.T) {
	f, _ := rig()
	states := gathered[stated]{answers: make([]stated, 2)}
	states.view, _ = f.opts.View()
	states.view.Self = "n1"
	for i := range states.answers {
		states.answers[i].Node = states.view.Nodes[i]
	}
	req := SelectRequest{Hints: &storage.SelectHints{}, Proof: &proof.Proof{Quorum: 2, Nodes: []proof.Node{{Slot: 0}, {Slot: 1}}}}
	if near, ok := f.nearby(req, states); !ok || near.states.answers[0].ID != "n1" {
		t.Errorf("of a whole answer: %t, %+v", ok, near)
	}
	states.warnings.Add(&PartialWarning{})
	if near, ok := f.nearby(req, states); ok {
		t.Errorf("of a partial answer: %+v", near)
	}
}

func TestNearbySeries(t *testing.T) {
	hour := time.Hour.Milliseconds()
	for _, tc := range []struct {
		work int
		span proof.Range
		want int
	}{
		{256, proof.Range{Min: 5, Max: 5}, 256},
		{256, proof.Range{Min: 5, Max: 5 + hour}, 128},
		{256, proof.Range{Max: 255 * hour}, 1},
		{256, proof.Range{Max: 256 * hour}, 0},
		{256, proof.Range{Min: math.MinInt64, Max: math.MaxInt64}, 0},
		{256, proof.Range{Min: math.MaxInt64, Max: math.MinInt64}, 256},
		{-1, proof.Range{}, -1},
	} {
		if got := nearbySeries(tc.work, tc.span); got != tc.want {
			t.Errorf("%d of work in %v: %d series, want %d", tc.work, tc.span, got, tc.want)
		}
	}
}

// TestNearbyCanceled: the caller's own cancellation is none of the node's failures.
func TestNearbyCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, nodes := rig()
		view, _ := f.opts.View()
		view.Self = "n1"
		f.opts.View = func() (View, error) { return view, nil }
		nodes[1].delay = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := served(ctx, t, f); !errors.Is(err, context.DeadlineExceeded) || nodes[0].selects.Load() > 0 {
			t.Errorf("error %v, and %d reads of another node", err, nodes[0].selects.Load())
		}
	})
}
