package ingest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// holder is an owner that confirmed its part of a batch.
type holder struct {
	part *part
	proof.Confirmation
}

// lack is what an owner by one assignment misses of the samples that are written: those of
// its part, if it has not confirmed it, or those that it called invalid where their quorum
// took them. It has to be noted by a write quorum of the owners that hold them.
type lack struct {
	assignment int
	node       table.NodeID
	// since is the time of the oldest of the samples, in milliseconds.
	since int64
	// series are those that the samples belong to, by index into the batch.
	series []bool
	// items are the samples; nil if they are all those of the series that are written.
	items map[item]bool
	any   bool
}

func (l *lack) add(i int, p *series.Sample) {
	l.since = min(l.since, p.T)
	l.series[i] = true
	l.any = true
}

// has tells whether a sample that is written is one of those that are missed.
func (l *lack) has(key item) bool {
	return l.series[key.series] && (l.items == nil || l.items[key])
}

// lackOf returns what the owner of a part misses by an assignment. The verdicts must not be
// open any more.
func (t *tally) lackOf(assignment int, p *part, confirmed bool, o series.Outcome) *lack {
	l := &lack{assignment: assignment, node: p.node, since: math.MaxInt64, series: make([]bool, len(t.batch.Series))}
	if !confirmed {
		for k := range p.batch.Series {
			if !p.in(assignment, k) {
				continue
			}
			i := p.at(k)
			for j := range t.batch.Series[i].Samples {
				if t.written(item{series: i, index: j}) {
					l.add(i, &t.batch.Series[i].Samples[j])
				}
			}
		}
		return l
	}
	l.items = map[item]bool{}
	for _, r := range o.Refusals {
		key := item{series: p.at(r.Series), index: r.Item}
		if p.in(assignment, r.Series) && !r.Exemplar && r.Reason != series.Conflict && t.written(key) {
			l.add(key.series, &t.batch.Series[key.series].Samples[key.index])
			l.items[key] = true
		}
	}
	return l
}

// written tells whether a sample has reached its quorum.
func (t *tally) written(key item) bool { return t.judge(key.series, t.objections[key]) == written }

// covered tells whether a write quorum of the holders of each sample in the lack is among
// those that note it.
func (t *tally) covered(l *lack, notes []*holder) bool {
	quorum := func(i int) int { write, _ := t.counts[l.assignment].quorums(i); return write }
	noted := make([]int, len(t.batch.Series))
	refused := map[item]int{}
	for _, h := range notes {
		for k := range h.part.batch.Series {
			if h.part.in(l.assignment, k) {
				noted[h.part.at(k)]++
			}
		}
		for _, r := range h.Refusals {
			if !r.Exemplar && h.part.in(l.assignment, r.Series) {
				refused[item{series: h.part.at(r.Series), index: r.Item}]++
			}
		}
	}
	for i, lacks := range l.series {
		if lacks && noted[i] < quorum(i) {
			return false
		}
	}
	for key, n := range refused {
		if l.has(key) && noted[key.series]-n < quorum(key.series) && t.written(key) {
			return false
		}
	}
	return true
}

// shares tells whether the holder owns a series of the lack, by the same assignment.
func (h *holder) shares(l *lack) bool {
	for k := range h.part.batch.Series {
		if l.series[h.part.at(k)] && h.part.in(l.assignment, k) {
			return true
		}
	}
	return false
}

// offers tells whether the holder's confirmation said that it notes the lack already.
func (h *holder) offers(l *lack) bool {
	return h.part.node != l.node && proof.Covers(h.Gaps, l.node, l.since)
}

// offered tells whether all that the parts without a confirmation lack is noted already, so
// that nobody needs to be waited for.
func (t *tally) offered(parts []*part, holders []*holder) bool {
	for _, p := range parts {
		if slices.ContainsFunc(holders, func(h *holder) bool { return h.part == p }) {
			continue
		}
		if !slices.ContainsFunc(holders, func(h *holder) bool { return proof.Covers(h.Gaps, p.node, math.MaxInt64) }) {
			return false
		}
		for a := range t.counts {
			l := t.lackOf(a, p, false, series.Outcome{})
			notes := slices.DeleteFunc(slices.Clone(holders), func(h *holder) bool { return !h.offers(l) })
			if l.any && !t.covered(l, notes) {
				return false
			}
		}
	}
	return true
}

