//go:build linux

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/bench/proc"
)

// report writes Markdown.
func report(w io.Writer, s settings, commit string, began time.Time, results []result) {
	fmt.Fprintf(w, "# Queries\n\n%s; commit %s; %s, %s in all.\n\n", proc.Machine(), commit, began.Format(time.DateTime), time.Since(began).Round(time.Second))
	fmt.Fprintf(w, "%d series of %d metrics, %d samples each, on one Prometheus and on %d nodes with %d copies; asked for %s in steps of %s. ",
		s.shape.Series, s.shape.Metrics(), s.shape.Scrapes, s.nodes, min(3, s.nodes), s.span, s.span/steps)
	fmt.Fprint(w, "Time is the median until the answer is read, CPU time the mean of all servers. All answers agree.\n\n")
	if s.profiles != "" {
		fmt.Fprintln(w, "Profiles were taken instead of figures.")
		return
	}
	fmt.Fprint(w, "| query | series | Prometheus | nodes | time, target | CPU, target | bytes between nodes | ok |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		time, cpu := ratio(kit.Median(r.nodes.took), kit.Median(r.prometheus.took)), ratio(r.nodes.cpu, r.prometheus.cpu)
		ok := "yes"
		if time > r.time || r.cpu > 0 && cpu > r.cpu {
			ok = "**no**"
		}
		fmt.Fprintf(w, "| %s `%s` | %d | %s | %s | %s, ≤ %g | %s%s | %.0f | %s |\n", r.name, r.expr, r.series,
			r.prometheus, r.nodes, kit.Number(time), r.time, kit.Number(cpu), most(r.cpu), r.bytes, ok)
	}
}

func (s side) String() string {
	return fmt.Sprintf("%s ms, CPU %s ms", kit.Milli(kit.Median(s.took)), kit.Milli(s.cpu))
}

func most(target float64) string {
	if target == 0 {
		return ""
	}
	return fmt.Sprintf(", ≤ %g", target)
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(1, b)) }
