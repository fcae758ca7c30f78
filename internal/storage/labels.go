package storage

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/series"
)

// Which labels there are is answered from the postings of the head and of each block whose time
// overlaps the range that is asked for, as the TSDB does. That would leave out the late samples of
// the head where the range ends before the others, stop at any values for a limit rather than at
// the first, and not stop where nobody waits for what it intersects.

// Labels calls yield with the label names of the series that match, or with the values of one of
// them, in order and each once. Strings are valid until yield returns; its error ends the call,
// which returns it. It is a *series.TooManyLabelsError if more than maxBytes would be held. Other
// errors are those of Querier, and those of ctx.
func (s *Store) Labels(ctx context.Context, q series.LabelQuery, maxBytes int64, yield func(string) error) (err error) {
	_, v, err := look(s, q.Mint, q.Maxt, struct{}{}, func(int64, int64) (struct{}, error) { return struct{}{}, nil })
	if err != nil {
		return err
	}
	defer v.leave()
	if q.Mint = max(q.Mint, v.horizon); q.Mint > q.Maxt {
		return nil
	}
	l := &labelLookup{LabelQuery: q, store: s, ctx: ctx, maxBytes: maxBytes}
	parts, err := partsOf(s, q.Mint, q.Maxt, l.head, l.block)
	if err != nil {
		return err
	}
	defer func() {
		for _, p := range parts {
			err = errors.Join(err, p.Close())
		}
	}()
	var runs [][]string
	for _, p := range parts {
		runs = append(runs, p.runs...)
	}
	return l.merge(runs, yield)
}

// labelLookup answers a query. One goroutine uses it.
type labelLookup struct {
	series.LabelQuery
	store    *Store
	ctx      context.Context // of the call of Labels
	maxBytes int64
	held     int64
	steps    int
}

// labelPart is the labels of the head or of a block, in sorted lists which may have strings in common.
type labelPart struct {
	runs  [][]string
	index tsdb.IndexReader // of a block, whose memory the strings may lie in
}

// Close implements io.Closer.
func (p *labelPart) Close() error {
	if p.index == nil {
		return nil
	}
	return p.index.Close()
}

func overlaps(mint, maxt, from, to int64) bool { return mint <= to && from <= maxt }

// head reads the head at once: what leaves it later is in a block that is listed later.
func (l *labelLookup) head(mint, maxt int64) (*labelPart, error) {
	h := l.store.db.Head()
	if !overlaps(mint, maxt, h.MinTime(), h.MaxTime()) && !overlaps(mint, maxt, h.MinOOOTime(), h.MaxOOOTime()) {
		return &labelPart{}, nil
	}
	// Of the whole head: of a part of it, names are those of samples in order alone.
	runs, err := l.read(tsdb.NewHeadAndOOOIndexReader(h, math.MinInt64, math.MinInt64, math.MaxInt64, 0))
	return &labelPart{runs: runs}, err
}

