//go:build linux

package main

import (
	"slices"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/drive"
	"github.com/starling-tsdb/starling/bench/ingest/server"
)

// Figures of one measurement. The second result tells whether it was measured.

// sum adds up a figure of all servers; one that some server does not tell is not measured.
func sum(all []server.Reading, figure func(server.Reading) float64) (total float64, ok bool) {
	for _, r := range all {
		v := figure(r)
		if v < 0 {
			return 0, false
		}
		total += v
	}
	return total, len(all) > 0
}

// gain is how much a sum has grown.
func gain(from, to []server.Reading, figure func(server.Reading) float64) (float64, bool) {
	before, ok := sum(from, figure)
	after, ok2 := sum(to, figure)
	return after - before, ok && ok2
}

func cpuOf(r server.Reading) float64      { return float64(r.CPU) }
func activeOf(r server.Reading) float64   { return float64(r.CPU + r.Waited) }
func gcOf(r server.Reading) float64       { return float64(r.GC) }
func sentOf(r server.Reading) float64     { return r.Sent }
func diskOf(r server.Reading) float64     { return float64(r.Disk) }
func residentOf(r server.Reading) float64 { return float64(r.Resident) }
func peakOf(r server.Reading) float64     { return float64(r.Peak) }
func seriesOf(r server.Reading) float64   { return r.Series }

// perSample is the CPU time of all servers for each sample of the steady phase, in ns.
func (o outcome) perSample() (float64, bool) {
	v, ok := gain(o.created, o.ended, cpuOf)
	return v / float64(o.steady), ok
}

// perSeries is the CPU time of all servers for each series of the first scrape, in ns.
func (o outcome) perSeries() (float64, bool) {
	v, ok := gain(o.started, o.created, cpuOf)
	return v / float64(o.first), ok
}

// wire is how many bytes nodes have sent to each other for each sample of the steady phase and
// each copy but the one where it arrived.
func (o outcome) wire() (float64, bool) {
	v, ok := gain(o.created, o.ended, sentOf)
	remote := o.copies - 1
	return v / float64(o.steady*max(1, remote)), ok && remote > 0
}

// perCopy divides memory of all servers by active series and copies.
func (o outcome) perCopy(bytes float64) float64 {
	return bytes / float64(o.load.Shape.Series*o.copies)
}

// resident is memory at the end for each series and copy; peak the most of it, and live the
// heap once garbage was collected.
func (o outcome) resident() (float64, bool) {
	v, ok := sum(o.ended, residentOf)
	return o.perCopy(v), ok
}

func (o outcome) peak() (float64, bool) {
	v, ok := sum(o.ended, peakOf)
	return o.perCopy(v), ok
}

func (o outcome) liveHeap() (float64, bool) {
	total := 0.0
	for _, v := range o.live {
		if v < 0 {
			return 0, false
		}
		total += float64(v)
	}
	return o.perCopy(total), len(o.live) > 0
}

// disk is how many bytes files have grown by for each sample of the steady phase and copy.
func (o outcome) disk() (float64, bool) {
	v, ok := gain(o.created, o.ended, diskOf)
	return v / float64(o.steady*o.copies), ok
}

// gcShare is the part that garbage collection has of the time that the servers ran or waited
// for a CPU, which is its part of their CPU time if it waits as others do.
func (o outcome) gcShare() (float64, bool) {
	gc, ok := gain(o.created, o.ended, gcOf)
	all, ok2 := gain(o.created, o.ended, activeOf)
	return gc / all, ok && ok2 && all > 0
}

// throughput is samples per second in the steady phase.
func (o outcome) throughput() (float64, bool) {
	return float64(o.steady) / o.took.Seconds(), o.took > 0
}

func (o outcome) latency(q float64) (time.Duration, bool) {
	return quantile(tookOf(o.requests), q), len(o.requests) > 0
}

func tookOf(requests []drive.Request) (took []time.Duration) {
	for _, r := range requests {
		took = append(took, r.Took)
	}
	return took
}

// quantile of some durations, by the nearest rank, 0 if there are none.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// peakIn is the most of a sum of all servers while the series of a generation were active, of
// a load that replaces all of them again and again. Within one it rises, since series stay in
// memory until the head is cut; from one to the next it must not.
func (o outcome) peakIn(generation int, figure func(server.Reading) float64) (most float64, ok bool) {
	every := o.load.Shape.ReplaceEvery
	for _, p := range o.points {
		if every == 0 || p.Scrapes/every != generation {
			continue
		}
		if v, told := sum(p.Servers, figure); told {
			most, ok = max(most, v), true
		}
	}
	return most, ok
}
