package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/partial"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

// owned is a node that owns a part of the series, and serves them by proof. Each sample's
// time is the node's slot, so that it shows who served.
type owned struct {
	failing
	slot   int
	owners map[string][]int // by metric name
	state  proof.State

	stateDelay, delay time.Duration
	stateErr          error
	err               error // of Select
	once              bool  // err holds for the first call only
	hangs             bool  // in Select, and says nothing from then on
	selects           atomic.Int64
	asked             atomic.Pointer[SelectRequest] // last
}

func (o *owned) State(ctx context.Context) (proof.State, error) {
	if o.hangs && o.selects.Load() > 0 {
		<-ctx.Done()
		return proof.State{}, ctx.Err()
	}
	if err := waitFor(ctx, o.stateDelay); err != nil {
		return proof.State{}, err
	}
	return o.state, o.stateErr
}

func waitFor(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *owned) Select(ctx context.Context, req SelectRequest) storage.ChunkSeriesSet {
	n := o.selects.Add(1)
	o.asked.Store(&req)
	if o.hangs {
		<-ctx.Done()
		return storage.ErrChunkSeriesSet(ctx.Err())
	}
	if err := waitFor(ctx, o.delay); err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	if o.err != nil && (!o.once || n == 1) {
		return storage.ErrChunkSeriesSet(o.err)
	}
	set, names := &listSet{}, o.serves(req)
	if req.Most > 0 && len(names) > req.Most {
		return storage.ErrChunkSeriesSet(ErrManySeries)
	}
	for _, name := range names {
		set.series = append(set.series, chunkList(labels.FromStrings(labels.MetricName, name), smallChunk(int64(o.slot))))
	}
	return set
}

// serves returns the names of the series that the node serves.
func (o *owned) serves(req SelectRequest) (names []string) {
	for _, name := range []string{"a", "b", "c"} {
		owners := o.owners[name]
		if !slices.Contains(owners, o.slot) {
			continue
		}
		if req.Proof == nil || req.Proof.Share(&table.Assignment{ReplicationFactor: 3}, o.slot).Serves(owners) {
			names = append(names, name)
		}
	}
	return names
}

// rig is three nodes that own everything, in different orders.
func rig() (*Fanout, []*owned) {
	owners := map[string][]int{"a": {0, 1, 2}, "b": {1, 2, 0}, "c": {2, 0, 1}}
	t := &table.Assignment{ReplicationFactor: 3}
	v := View{Epoch: 1, Quorum: 2, Copies: 3, Assignment: t}
	var nodes []*owned
	for i := range 3 {
		o := &owned{slot: i, owners: owners}
		id := table.NodeID(fmt.Sprintf("n%d", i))
		t.Slots = append(t.Slots, table.Slot{Node: id})
		v.Nodes = append(v.Nodes, Node{ID: id, Slot: i, Source: o})
		nodes = append(nodes, o)
	}
	return New(Options{View: func() (View, error) { return v, nil }}), nodes
}

