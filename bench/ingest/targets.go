//go:build linux

package main

import (
	"fmt"
	"strings"

	"github.com/starling-tsdb/starling/bench/ingest/floor"
	"github.com/starling-tsdb/starling/bench/kit"
)

// What the write path is to cost at most.
const (
	oneNodeTarget   = 2.5  // × the floor, CPU per sample
	clusterTarget   = 2.0  // × copies × the floor
	clusterGoal     = 1.5  // what is hoped for
	newSeriesTarget = 2.5  // × copies × the floor, CPU per new series
	wireTarget      = 6.0  // bytes per sample and remote copy
	memoryTarget    = 1.25 // × Prometheus, per series and copy
	// growthTarget is what the most memory of the last generation of series may be of that
	// of the third, before which the head has not been cut yet.
	growthTarget = 1.25
)

// row is a line of the table of targets.
type row struct {
	figure, target, measured, ratio, ok string
}

// String is the line.
func (r row) String() string {
	return "| " + strings.Join([]string{r.figure, r.target, r.measured, r.ratio, r.ok}, " | ") + " |"
}

const notMeasured = "not measured"

// judge fills in whether a figure is what it may be at most.
func judge(v, most float64) string {
	if v <= most {
		return "yes"
	}
	return "**no**"
}

// targets are the rows of all measurements.
func (r *results) targets() (rows []row) {
	for _, name := range r.names {
		switch name {
		case memoryPrometheus, memoryOne, memoryThree:
			rows = append(rows, r.memoryRows(name)...)
		case scenarioReplace:
			rows = append(append(rows, r.costRows(name)...), r.growthRows(name)...)
		default:
			rows = append(rows, r.costRows(name)...)
		}
		rows = append(rows, r.refusedRow(name))
	}
	return rows
}

// costRows are CPU and bytes between nodes.
func (r *results) costRows(name string) []row {
	o := r.outcomes[name][0]
	series := r.floor(func(f floor.Result) float64 { return float64(f.PerSeries) })
	// What the engine takes to create the series that come after the first scrape is part of
	// what it takes for their samples.
	shape := o.load.Shape
	created := float64(shape.Created()-shape.Series) / float64(shape.Series*(shape.Scrapes-1))
	sample := r.floor(func(f floor.Result) float64 { return f.PerSample }) + created*series
	times := func(most float64) string { return fmt.Sprintf("≤ %g × the floor", most) }
	most, all, goal := oneNodeTarget, "", ""
	if o.copies > 1 {
		times = func(most float64) string { return fmt.Sprintf("≤ %g × (%d × the floor)", most, o.copies) }
		most, all, goal = clusterTarget, ", all nodes", fmt.Sprintf(", goal %g", clusterGoal)
	}
	rows := []row{
		r.cpuRow(name, "CPU per sample"+all, times(most)+goal, sample*float64(o.copies), most, outcome.perSample),
		r.cpuRow(name, "CPU per new series"+all, times(newSeriesTarget), series*float64(o.copies), newSeriesTarget, outcome.perSeries),
	}
	if o.copies > 1 {
		wire := row{figure: name + ": bytes between nodes per sample and remote copy", target: fmt.Sprintf("≤ %g", wireTarget), measured: notMeasured}
		if v, ok := r.of(name, outcome.wire); ok {
			wire.measured, wire.ok = kit.Number(v), judge(v, wireTarget)
		}
		rows = append(rows, wire)
	}
	return rows
}

func (r *results) cpuRow(name, figure, target string, base, most float64, of func(outcome) (float64, bool)) row {
	line := row{figure: name + ": " + figure, target: target, measured: notMeasured}
	if v, ok := r.of(name, of); ok {
		line.measured, line.ratio, line.ok = micro(v), kit.Number(v/base), judge(v/base, most)
	}
	return line
}

// memoryRows compare with Prometheus, if that was measured.
func (r *results) memoryRows(name string) (rows []row) {
	for _, m := range []struct {
		figure string
		of     func(outcome) (float64, bool)
	}{{"peak", outcome.peak}, {"resident at the end", outcome.resident}, {"heap in use, after collecting garbage", outcome.liveHeap}} {
		line := row{figure: name + ": memory per series and copy, " + m.figure, measured: notMeasured}
		v, ok := r.of(name, m.of)
		if ok {
			line.measured = kit.Number(v) + " B"
		}
		if name != memoryPrometheus {
			line.target, line.ratio = fmt.Sprintf("≤ %g × Prometheus", memoryTarget), notMeasured
			if base, known := r.of(memoryPrometheus, m.of); ok && known {
				line.ratio, line.ok = kit.Number(v/base), judge(v/base, memoryTarget)
			}
		}
		rows = append(rows, line)
	}
	return rows
}

// growthRows compare the last generation of series with the third.
func (r *results) growthRows(name string) (rows []row) {
	shape := r.outcomes[name][0].load.Shape
	last := (shape.Scrapes - 1) / shape.ReplaceEvery
	const first = 2
	for _, m := range []struct {
		figure, unit string
		scale        float64
		of           func(o outcome, generation int) (float64, bool)
	}{
		{"resident memory of all nodes", " MB", 1e-6, func(o outcome, n int) (float64, bool) { return o.peakIn(n, residentOf) }},
		{"series in memory of all nodes", "", 1, func(o outcome, n int) (float64, bool) { return o.peakIn(n, seriesOf) }},
	} {
		line := row{
			figure:   fmt.Sprintf("%s: %s, most in generation %d against %d", name, m.figure, last+1, first+1),
			target:   fmt.Sprintf("≤ %g ×", growthTarget),
			measured: notMeasured,
		}
		after, ok := r.of(name, func(o outcome) (float64, bool) { return m.of(o, last) })
		before, ok2 := r.of(name, func(o outcome) (float64, bool) { return m.of(o, first) })
		if ok && ok2 && before > 0 {
			line.measured = kit.Number(after*m.scale) + m.unit + ", " + kit.Number(before*m.scale) + m.unit
			line.ratio, line.ok = kit.Number(after/before), judge(after/before, growthTarget)
		}
		rows = append(rows, line)
	}
	return rows
}

// refusedRow counts what servers did not take, or only when it was sent again.
func (r *results) refusedRow(name string) row {
	v, _ := r.of(name, func(o outcome) (float64, bool) { return float64(o.counts.Refused + o.counts.Failed), true })
	dropped, _ := r.of(name, func(o outcome) (float64, bool) { return float64(o.counts.Dropped), true })
	return row{
		figure: name + ": requests sent again; samples given up", target: "0; 0",
		measured: fmt.Sprintf("%.0f; %.0f", v, dropped), ok: judge(v+dropped, 0),
	}
}

// micro is a CPU time in microseconds.
func micro(ns float64) string { return kit.Number(ns/1000) + " µs" }
