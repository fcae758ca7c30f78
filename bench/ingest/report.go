//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/floor"
	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/bench/proc"
)

// publish writes the report to standard output, and with plots into the directory of -out.
func publish(s settings, r results) error {
	var text bytes.Buffer
	report(&text, r)
	if _, err := os.Stdout.Write(text.Bytes()); err != nil || s.output.dir == "" {
		return err
	}
	fmt.Fprint(&text, "\n## Over time\n")
	for _, name := range r.names {
		fmt.Fprintf(&text, "\n### %s over time\n\n", name)
		o := r.outcomes[name][0]
		for _, c := range charts(o) {
			if c.Empty() {
				fmt.Fprintf(&text, "%s: not measured.\n\n", c.Title)
				continue
			}
			file := name + "-" + c.Name + ".png"
			if err := c.Save(s.output.dir, file); err != nil {
				return fmt.Errorf("-out: %w", err)
			}
			fmt.Fprintf(&text, "![%s](%s)\n\n", c.Title, file)
		}
	}
	err := errors.Join(os.MkdirAll(s.output.dir, 0o777), os.WriteFile(filepath.Join(s.output.dir, "report.md"), text.Bytes(), 0o666))
	if err != nil {
		return fmt.Errorf("-out: %w", err)
	}
	return nil
}

// report writes Markdown.
func report(w io.Writer, r results) {
	s := r.settings
	fmt.Fprintf(w, "# Ingest\n\n%s; commit %s; %s, %s in all.\n\n", proc.Machine(), r.commit, r.began.Format(time.DateTime), r.took.Round(time.Second))
	rate := "as fast as it goes"
	if s.load.Rate > 0 {
		rate = fmt.Sprintf("%g samples/s", s.load.Rate)
	}
	fmt.Fprintf(w, "Remote Write %d.0, %d series a request, %d senders or the next multiple of the nodes, %s, %g queries/s; %s. ",
		s.load.Version, s.load.Shape.Batch, s.load.Senders, rate, s.queries, count(s.suite.runs, "run of each", "runs of each, medians"))
	fmt.Fprintf(w, "CPU time is that of the servers alone. Late samples: %g%%. Native histograms: %g%% of the series. ",
		100*s.load.Shape.OutOfOrder, 100*s.load.Shape.Histograms)
	if s.output.profiles != "" {
		fmt.Fprintf(w, "CPU profiles were taken for the first %d s of each steady phase, which costs some of it. ", profiledFor)
	}
	fmt.Fprintf(w, "Servers tell their metrics once a second; garbage collection is a part of the time that they ran or waited for a CPU, as its workers count both (gctrace).\n\n")
	r.reportFloor(w)
	fmt.Fprint(w, "## Targets\n\n| figure | target | measured | ratio | ok |\n|---|---|---|---|---|\n")
	for _, line := range r.targets() {
		fmt.Fprintln(w, line)
	}
	for _, err := range r.failed {
		why, _, _ := strings.Cut(err.Error(), "\n")
		fmt.Fprintf(w, "\nFailed: %s\n", why)
	}
	fmt.Fprint(w, "\n## Measurements\n")
	for _, name := range r.names {
		fmt.Fprintf(w, "\n### %s\n\n%s\n\n", name, r.outcomes[name][0].title)
		r.reportOutcomes(w, r.outcomes[name])
	}
}

// reportFloor tells what the storage engine takes alone.
func (r *results) reportFloor(w io.Writer) {
	var samples, series []string
	for _, f := range r.floors {
		samples = append(samples, kit.Number(f.PerSample/1000))
		series = append(series, kit.Number(float64(f.PerSeries)/1000))
	}
	per := func(figure func(floor.Result) int64) string {
		return kit.Number(r.floor(func(f floor.Result) float64 { return float64(figure(f)) / float64(max(1, f.Series)) }))
	}
	fmt.Fprintf(w, "The floor, Prometheus's TSDB alone, takes %s of CPU a sample (%s; with %d senders at once %s; %d such processes at once %s each), %s a new series (%s; at once %s each), and %s B of memory a series at most, %s at the end, %s of heap after collecting garbage.\n\n",
		micro(r.floor(func(f floor.Result) float64 { return f.PerSample })), strings.Join(samples, ", "),
		r.settings.load.Senders, micro(r.floor(func(f floor.Result) float64 { return f.Concurrent })),
		floor.Copies, micro(r.floor(func(f floor.Result) float64 { return f.Beside })),
		micro(r.floor(func(f floor.Result) float64 { return float64(f.PerSeries) })), strings.Join(series, ", "),
		micro(r.floor(func(f floor.Result) float64 { return float64(f.SeriesBeside) })),
		per(func(f floor.Result) int64 { return f.Peak }), per(func(f floor.Result) int64 { return f.Resident }), per(func(f floor.Result) int64 { return f.Heap }))
}