// cover has gaps noted for all owners that miss something, by those that hold it. What it
// returns says which samples are not safe to acknowledge, or asks for another plan.
func (c *Coordinator) cover(ctx context.Context, tb *table.Table, t *tally, parts []*part, col collected) error {
	var open []*coverage
	for a := range t.counts {
		open = append(open, t.uncovered(a, parts, col.holders)...)
	}
	if len(open) == 0 {
		return nil
	}
	// Where somebody is late, notes outlive the answer to the client, so that no ticket is lost.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.Timeout)
	late := c.ask(asking, tb, requests(open), col)
	err := c.note(ctx, t, open, late)
	if len(late.nodes) == 0 {
		cancel()
		return err
	}
	go func() {
		defer cancel()
		c.withdraw(asking, tb, late)
	}()
	return err
}

// uncovered returns what the owners by an assignment miss and too few holders note.
func (t *tally) uncovered(assignment int, parts []*part, holders []*holder) (open []*coverage) {
	for _, p := range parts {
		i := slices.IndexFunc(holders, func(h *holder) bool { return h.part == p })
		var outcome series.Outcome
		if i >= 0 {
			outcome = holders[i].Outcome
			if len(outcome.Refusals) == 0 {
				continue // it has all of it
			}
		}
		l := t.lackOf(assignment, p, i >= 0, outcome)
		if !l.any {
			continue
		}
		cv := &coverage{lack: l}
		for _, h := range holders {
			switch {
			case h.part == p || !h.shares(l):
			case h.offers(l):
				cv.notes = append(cv.notes, h)
			default:
				cv.asked = append(cv.asked, h)
			}
		}
		if !t.covered(l, cv.notes) {
			open = append(open, cv)
		}
	}
	return open
}

// coverage is a lack with the holders that note it and those that have to.
type coverage struct {
	*lack
	notes, asked []*holder
}

// answered counts the note that was asked for, and tells whether it matters.
func (cv *coverage) answered(r request) bool {
	matters := cv.node == r.node && slices.Contains(cv.asked, r.by)
	if matters {
		cv.notes = append(cv.notes, r.by)
	}
	return matters
}

// request asks a holder to note that a node misses something. It serves all assignments.
type request struct {
	by   *holder
	node table.NodeID
}

// requests returns since when each holder has to note what.
func requests(open []*coverage) map[request]int64 {
	since := map[request]int64{}
	for _, cv := range open {
		for _, h := range cv.asked {
			r := request{h, cv.node}
			if first, ok := since[r]; !ok || cv.since < first {
				since[r] = cv.since
			}
		}
	}
	return since
}

// note waits for the notes that holders were asked for until all lacks are covered.
func (c *Coordinator) note(ctx context.Context, t *tally, open []*coverage, late *latecomers) error {
	var causes []string
	for waiting := late.pending; waiting > 0 && len(open) > 0; waiting-- {
		select {
		case a := <-late.notes:
			late.noted(a)
			if a.err != nil {
				c.notes.WithLabelValues("failed").Inc()
				if asksForPlan(a.err) {
					return a.err
				}
				causes = append(causes, fmt.Sprintf("node %s did not note that %s misses samples: %v", a.by.part.node, a.node, a.err))
				continue
			}
			c.notes.WithLabelValues("noted").Inc()
			open = slices.DeleteFunc(open, func(cv *coverage) bool { return cv.answered(a.request) && t.covered(cv.lack, cv.notes) })
		case <-ctx.Done():
			causes = append(causes, "no note in time of what other owners miss")
			waiting = 1
		}
	}
	if len(open) == 0 {
		return nil
	}
	e := &ShortError{Causes: causes, Total: t.batch.NumSamples()}
	sort.Strings(e.Causes)
	for i := range t.batch.Series {
		if slices.ContainsFunc(open, func(cv *coverage) bool { return cv.series[i] }) {
			e.Samples += len(t.batch.Series[i].Samples)
		}
	}
	return e
}
