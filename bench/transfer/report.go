//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/bench/proc"
)

// report writes Markdown: one column for each run.
func report(w io.Writer, s settings, d *data, results []result) {
	rate := s.rate
	if rate == "" {
		rate = "the default"
	}
	fmt.Fprintf(w, "%d bytes in %d blocks of %s: %d series, %.0fM samples of %.2f bytes; --cluster.transfer-rate is %s.\n",
		d.bytes, d.blocks, blockSpan, d.series, float64(d.samples)/1e6, float64(d.bytes)/float64(d.samples), rate)
	fmt.Fprintf(w, "%s.\n\n", proc.Machine())
	heads := []string{""}
	line := "|---|"
	for i := range results {
		heads = append(heads, fmt.Sprintf("run %d", i+1))
		line += "---|"
	}
	row(w, heads...)
	fmt.Fprintln(w, line)
	mb, gb := float64(d.bytes)/1e6, float64(d.bytes)/1e9
	each := func(name string, value func(r result) string) {
		cells := []string{name}
		for _, r := range results {
			cells = append(cells, value(r))
		}
		row(w, cells...)
	}
	each("floor: file to file, synced, MB/s", func(r result) string { return kit.Number(mb / r.floor.Seconds()) })
	each("floor: CPU seconds per GB", func(r result) string { return kit.Number(r.floorCPU.Seconds() / gb) })
	each("lost node called dead after, s", func(r result) string { return kit.Number(r.dead.Seconds()) })
	each("**three copies again after, s**", func(r result) string { return kit.Number(r.whole.Seconds()) })
	each("MB/s", func(r result) string { return kit.Number(mb / r.whole.Seconds()) })
	each("of the floor", func(r result) string { return kit.Number(r.floor.Seconds() / r.whole.Seconds()) })
	each("million samples/s", func(r result) string { return kit.Number(float64(d.samples) / 1e6 / r.whole.Seconds()) })
	each("CPU seconds per GB, both givers", func(r result) string { return kit.Number(r.givers.Seconds() / gb) })
	each("CPU seconds per GB, receiver", func(r result) string { return kit.Number(r.receiver.Seconds() / gb) })
	each("**MB/s per core**", func(r result) string { return kit.Number(mb / (r.givers + r.receiver).Seconds()) })
	each("million samples/s per core", func(r result) string {
		return kit.Number(float64(d.samples) / 1e6 / (r.givers + r.receiver).Seconds())
	})
	each("times the floor's CPU", func(r result) string {
		return kit.Number((r.givers + r.receiver).Seconds() / r.floorCPU.Seconds())
	})
	each("CPUs taken by other programs, %", func(r result) string { return kit.Number(100 * r.others) })
	each("receiver's memory at most, MB", func(r result) string { return kit.Number(float64(r.peak) / 1e6) })
	for _, k := range kinds {
		for i, p := range results[0].phases {
			each(fmt.Sprintf("%s, %s: p50, p99", k, p.name), func(r result) string { return r.latency(k, i) })
		}
	}
	for i, r := range results {
		for _, p := range r.phases {
			if p.first != nil {
				fmt.Fprintf(w, "\nRun %d, %s, the first failure: %v\n", i+1, p.name, p.first)
			}
		}
	}
}

// reference is the phase whose latency others are compared with: the one after a node was
// lost. Before, three nodes compare what they hold, once a day and soon after their start.
const reference = 1

// latency is in milliseconds in one phase, and a ratio to that in the others.
func (r result) latency(k kind, i int) string {
	base, p := r.phases[reference], r.phases[i]
	text := ""
	for _, q := range []float64{0.5, 0.99} {
		v := p.quantile(k, q)
		switch {
		case i == reference:
			text += kit.Milli(v) + " ms "
		case base.quantile(k, q) > 0:
			text += "× " + kit.Number(float64(v)/float64(base.quantile(k, q))) + " "
		}
	}
	if failed := p.failed[k]; failed > 0 {
		text += fmt.Sprintf("(%d of %d failed)", failed, failed+len(p.took[k]))
	}
	return text
}

func row(w io.Writer, cells ...string) { fmt.Fprintln(w, "| "+strings.Join(cells, " | ")+" |") }
