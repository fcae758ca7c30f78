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
	now := time.UnixMilli(1_700_000_000_000)
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixMilli() }
	oldest, started := ago(100*time.Hour), now.Add(-time.Minute)
	for _, c := range []struct {
		name    string
		copying transport.Copying
		oldest  int64
		want    api.CopyStatus
	}{
		{"nothing is said", transport.Copying{}, oldest, api.CopyStatus{}},
		{"it is about an earlier phase", transport.Copying{Began: 4, Ready: true, Samples: 9}, oldest, api.CopyStatus{}},
		{"at the beginning", transport.Copying{Began: 5, Until: math.MinInt64, Started: started, Timed: transport.Mark{Ago: time.Minute, Until: math.MinInt64}}, oldest,
			api.CopyStatus{Started: &started}},
		{"before the oldest sample", transport.Copying{Began: 5, Until: oldest - 1}, oldest, api.CopyStatus{}},
		{"a quarter is done", transport.Copying{Began: 5, Until: ago(75 * time.Hour), Samples: 1000, Timed: transport.Mark{Ago: 10 * time.Second, Until: math.MinInt64}}, oldest,
			api.CopyStatus{Done: 0.25, Samples: 1000, SamplesLeft: 3000, SamplesPerSecond: 100, SecondsLeft: 30}},
		{"a half is done, half of that after a restart", transport.Copying{Began: 5, Until: ago(50 * time.Hour), Samples: 1000, Timed: transport.Mark{Ago: 10 * time.Second, Until: ago(75 * time.Hour), Samples: 600}}, oldest,
			api.CopyStatus{Done: 0.5, Samples: 1000, SamplesLeft: 1000, SamplesPerSecond: 40, SecondsLeft: 20}},
		{"it is paused", transport.Copying{Began: 5, Until: ago(50 * time.Hour), Samples: 1000}, oldest,
			api.CopyStatus{Done: 0.5, Samples: 1000, SamplesLeft: 1000}},
		{"all is copied, and gaps are open", transport.Copying{Began: 5, Until: math.MaxInt64, Samples: 7}, oldest, api.CopyStatus{Done: 1, Samples: 7}},
		{"ready", transport.Copying{Began: 5, Until: math.MaxInt64, Ready: true, Samples: 7}, oldest, api.CopyStatus{Ready: true, Done: 1, Samples: 7}},
		{"an empty cluster", transport.Copying{Began: 5, Until: ago(time.Hour)}, math.MaxInt64, api.CopyStatus{}},
		{"samples of the future alone", transport.Copying{Began: 5, Until: ago(-2 * time.Hour)}, ago(-time.Hour), api.CopyStatus{}},
	} {
		got := copyStatus(c.copying, 5, c.oldest, now)
		if got.Started != nil && c.want.Started != nil && got.Started.Equal(*c.want.Started) {
			got.Started = c.want.Started
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
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
