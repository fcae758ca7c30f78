package node

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

func TestCopyStatus(t *testing.T) {
	start := time.UnixMilli(1_700_000_000_000).UTC()
	at := func(d time.Duration) int64 { return start.Add(d).UnixMilli() }
	utc := func(d time.Duration) *time.Time { t := start.Add(d); return &t }
	// Two nodes with two blocks each, the second one of them with three times as much.
	from := []transport.Extent{
		{Min: at(0), Max: at(10*time.Hour) - 1, Bytes: 50}, {Min: at(10 * time.Hour), Max: at(20*time.Hour) - 1, Bytes: 150},
		{Min: at(0), Max: at(10*time.Hour) - 1, Bytes: 50}, {Min: at(10 * time.Hour), Max: at(20*time.Hour) - 1, Bytes: 150},
	}
	for _, c := range []struct {
		name    string
		copying transport.Copying
		from    []transport.Extent
		want    api.CopyStatus
	}{
		{"nothing is said", transport.Copying{}, from, api.CopyStatus{}},
		{"it is about an earlier phase", transport.Copying{Began: 4, Ready: true, Samples: 9}, from, api.CopyStatus{}},
		{"at the beginning", transport.Copying{Began: 5, Until: math.MinInt64, Started: start, Timed: transport.Mark{Ago: time.Minute, Until: math.MinInt64}}, from,
			api.CopyStatus{Started: &start}},
		{"before the oldest sample", transport.Copying{Began: 5, Until: at(-1)}, from, api.CopyStatus{Until: utc(-time.Millisecond)}},
		{"the first blocks", transport.Copying{Began: 5, Until: at(10 * time.Hour), Samples: 1000, Bytes: 500, Timed: transport.Mark{Ago: 10 * time.Second, Until: math.MinInt64}}, from,
			api.CopyStatus{Done: 0.25, Until: utc(10 * time.Hour), Samples: 1000, SamplesLeft: 3000, SamplesPerSecond: 100,
				Bytes: 500, BytesLeft: 1500, BytesPerSecond: 50, SecondsLeft: 30}},
		{"in the middle of a block, a part of it after a restart", transport.Copying{Began: 5, Until: at(12 * time.Hour), Samples: 1000, Bytes: 80,
			Timed: transport.Mark{Ago: 10 * time.Second, Until: at(10 * time.Hour), Samples: 600, Bytes: 40}}, from,
			api.CopyStatus{Done: 0.4, Until: utc(12 * time.Hour), Samples: 1000, SamplesLeft: 1500, SamplesPerSecond: 40,
				Bytes: 80, BytesLeft: 120, BytesPerSecond: 4, SecondsLeft: 40}},
		{"it is paused", transport.Copying{Began: 5, Until: at(10 * time.Hour), Samples: 1000}, from,
			api.CopyStatus{Done: 0.25, Until: utc(10 * time.Hour), Samples: 1000, SamplesLeft: 3000}},
		{"all is copied, and gaps are open", transport.Copying{Began: 5, Until: math.MaxInt64, Samples: 7}, from, api.CopyStatus{Done: 1, Samples: 7}},
		{"ready", transport.Copying{Began: 5, Until: math.MaxInt64, Ready: true, Samples: 7, Bytes: 8}, from, api.CopyStatus{Ready: true, Done: 1, Samples: 7, Bytes: 8}},
		{"an empty cluster", transport.Copying{Began: 5, Until: at(0)}, nil, api.CopyStatus{Until: utc(0)}},
	} {
		got := copyStatus(c.copying, 5, c.from)
		got.SecondsLeft, got.Done = math.Round(got.SecondsLeft*1e6)/1e6, math.Round(got.Done*1e6)/1e6
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// What a node copies from is what the present owners hold that have answered, but for itself.
func TestSources(t *testing.T) {
	p := &placed{reading: &assigned{Assignment: &table.Assignment{Slots: []table.Slot{{Node: "a"}, {Node: "b"}, {Node: "silent"}}}}}
	reports := map[table.NodeID]transport.Report{}
	for i, id := range []table.NodeID{"a", "b", "joining"} {
		reports[id] = transport.Report{Extents: []transport.Extent{{Bytes: uint64(i)}}}
	}
	for id, want := range map[table.NodeID]int{"joining": 2, "a": 1} {
		if got := sources(p, id, reports); len(got) != want {
			t.Errorf("%s copies from %v, want %d", id, got, want)
		}
	}
}

func TestStopwatch(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var w stopwatch
	if got := w.read(at(0)); got != (transport.Mark{}) {
		t.Errorf("before it was started: %+v", got)
	}
	look := func(s int, samples int64, paused bool) {
		w.look(handoff.Progress{Began: 5, Until: samples, Samples: samples}, &handoff.Move{Began: 5, Paused: paused}, at(s))
	}
	for _, c := range []struct {
		name string
		do   func()
		want transport.Mark
	}{
		{"started", func() { look(0, 10, false) }, transport.Mark{Ago: 9 * time.Second, Until: 10, Samples: 10}},
		{"it runs on", func() { look(1, 20, false) }, transport.Mark{Ago: 9 * time.Second, Until: 10, Samples: 10}},
		{"paused", func() { look(2, 30, true) }, transport.Mark{}},
		{"gone on with", func() { look(3, 30, false) }, transport.Mark{Ago: 6 * time.Second, Until: 30, Samples: 30}},
		{"another phase that has not begun", func() { w.look(handoff.Progress{Began: 5}, &handoff.Move{Began: 6}, at(4)) }, transport.Mark{}},
		{"another phase", func() { w.look(handoff.Progress{Began: 6}, &handoff.Move{Began: 6}, at(5)) }, transport.Mark{Ago: 4 * time.Second}},
		{"ready", func() { w.look(handoff.Progress{Began: 6, Ready: true}, &handoff.Move{Began: 6}, at(6)) }, transport.Mark{}},
	} {
		if c.do(); w.read(at(9)) != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, w.read(at(9)), c.want)
		}
	}
}