// served returns the slots that served each series: "a:0 b:1 c:2".
func served(ctx context.Context, t *testing.T, f *Fanout) (string, int, error) {
	t.Helper()
	q, err := f.Querier(-10, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(ctx, true, nil, everything())
	var parts []string
	for set.Next() {
		part := set.At().Labels().Get(labels.MetricName) + ":"
		for _, s := range drain(t, set.At().Iterator(nil)) {
			part += fmt.Sprint(s.T)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " "), len(set.Warnings()), set.Err()
}

// What is expired here nobody is asked for, and nobody has to vouch for. The horizon counts as it
// is when a node has said its own.
func TestNothingExpiredIsAskedFor(t *testing.T) {
	f, nodes := rig()
	horizon := int64(minTime)
	f.opts.Horizon = func() int64 { return horizon }
	nodes[2].state.Expired = []proof.Range{{Min: minTime, Max: 4}}
	nodes[1].state.Damage = []proof.Range{{Min: -10, Max: 3}}
	if _, _, err := served(t.Context(), t, f); err == nil {
		t.Error("with one node of three")
	}
	horizon = 5
	if got, _, err := served(t.Context(), t, f); got != "a:0 b:1 c:2" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, n := range nodes {
		if req := n.asked.Load(); req.Mint != 5 || req.Hints.Start != 5 || req.Hints.DisableTrimming || req.Maxt != 1000 {
			t.Errorf("node %d was asked for %+v, hints %+v", n.slot, req, req.Hints)
		}
	}
}

func TestEachSeriesIsReadOnce(t *testing.T) {
	gap := func(peer string, since int64) proof.State {
		return proof.State{Gaps: []proof.Gap{{Peer: table.NodeID(peer), Since: since}}}
	}
	expired := func(until int64) []proof.Range { return []proof.Range{{Min: minTime, Max: until}} }
	broken := errors.New("stream reset")
	for _, tc := range []struct {
		name    string
		change  func(n []*owned)
		partial bool
		want    string
		err     string
		within  time.Duration
	}{
		{name: "all well", change: func([]*owned) {}, want: "a:0 b:1 c:2"},
		{name: "one down", change: func(n []*owned) { n[1].stateErr = errDown }, want: "a:0 b:2 c:2", within: stateGrace},
		{name: "one slow to say what it holds", change: func(n []*owned) { n[1].stateDelay = time.Hour }, want: "a:0 b:2 c:2", within: stateGrace},
		{name: "two down", change: func(n []*owned) { n[0].stateErr, n[1].stateErr = errDown, errDown }, err: "2 of 3 nodes did not answer"},
		{name: "two slow", change: func(n []*owned) { n[0].stateDelay, n[1].stateDelay = time.Hour, time.Hour }, err: "2 of 3 nodes did not answer", within: stateTimeout},
		{name: "two down, partial", change: func(n []*owned) { n[0].stateErr, n[1].stateErr = errDown, errDown }, partial: true, want: "a:2 b:2 c:2"},
		{name: "one is noted", change: func(n []*owned) { n[0].state = gap("n1", 0) }, want: "a:0 b:2 c:2"},
		{name: "one is noted for later", change: func(n []*owned) { n[0].state = gap("n1", 1001) }, want: "a:0 b:1 c:2"},
		{name: "two note each other, one down", change: func(n []*owned) {
			n[0].state, n[1].state, n[2].stateErr = gap("n1", 0), gap("n0", 0), errDown
		}, want: "a:01 b:01 c:01"},
		{name: "one damaged in range", change: func(n []*owned) { n[2].state.Damage = []proof.Range{{Min: 1000, Max: 2000}} }, want: "a:0 b:1 c:0"},
		{name: "one damaged elsewhere", change: func(n []*owned) { n[2].state.Damage = []proof.Range{{Min: 1001, Max: 2000}} }, want: "a:0 b:1 c:2"},
		{name: "on one samples of the range are expired", change: func(n []*owned) { n[1].state.Expired = expired(0) }, want: "a:0 b:2 c:2"},
		{name: "older samples are expired", change: func(n []*owned) { n[1].state.Expired = expired(-11) }, want: "a:0 b:1 c:2"},
		{name: "expired on one, one down", change: func(n []*owned) { n[1].state.Expired, n[0].stateErr = expired(0), errDown }, err: "samples of this range are expired on the node"},
		{name: "one damaged, one down", change: func(n []*owned) {
			n[2].state.Damage, n[0].stateErr = []proof.Range{{Min: 0, Max: 1}}, errDown
		}, err: "damaged"},
		{name: "one fails midway", change: func(n []*owned) { n[1].err = broken }, want: "a:0 b:2 c:2"},
		{name: "two fail midway", change: func(n []*owned) { n[1].err, n[2].err = broken, broken }, err: "stream reset"},
		{name: "one falls silent midway", change: func(n []*owned) { n[1].hangs = true }, want: "a:0 b:2 c:2", within: watchInterval + silence + stateGrace},
		{name: "one takes its time", change: func(n []*owned) { n[1].delay = time.Minute }, want: "a:0 b:1 c:2", within: time.Minute},
		{name: "one is at another epoch for a moment", change: func(n []*owned) {
			n[1].err, n[1].once = &table.MismatchError{Have: &table.Table{Epoch: 2}}, true
		}, want: "a:0 b:1 c:2", within: time.Second},
		{name: "one stays at another epoch", change: func(n []*owned) {
			n[1].err = &table.MismatchError{Have: &table.Table{Epoch: 2}}
		}, err: "the table is changing", within: time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, nodes := rig()
				tc.change(nodes)
				ctx := t.Context()
				if tc.partial {
					ctx = partial.With(ctx)
				}
				start := time.Now()
				got, warnings, err := served(ctx, t, f)
				if took := time.Since(start); took > tc.within {
					t.Errorf("took %s, want at most %s", took, tc.within)
				}
				if tc.err == "" && (err != nil || got != tc.want) {
					t.Errorf("served %q, %v; want %q", got, err, tc.want)
				}
				if tc.err != "" {
					var unavailable interface{ Unavailable() bool }
					if err == nil || !strings.Contains(err.Error(), tc.err) || !errors.As(err, &unavailable) {
						t.Errorf("%q and error %v, want one with %q", got, err, tc.err)
					}
				}
				if (warnings > 0) != tc.partial {
					t.Errorf("%d warnings", warnings)
				}
			})
		})
	}
}

func TestUnsettledTablesAreReadWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, nodes := rig()
		view, _ := f.opts.View()
		view.Assignment = nil
		f.opts.View = func() (View, error) { return view, nil }
		nodes[0].state = proof.State{Gaps: []proof.Gap{{Peer: "n1"}}}
		if got, _, err := served(t.Context(), t, f); err != nil || got != "a:012 b:012 c:012" {
			t.Errorf("served %q, %v", got, err)
		}
	})
}

func TestCanceledProvenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, nodes := rig()
		nodes[1].delay = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, _, err := served(ctx, t, f); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the caller's deadline", err)
		}
	})
}