// reportOutcomes writes one column for each run.
func (r *results) reportOutcomes(w io.Writer, all []outcome) {
	heads, line := []string{""}, "|---|"
	for i := range all {
		heads = append(heads, fmt.Sprintf("run %d", i+1))
		line += "---|"
	}
	fmt.Fprintf(w, "| %s |\n%s\n", strings.Join(heads, " | "), line)
	each := func(name string, value func(o outcome) string) {
		cells := []string{name}
		for _, o := range all {
			cells = append(cells, value(o))
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	figure := func(of func(outcome) (float64, bool), scale float64) func(o outcome) string {
		return func(o outcome) string {
			if v, ok := of(o); ok {
				return kit.Number(v * scale)
			}
			return notMeasured
		}
	}
	each("samples/s, with the load on the same machine", figure(outcome.throughput, 1))
	each("a request: p50, p90, p99, ms", latencies)
	each("CPU per sample, µs", figure(outcome.perSample, 1e-3))
	each("… of each server", eachServer)
	each("CPU per new series, µs", figure(outcome.perSeries, 1e-3))
	each("CPU between the last answer and idleness, in these figures, ms: first scrape, all others", func(o outcome) string {
		first, _ := gain(o.answered, o.created, cpuOf)
		return kit.Number(first/1e6) + ", " + kit.Number(o.late/1e6)
	})
	each("garbage collection, % of CPU", figure(outcome.gcShare, 100))
	each("memory per series and copy at most, B", figure(outcome.peak, 1))
	each("… at the end", figure(outcome.resident, 1))
	each("… heap after collecting garbage", figure(outcome.liveHeap, 1))
	each("resident after the first scrape, at the end, MB", func(o outcome) string {
		before, _ := sum(o.created, residentOf)
		after, _ := sum(o.ended, residentOf)
		return kit.Number(before/1e6) + ", " + kit.Number(after/1e6)
	})
	each("bytes of files per sample and copy", figure(outcome.disk, 1))
	each("bytes between nodes per sample and remote copy", figure(outcome.wire, 1))
	each("requests sent again: 503, other", func(o outcome) string { return fmt.Sprintf("%d, %d", o.counts.Refused, o.counts.Failed) })
	each("samples acknowledged, given up", func(o outcome) string { return fmt.Sprintf("%d, %d", o.counts.Acknowledged, o.counts.Dropped) })
	each("CPUs taken by other programs, %", figure(func(o outcome) (float64, bool) { return o.others, o.others >= 0 }, 100))
	each("… by the load, %", figure(func(o outcome) (float64, bool) { return o.client, true }, 100))
	each("queries: p50, p99, ms", queryLatencies)
	each("read back", verified)
	for i, o := range all {
		for _, first := range []struct{ what, why string }{
			{"request sent again", o.again}, {"samples given up", o.dropped}, {"query that failed", text(o.queries.why)},
		} {
			if first.why != "" {
				fmt.Fprintf(w, "\nRun %d, the first %s: %s\n", i+1, first.what, first.why)
			}
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func latencies(o outcome) string {
	var cells []string
	for _, q := range []float64{0.5, 0.9, 0.99} {
		v, _ := o.latency(q)
		cells = append(cells, kit.Milli(v))
	}
	return strings.Join(cells, ", ")
}

func eachServer(o outcome) string {
	var cells []string
	for i := range o.names {
		cells = append(cells, kit.Number(float64(o.ended[i].CPU-o.created[i].CPU)/1000/float64(o.steady)))
	}
	return strings.Join(cells, ", ")
}

func queryLatencies(o outcome) string {
	q := o.queries
	if len(q.took)+q.failed == 0 {
		return "none"
	}
	return fmt.Sprintf("%s, %s (%d failed of %d)", kit.Milli(quantile(q.took, 0.5)), kit.Milli(quantile(q.took, 0.99)), q.failed, len(q.took)+q.failed)
}

// verified tells what reading back has found.
func verified(o outcome) string {
	if len(o.findings) == 0 {
		return "no"
	}
	var cells []string
	for i, f := range o.findings {
		cells = append(cells, fmt.Sprintf("%s: %d compared, %d missing, %d different", o.names[i], f.Compared, f.Missing, f.Different))
	}
	return strings.Join(cells, "; ")
}