func TestPhaseSince(t *testing.T) {
	was, now := time.Unix(1000, 0), time.Unix(2000, 0)
	in := func(began uint64) *table.Table {
		if began == 0 {
			return &table.Table{}
		}
		return &table.Table{Transition: &table.Transition{Began: began}}
	}
	for _, c := range []struct {
		name          string
		before, after uint64
		since, want   time.Time
	}{
		{"it begins", 0, 5, time.Time{}, now},
		{"another table of the phase", 5, 5, was, was},
		{"another table of a phase that the node did not see begin", 5, 5, time.Time{}, time.Time{}},
		{"the next phase", 5, 6, was, now},
		{"the end", 5, 0, was, time.Time{}},
	} {
		if got := phaseSince(&placed{table: in(c.before), since: c.since}, in(c.after), now); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// A phase that this node has just learned of has begun now, whatever was reported before.
func TestFirstSeen(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000).UTC()
	report := func(began uint64, since time.Time) transport.Report {
		return transport.Report{PhaseBegan: began, PhaseSince: since}
	}
	for _, tc := range []struct {
		name    string
		since   time.Time
		reports map[table.NodeID]transport.Report
		want    time.Time // zero for nobody knows
	}{
		{name: "reports are of the phase before", since: at, reports: map[table.NodeID]transport.Report{"a": report(6, at.Add(-time.Minute))}, want: at},
		{name: "another node was earlier", since: at, reports: map[table.NodeID]transport.Report{"a": report(7, at.Add(-time.Second)), "b": report(7, at)}, want: at.Add(-time.Second)},
		{name: "this node has restarted", reports: map[table.NodeID]transport.Report{"a": report(7, time.Time{}), "b": report(7, at)}, want: at},
		{name: "all have restarted", reports: map[table.NodeID]transport.Report{"a": report(7, time.Time{})}},
	} {
		p := &placed{since: tc.since, table: &table.Table{Transition: &table.Transition{Began: 7}}}
		got := firstSeen(p, tc.reports)
		if (got == nil) != tc.want.IsZero() || got != nil && !got.Equal(tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
