//go:build linux

package main

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/drive"
	"github.com/starling-tsdb/starling/bench/ingest/floor"
	"github.com/starling-tsdb/starling/bench/ingest/server"
	"github.com/starling-tsdb/starling/bench/ingest/workload"
	"github.com/starling-tsdb/starling/bench/kit"
)

func TestQuantile(t *testing.T) {
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(99-i))
	}
	for q, want := range map[float64]time.Duration{0: 0, 0.5: 50, 0.9: 90, 0.99: 99, 1: 99} {
		if got := quantile(all, q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("the quantile of nothing is %d", got)
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{1, 4, 2, 9}, 3}} {
		if got := kit.Median(tc.values); got != tc.want {
			t.Errorf("median of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
}

// three is what three nodes have used for 100 series and 1000 further samples.
func three() outcome {
	read := func(cpu time.Duration, sent float64, disk, resident int64) (all []server.Reading) {
		for range 3 {
			all = append(all, server.Reading{CPU: cpu, Waited: cpu / 4, GC: cpu / 4, Sent: sent, Disk: disk, Resident: resident, Peak: 2 * resident, Series: 100})
		}
		return all
	}
	o := outcome{
		scenario: scenario{name: scenarioThree, title: "three", load: drive.Options{Shape: workload.Shape{Series: 100, Scrapes: 11}}},
		copies:   3, names: []string{"a", "b", "c"}, first: 100, steady: 1000, took: 2 * time.Second,
		started: read(0, 10, 0, 0), created: read(1000*time.Microsecond, 100, 500, 0), ended: read(2000*time.Microsecond, 4100, 3500, 60_000),
		answered: read(900*time.Microsecond, 90, 400, 0),
		live:     []int64{10_000, 10_000, 10_000},
	}
	for i := range 10 {
		o.requests = append(o.requests, drive.Request{Took: time.Duration(i) * time.Millisecond, Samples: 100})
	}
	return o
}

func TestFigures(t *testing.T) {
	o := three()
	for name, tc := range map[string]struct {
		figure func() (float64, bool)
		want   float64
	}{
		"CPU per sample":    {o.perSample, 3000},
		"CPU per series":    {o.perSeries, 30_000},
		"wire":              {o.wire, 6},
		"resident":          {o.resident, 600},
		"peak":              {o.peak, 1200},
		"live heap":         {o.liveHeap, 100},
		"disk":              {o.disk, 3},
		"garbage collector": {o.gcShare, 0.2},
		"throughput":        {o.throughput, 500},
	} {
		if got, ok := tc.figure(); !ok || math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%s is %v, %v; want %v", name, got, ok, tc.want)
		}
	}
	o.ended[1].Sent, o.ended[2].Disk, o.live[0] = -1, -1, -1
	for name, figure := range map[string]func() (float64, bool){"wire": o.wire, "disk": o.disk, "live heap": o.liveHeap} {
		if v, ok := figure(); ok {
			t.Errorf("%s is %v, and one server does not tell it", name, v)
		}
	}
}

func testResults() results {
	s := settings{load: three().load}
	one := three()
	one.name, one.copies, one.names = scenarioOne, 1, one.names[:1]
	one.answered = one.answered[:1]
	one.started, one.created, one.ended = one.started[:1], one.created[:1], one.ended[:1]
	return results{
		settings: s, commit: "abc", floors: []floor.Result{{PerSeries: 4 * time.Microsecond, PerSample: 500}, {PerSeries: 5 * time.Microsecond, PerSample: 520}, {PerSeries: 5 * time.Microsecond, PerSample: 900}},
		names:    []string{scenarioOne, scenarioThree, memoryOne},
		outcomes: map[string][]outcome{scenarioOne: {one}, scenarioThree: {three()}, memoryOne: {three()}},
	}
}

func TestTargets(t *testing.T) {
	r := testResults()
	text := ""
	for _, row := range r.targets() {
		text += row.String() + "\n"
	}
	for _, want := range []string{
		"| one: CPU per sample | ≤ 2.5 × the floor | 1.00 µs | 1.92 | yes |",
		"| one: CPU per new series | ≤ 2.5 × the floor | 10.0 µs | 2.00 | yes |",
		"| three: CPU per sample, all nodes | ≤ 2 × (3 × the floor), goal 1.5 | 3.00 µs | 1.92 | yes |",
		"| three: CPU per new series, all nodes | ≤ 2.5 × (3 × the floor) | 30.0 µs | 2.00 | yes |",
		"| three: bytes between nodes per sample and remote copy | ≤ 6 | 6.00 |  | yes |",
		"| memory-one: memory per series and copy, peak | ≤ 1.25 × Prometheus | 1200 B | not measured |  |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no row %q in\n%s", want, text)
		}
	}
	r.floors = []floor.Result{{PerSample: 300, PerSeries: time.Microsecond}}
	if text = r.targets()[0].String(); !strings.HasSuffix(text, "| 3.33 | **no** |") {
		t.Errorf("a target that is missed: %s", text)
	}
}

// Series that are created later are part of the floor: 10 samples of each, a tenth of them the
// first of a series.
func TestFloorOfChurn(t *testing.T) {
	r := testResults()
	o := r.outcomes[scenarioOne][0]
	o.load.Shape.ReplaceEvery = 10
	r.outcomes[scenarioOne][0] = o
	if got, want := r.targets()[0].ratio, kit.Number(1000.0/(520+500)); got != want {
		t.Errorf("the ratio is %s, want %s", got, want)
	}
}

func TestReport(t *testing.T) {
	r := testResults()
	o := r.outcomes[scenarioOne][0]
	o.findings = []*workload.Findings{{Compared: 10, Missing: 2, Examples: []string{"missing: x"}}}
	r.outcomes[scenarioOne][0] = o
	r.failed = []error{errors.New("churn: no servers\nlogs")}
	var b strings.Builder
	report(&b, r)
	for _, want := range []string{"commit abc", "## Targets", "### three", "2 missing", "Failed: churn: no servers\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, b.String())
		}
	}
	if err := r.wrong(); err == nil || !strings.Contains(err.Error(), "no servers") || !strings.Contains(err.Error(), "missing: x") {
		t.Errorf("samples that are missing are no error: %v", err)
	}
}

func TestSettingsNameTheFlag(t *testing.T) {
	for _, args := range [][]string{
		{"-scenarios", "none"}, {"-scenarios", ","}, {"-nodes", "0"}, {"-copies", "9"}, {"-runs", "0"}, {"-queries", "-1"},
		{"-memory-series", "0"}, {"-memory-scrapes", "1"}, {"-replace-series", "0"}, {"-series", "0"}, {"-compose", "-targets", "http://a"},
	} {
		if _, err := parse(args); err == nil || !strings.HasPrefix(err.Error(), args[0]+" ") && !strings.HasPrefix(err.Error(), args[0]+":") {
			t.Errorf("%v: error %v does not name the flag", args, err)
		}
	}
	s, err := parse([]string{"-scenarios", "all", "-targets", "http://a,http://b"})
	if err != nil || len(s.suite.scenarios) != len(scenarioNames)-1 || s.where.copies != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}
