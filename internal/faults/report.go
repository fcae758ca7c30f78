//go:build linux

package faults

import (
	"fmt"
	"io"
	"time"
)

const rowFormat = "%-30s %8s %8s %7s %5s %5s %8s %5s  %-13s %-13s %9s  %s\n"

// Header writes the head of the table.
func Header(w io.Writer) {
	fmt.Fprintf(w, rowFormat, "fault", "sent", "acked", "refused", "lost", "twice", "invented", "thin",
		"down (w/r)", "worst (w/r)", "converged", "verdict")
}

// Write writes the line of a row, and its failures below it.
func (r Result) Write(w io.Writer) {
	verdict := "ok"
	if len(r.Failures) > 0 {
		verdict = "FAILED"
	}
	n := func(i int) string { return fmt.Sprint(i) }
	fmt.Fprintf(w, rowFormat, r.Row, n(r.Counts.Sent), n(r.Counts.Acknowledged), n(r.Counts.Refused),
		n(r.Lost), n(r.Duplicated), n(r.Invented), n(r.Thin),
		pair(r.WritesDown, r.ReadsDown), pair(r.WorstWrites, r.WorstReads), tenths(r.Converged), verdict)
	for _, f := range r.Failures {
		fmt.Fprintf(w, "    %s\n", f)
	}
}

func tenths(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func pair(a, b time.Duration) string { return fmt.Sprintf("%.1f/%.1f s", a.Seconds(), b.Seconds()) }
