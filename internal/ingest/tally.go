package ingest

import (
	"github.com/starling-tsdb/starling/internal/series"
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
// write quorum. Refusals of a read quorum make an item invalid: then no write quorum can
// hold it. A conflict is another value for the same timestamp: queries answer one of
// the two, so it never leads to a retry, and the item is refused unless a quorum took it.
func decide(v votes, copies, quorum int) verdict {
	pending := copies - v.stored - v.conflict - v.invalid - v.failed
	readQuorum := copies - quorum + 1
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
	conflict, invalid int
	first             series.Refusal
}

// tally gathers the answers of the owners of one write. Most owners take everything, so
// confirmations are counted per series and only objections per item.
type tally struct {
	batch  *series.Batch
	copies int
	quorum int

	confirmed  []uint8 // by series: owners that answered
	failed     []uint8 // by series: owners that did not confirm anything
	objections map[item]*objection
}

func newTally(b *series.Batch, copies, quorum int) *tally {
	return &tally{
		batch: b, copies: copies, quorum: quorum,
		confirmed: make([]uint8, len(b.Series)), failed: make([]uint8, len(b.Series)),
	}
}

// confirm counts an owner's answer to its part of the batch.
func (t *tally) confirm(p *part, o series.Outcome) {
	for i := range p.batch.Series {
		t.confirmed[p.at(i)]++
	}
	for _, r := range o.Refusals {
		r.Series = p.at(r.Series)
		key := item{series: r.Series, index: r.Item, exemplar: r.Exemplar}
		if t.objections == nil {
			t.objections = map[item]*objection{}
		}
		ob := t.objections[key]
		if ob == nil {
			ob = &objection{first: r}
			t.objections[key] = ob
		}
		if r.Reason == series.Conflict {
			ob.conflict++
			continue
		}
		// A series too many is refused like an invalid sample: 503 would have the sender
		// repeat it, and hold back all that follows, for as long as the limit stands.
		ob.invalid++
		ob.first = r
	}
}

// fail counts an owner that confirmed nothing of its part.
func (t *tally) fail(p *part) {
	for i := range p.batch.Series {
		t.failed[p.at(i)]++
	}
}

// plain is the verdict for those items of a series that no owner objected to.
func (t *tally) plain(i int) verdict {
	return decide(votes{stored: int(t.confirmed[i]), failed: int(t.failed[i])}, t.copies, t.quorum)
}

func (t *tally) objected(key item, ob *objection) verdict {
	return decide(votes{
		stored:   int(t.confirmed[key.series]) - ob.conflict - ob.invalid,
		conflict: ob.conflict,
		invalid:  ob.invalid,
		failed:   int(t.failed[key.series]),
	}, t.copies, t.quorum)
}

// settled tells whether no owner's answer can change a verdict any more.
func (t *tally) settled() bool {
	for i := range t.batch.Series {
		if t.plain(i) == open {
			return false
		}
	}
	for key, ob := range t.objections {
		if t.objected(key, ob) == open {
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
	for i := range t.batch.Series {
		t.failed[i] = uint8(t.copies) - t.confirmed[i]
		s := &t.batch.Series[i]
		v := t.plain(i)
		for j := range s.Samples {
			shortOf += t.sample(&res, item{series: i, index: j}, v)
		}
		for j := range s.Exemplars {
			t.exemplar(&res, item{series: i, index: j, exemplar: true}, v)
		}
	}
	return res, shortOf
}

// sample adds one sample to the result and returns 1 if it is short of its quorum.
func (t *tally) sample(res *series.Result, key item, v verdict) int {
	ob := t.objections[key]
	if ob != nil {
		v = t.objected(key, ob)
	}
	switch v {
	case written:
		if t.batch.Series[key.series].Samples[key.index].IsHistogram() {
			res.Written.Histograms++
		} else {
			res.Written.Samples++
		}
	case refused:
		res.Refused = append(res.Refused, ob.first)
	default:
		return 1
	}
	return 0
}

// exemplar adds one exemplar. Exemplars are kept as well as can be: one that is short of
// its quorum is simply not counted as written.
func (t *tally) exemplar(res *series.Result, key item, v verdict) {
	ob := t.objections[key]
	if ob != nil {
		v = t.objected(key, ob)
	}
	switch v {
	case written:
		res.Written.Exemplars++
	case refused:
		res.Refused = append(res.Refused, ob.first)
	}
}
