//go:build linux

package main

import (
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/chart"
	"github.com/starling-tsdb/starling/bench/ingest/server"
)

// charts show the steady phase of a measurement over time.
func charts(o outcome) []chart.Chart {
	all := []chart.Chart{
		{Name: "throughput", Title: "Samples acknowledged", Unit: "samples/s", Lines: []chart.Line{{Name: "all", Points: o.between(func(a, b server.Point) (float64, bool) {
			return float64(b.Samples-a.Samples) / b.At.Sub(a.At).Seconds(), true
		})}}},
		{Name: "latency", Title: "Latency of a request", Unit: "ms", Lines: o.latencyLines()},
	}
	node := func(c chart.Chart, value func(a, b server.Point, i int) (float64, bool)) {
		for i, name := range o.names {
			c.Lines = append(c.Lines, chart.Line{Name: name, Points: o.between(func(a, b server.Point) (float64, bool) { return value(a, b, i) })})
		}
		all = append(all, c)
	}
	node(chart.Chart{Name: "cpu", Title: "CPU per sample of all nodes' load, by node", Unit: "µs"}, func(a, b server.Point, i int) (float64, bool) {
		n := b.Samples - a.Samples
		return float64(b.Servers[i].CPU-a.Servers[i].CPU) / 1000 / float64(n), n > 0
	})
	node(chart.Chart{Name: "memory", Title: "Resident memory", Unit: "MB"}, func(_, b server.Point, i int) (float64, bool) {
		return float64(b.Servers[i].Resident) / 1e6, b.Servers[i].Resident >= 0
	})
	node(chart.Chart{Name: "series", Title: "Series in memory", Unit: "series"}, func(_, b server.Point, i int) (float64, bool) {
		return b.Servers[i].Series, b.Servers[i].Series >= 0
	})
	node(chart.Chart{Name: "disk", Title: "Bytes of files per sample so far", Unit: "bytes"}, func(_, b server.Point, i int) (float64, bool) {
		n := b.Samples * o.copies / len(o.names)
		return float64(b.Servers[i].Disk) / float64(max(1, n)), b.Servers[i].Disk >= 0 && n > 0
	})
	node(chart.Chart{Name: "wire", Title: "Bytes sent to other nodes per sample of the whole load", Unit: "bytes"}, func(a, b server.Point, i int) (float64, bool) {
		n := b.Samples - a.Samples
		return (b.Servers[i].Sent - a.Servers[i].Sent) / float64(max(1, n)), n > 0 && a.Servers[i].Sent >= 0
	})
	// So far, since a collection counts when it ends, whenever its CPU time was used.
	node(chart.Chart{Name: "gc", Title: "Garbage collection so far", Unit: "% of CPU"}, func(_, b server.Point, i int) (float64, bool) {
		start := o.created[i]
		all := activeOf(b.Servers[i]) - activeOf(start)
		return 100 * float64(b.Servers[i].GC-start.GC) / max(1, all), all > 0 && start.GC >= 0
	})
	return all
}

// between makes a point of each reading and the one before it, where there is a value.
func (o outcome) between(value func(a, b server.Point) (float64, bool)) (points []chart.Point) {
	for i := 1; i < len(o.points); i++ {
		a, b := o.points[i-1], o.points[i]
		if v, ok := value(a, b); ok {
			points = append(points, chart.Point{X: b.At.Sub(o.begun).Seconds(), Y: v})
		}
	}
	return points
}

// latencyLines are percentiles of what ended within each second.
func (o outcome) latencyLines() []chart.Line {
	windows := map[int][]time.Duration{}
	last := 0
	for _, r := range o.requests {
		second := int(r.End.Sub(o.begun) / time.Second)
		windows[second] = append(windows[second], r.Took)
		last = max(last, second)
	}
	var lines []chart.Line
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}} {
		line := chart.Line{Name: q.name}
		for second := range last + 1 {
			if took := windows[second]; len(took) > 0 {
				line.Points = append(line.Points, chart.Point{X: float64(second + 1), Y: float64(quantile(took, q.of)) / float64(time.Millisecond)})
			}
		}
		lines = append(lines, line)
	}
	return lines
}