func (l *labelLookup) block(b *tsdb.Block, _, _ int64) (*labelPart, error) {
	p := &labelPart{}
	var tooMany *series.TooManyLabelsError
	err := l.store.guard.Reading(b)(func() (err error) {
		if p.index, err = b.Index(); err != nil {
			return err
		}
		if p.runs, err = l.read(p.index); errors.As(err, &tooMany) {
			return nil // The block is whole.
		}
		return err
	})
	if tooMany != nil {
		err = tooMany
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (l *labelLookup) read(r tsdb.IndexReader) ([][]string, error) {
	if l.Name != "" {
		return l.values(r)
	}
	names, err := r.LabelNames(l.ctx, slices.Clone(l.Matchers)...)
	if err != nil {
		return nil, err
	}
	return l.sorted(names)
}

// values reads the values of the label.
func (l *labelLookup) values(r tsdb.IndexReader) ([][]string, error) {
	hints := &promstorage.LabelHints{}
	if _, head := r.(*tsdb.HeadAndOOOIndexReader); !head && len(l.Matchers) == 0 {
		// Those of a block are in order.
		hints.Limit = l.Limit
	}
	values, err := r.LabelValues(l.ctx, l.Name, hints)
	if err != nil {
		return nil, err
	}
	for _, m := range l.Matchers {
		if m.Name != l.Name {
			continue
		}
		if values, err = l.matching(m, values); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(l.Matchers, func(m *labels.Matcher) bool { return m.Name != l.Name }) {
		if values, err = l.intersect(r, values); err != nil {
			return nil, err
		}
	}
	return l.sorted(values)
}

// postingsBytes is about what it takes to look through the postings of one value.
const postingsBytes = 96

// hold counts what is held, or was. What strings refer to lies in the index.
func (l *labelLookup) hold(n int, each int64) error {
	if l.held += each * int64(n); l.held > l.maxBytes {
		return &series.TooManyLabelsError{Limit: l.maxBytes}
	}
	return nil
}

// lookEvery is after how many steps of a loop the context is looked at: they take a
// millisecond at most.
const lookEvery = 1 << 10

// done is called with each step of a loop.
func (l *labelLookup) done() error {
	if l.steps++; l.steps%lookEvery != 0 {
		return nil
	}
	return l.ctx.Err()
}

// matching leaves the values that a matcher of the label itself does.
func (l *labelLookup) matching(m *labels.Matcher, values []string) ([]string, error) {
	kept := values[:0]
	for _, v := range values {
		if err := l.done(); err != nil {
			return nil, err
		}
		if m.Matches(v) {
			kept = append(kept, v)
		}
	}
	return kept, nil
}

// intersect leaves the values that a series has which all matchers match.
func (l *labelLookup) intersect(r tsdb.IndexReader, values []string) ([]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	matched, err := tsdb.PostingsForMatchers(l.ctx, r, slices.Clone(l.Matchers)...)
	if err != nil || index.IsEmptyPostingsType(matched) {
		return nil, err
	}
	if err := l.hold(len(values), postingsBytes); err != nil {
		return nil, err
	}
	candidates := make([]index.Postings, len(values))
	for i, v := range values {
		if err := l.done(); err != nil {
			return nil, err
		}
		if candidates[i], err = r.Postings(l.ctx, l.Name, v); err != nil {
			return nil, err
		}
	}
	found, err := index.FindIntersectingPostings(&watchedPostings{Postings: matched, lookup: l}, candidates)
	if err != nil {
		return nil, err
	}
	kept := make([]string, len(found))
	for i, at := range found {
		kept[i] = values[at]
	}
	return kept, nil
}

// watchedPostings end when nobody waits for them.
type watchedPostings struct {
	index.Postings
	lookup *labelLookup
	err    error
}

// Seek implements index.Postings.
func (p *watchedPostings) Seek(ref promstorage.SeriesRef) bool {
	if p.err == nil {
		p.err = p.lookup.done()
	}
	return p.err == nil && p.Postings.Seek(ref)
}

// Err implements index.Postings.
func (p *watchedPostings) Err() error {
	if p.err != nil {
		return p.err
	}
	return p.Postings.Err()
}

// runLength is how many strings are sorted without looking whether somebody waits: that takes
// some 40 ms.
const runLength = 1 << 17

// sorted returns strings in lists that are sorted, with no more of them than what is wanted.
func (l *labelLookup) sorted(all []string) (runs [][]string, err error) {
	length := runLength
	switch {
	case slices.IsSorted(all):
		length = max(1, len(all))
		if l.Limit > 0 {
			all = all[:min(l.Limit, len(all))]
		}
	case l.Limit > 0 && l.Limit < len(all)/2:
		if all, err = l.first(all); err != nil {
			return nil, err
		}
	}
	for len(all) > 0 {
		if err := l.ctx.Err(); err != nil {
			return nil, err
		}
		run := all[:min(length, len(all))]
		all = all[len(run):]
		slices.Sort(run)
		if err := l.hold(len(run), series.StringOverhead); err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// first returns as many strings as are wanted, those that come first, without sorting the others.
func (l *labelLookup) first(all []string) ([]string, error) {
	kept := make([]string, 0, 2*l.Limit)
	// Once as many were sorted, none that comes after the last of them is wanted.
	last, full := "", false
	for _, s := range all {
		if err := l.done(); err != nil {
			return nil, err
		}
		if full && s >= last {
			continue
		}
		if kept = append(kept, s); len(kept) == 2*l.Limit {
			slices.Sort(kept)
			kept = kept[:l.Limit]
			last, full = kept[l.Limit-1], true
		}
	}
	slices.Sort(kept)
	return kept[:min(l.Limit, len(kept))], nil
}

// merge yields what is wanted of all lists together.
func (l *labelLookup) merge(runs [][]string, yield func(string) error) (err error) {
	n := 0
	merge.Strings(runs, func(s string) bool {
		if l.Limit > 0 && n == l.Limit {
			return false
		}
		n++
		if err = l.done(); err == nil {
			err = yield(s)
		}
		return err == nil
	})
	return err
}
