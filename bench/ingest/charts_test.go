//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/chart"
	"github.com/starling-tsdb/starling/bench/ingest/drive"
	"github.com/starling-tsdb/starling/bench/ingest/server"
)

func TestCharts(t *testing.T) {
	o := three()
	o.begun = time.Unix(1000, 0)
	for i := range 3 {
		all := slices.Clone(o.created)
		for j := range all {
			all[j].CPU += time.Duration(i) * time.Millisecond
			all[j].GC += time.Duration(i) * time.Millisecond / 10
			all[j].Sent = -1
		}
		o.points = append(o.points, server.Point{At: o.begun.Add(time.Duration(i) * time.Second), Samples: 1000 * i, Servers: all})
	}
	o.requests = []drive.Request{
		{End: o.begun.Add(500 * time.Millisecond), Took: 4 * time.Millisecond},
		{End: o.begun.Add(2500 * time.Millisecond), Took: 8 * time.Millisecond},
	}
	want := map[string][]chart.Point{
		"throughput": {{X: 1, Y: 1000}, {X: 2, Y: 1000}},
		"latency":    {{X: 1, Y: 4}, {X: 3, Y: 8}},
		"cpu":        {{X: 1, Y: 1}, {X: 2, Y: 1}},
		"gc":         {{X: 1, Y: 10}, {X: 2, Y: 10}},
		"disk":       {{X: 1, Y: 0.5}, {X: 2, Y: 0.25}},
		"wire":       nil,
	}
	for _, c := range charts(o) {
		points, listed := want[c.Name]
		if listed && !slices.Equal(c.Lines[0].Points, points) {
			t.Errorf("%s is %v, want %v", c.Name, c.Lines[0].Points, points)
		}
		if c.Empty() != (c.Name == "wire") {
			t.Errorf("%s is empty: %v", c.Name, c.Empty())
		}
		delete(want, c.Name)
	}
	if len(want) > 0 {
		t.Errorf("no charts of %v", want)
	}
}

func TestGrowth(t *testing.T) {
	r := testResults()
	o := three()
	o.load.Shape.Scrapes, o.load.Shape.ReplaceEvery = 300, 60
	for scrape := range 300 {
		each := server.Reading{Resident: 1e6 * int64(1+scrape/60), Series: 10}
		o.points = append(o.points, server.Point{Scrapes: scrape, Servers: []server.Reading{each, each, each}})
	}
	r.outcomes[scenarioReplace] = []outcome{o}
	rows := r.growthRows(scenarioReplace)
	if s := rows[0].String(); !strings.HasSuffix(s, "| 15.0 MB, 9.00 MB | 1.67 | **no** |") {
		t.Errorf("memory that grows: %s", s)
	}
	if s := rows[1].String(); !strings.HasSuffix(s, "| 30.0, 30.0 | 1.00 | yes |") {
		t.Errorf("series that do not grow: %s", s)
	}
}

// The scenarios that are asked for, in this order, each with servers to start.
func TestScenarios(t *testing.T) {
	s, err := parse([]string{"-scenarios", "one,memory,replace,load", "-prometheus", "prometheus", "-protocol", "2"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, sc := range s.all(programs{starling: "starling", prometheus: "prometheus"}) {
		names = append(names, sc.name)
		if sc.start == nil || sc.load.Check() != nil || sc.reference != (sc.name == memoryPrometheus) {
			t.Errorf("%s is %+v", sc.name, sc)
		}
	}
	if want := []string{scenarioOne, memoryPrometheus, memoryOne, memoryThree, scenarioReplace, scenarioLoad}; !slices.Equal(names, want) {
		t.Errorf("scenarios are %v, want %v", names, want)
	}
	if len(s.where.nodeArgs) != 0 {
		t.Errorf("flags of one scenario are those of all: %v", s.where.nodeArgs)
	}
}
