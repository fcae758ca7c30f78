package ingest

import (
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// verdict is what a write comes to for one item, given what its owners said so far.
type verdict uint8

const (
	// open: the owners that have not answered yet can still change the verdict.
	open verdict = iota
	// written: a write quorum of owners holds the item.
	written
	// refused: the item will never be taken.
	refused
	// short: too few owners hold the item, and a retry may help.
	short
)

// votes counts the answers of an item's owners.
type votes struct {
	stored, conflict, invalid, failed int
}

// decide is the rule of guarantee 2, for one item with the given number of copies and
// quorums. Refusals of a read quorum make an item invalid: then no write quorum can
// hold it. A conflict is another value for the same timestamp: queries answer one of
// the two, so it never leads to a retry, and the item is refused unless a quorum took it.
func decide(v votes, copies, quorum, readQuorum int) verdict {
	pending := copies - v.stored - v.conflict - v.invalid - v.failed
	switch {
	case v.stored >= quorum:
		return written
	case v.stored+pending >= quorum:
		return open
	case v.invalid >= readQuorum:
		return refused
	case v.conflict > 0 && v.stored+v.conflict >= quorum:
		return refused
	case pending > 0:
		return open
	default:
		return short
	}
}

// item names a sample or an exemplar of the batch.
type item struct {
	series, index int
	exemplar      bool
}

// objection gathers what the owners of one item said against it.
type objection struct {
	first series.Refusal
	// by counts the owners by each assignment.
	by []objections
}

type objections struct{ conflict, invalid int }

// tally gathers the answers of the owners of one write, which needs its quorum by each
// assignment. Most owners take everything, so confirmations are counted per series and only
// objections per item.
type tally struct {
	batch      *series.Batch
	counts     []count
	objections map[item]*objection
}

// count holds the answers of the owners by one assignment.
type count struct {
	*table.Assignment

	// copies is how many there are of each series, and quorum the write and the read quorum
	// of one that has no owner removed.
	copies int
	quorum [2]int

	removed   []uint8 // by series: owners that are removed
	confirmed []uint8 // by series: owners that answered
	failed    []uint8 // by series: owners that did not confirm anything
}

// newTally begins to count. gone are the parts of owners that are removed.
func newTally(b *series.Batch, assignments []*table.Assignment, gone []*part) *tally {
	t := &tally{batch: b}
	for _, a := range assignments {
		n := len(b.Series)
		c := count{Assignment: a, copies: a.Copies(), removed: make([]uint8, n), confirmed: make([]uint8, n), failed: make([]uint8, n)}
		c.quorum[0], c.quorum[1] = a.Quorums(c.copies)
		t.counts = append(t.counts, c)
	}
	for _, p := range gone {
		t.fail(p)
	}
	for a := range t.counts {
		copy(t.counts[a].removed, t.counts[a].failed)
	}
	return t
}

// quorums are those of a series.
func (c *count) quorums(i int) (write, read int) {
	if c.removed[i] == 0 {
		return c.quorum[0], c.quorum[1]
	}
	return c.Quorums(c.copies - int(c.removed[i]))
}

// confirm counts an owner's answer to its part of the batch.
func (t *tally) confirm(p *part, o series.Outcome) {
	for a := range t.counts {
		for i := range p.batch.Series {
			if p.in(a, i) {
				t.counts[a].confirmed[p.at(i)]++
			}
		}
	}
	for _, r := range o.Refusals {
		t.object(p, r)
	}
}

func (t *tally) object(p *part, r series.Refusal) {
	i := r.Series
	r.Series = p.at(i)
	key := item{series: r.Series, index: r.Item, exemplar: r.Exemplar}
	if t.objections == nil {
		t.objections = map[item]*objection{}
	}
	ob := t.objections[key]
	if ob == nil {
		ob = &objection{first: r, by: make([]objections, len(t.counts))}
		t.objections[key] = ob
	}
	// A series too many is refused like an invalid sample: 503 would have the sender
	// repeat it, and hold back all that follows, for as long as the limit stands.
	if r.Reason != series.Conflict {
		ob.first = r
	}
	for a := range t.counts {
		switch {
		case !p.in(a, i):
		case r.Reason == series.Conflict:
			ob.by[a].conflict++
		default:
			ob.by[a].invalid++
		}
	}
}

// fail counts an owner that confirmed nothing of its part.
func (t *tally) fail(p *part) {
	for a := range t.counts {
		for i := range p.batch.Series {
			if p.in(a, i) {
				t.counts[a].failed[p.at(i)]++
			}
		}
	}
}

// judge tells what the write comes to for an item of a series that owners object to as told,
// or not at all if ob is nil: the worst by any assignment.
func (t *tally) judge(i int, ob *objection) verdict {
	v := written
	for a := range t.counts {
		var said objections
		if ob != nil {
			said = ob.by[a]
		}
		v = worse(v, t.counts[a].verdict(i, said))
	}
	return v
}

func (c *count) verdict(i int, said objections) verdict {
	write, read := c.quorums(i)
	return decide(votes{
		stored:   int(c.confirmed[i]) - said.conflict - said.invalid,
		conflict: said.conflict,
		invalid:  said.invalid,
		failed:   int(c.failed[i]),
	}, c.copies, write, read)
}

// worse returns the verdict that counts if the owners by two assignments do not come to the
// same. What is short may be written by a retry.
func worse(a, b verdict) verdict {
	for _, v := range []verdict{open, short, refused} {
		if a == v || b == v {
			return v
		}
	}
	return written
}

// alike tells whether the owners of a series said the same as those of the one before it, so
// that the verdict is the same where nobody objects: most series of a batch are alike.
func (t *tally) alike(i int) bool {
	if i == 0 {
		return false
	}
	for a := range t.counts {
		c := &t.counts[a]
		if c.confirmed[i] != c.confirmed[i-1] || c.failed[i] != c.failed[i-1] || c.removed[i] != c.removed[i-1] {
			return false
		}
	}
	return true
}

// settled tells whether no owner's answer can change a verdict any more.
func (t *tally) settled() bool {
	for i := range t.batch.Series {
		if !t.alike(i) && t.judge(i, nil) == open {
			return false
		}
	}
	for key, ob := range t.objections {
		if t.judge(key.series, ob) == open {
			return false
		}
	}
	return true
}

// result sums up. Owners that have not answered count as failed. The second value counts
// the samples that are short of their quorum.
func (t *tally) result() (series.Result, int) {
	var res series.Result
	shortOf := 0
	var agreed verdict // on items of this series that nobody objects to
	verdictOn := func(key item) (verdict, *objection) {
		if len(t.objections) == 0 {
			return agreed, nil
		}
		if ob := t.objections[key]; ob != nil {
			return t.judge(key.series, ob), ob
		}
		return agreed, nil
	}
	for i := range t.batch.Series {
		for a := range t.counts {
			c := &t.counts[a]
			c.failed[i] = uint8(c.copies) - c.confirmed[i]
		}
		if !t.alike(i) {
			agreed = t.judge(i, nil)
		}
		s := &t.batch.Series[i]
		for j := range s.Samples {
			v, ob := verdictOn(item{series: i, index: j})
			switch v {
			case written:
				if s.Samples[j].IsHistogram() {
					res.Written.Histograms++
				} else {
					res.Written.Samples++
				}
			case refused:
				res.Refused = append(res.Refused, ob.first)
			default:
				shortOf++
			}
		}
		// Exemplars are kept as well as can be: one that is short of its quorum is simply
		// not counted as written.
		for j := range s.Exemplars {
			v, ob := verdictOn(item{series: i, index: j, exemplar: true})
			switch v {
			case written:
				res.Written.Exemplars++
			case refused:
				res.Refused = append(res.Refused, ob.first)
			}
		}
	}
	return res, shortOf
}
