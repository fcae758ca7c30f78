package api

import (
	"context"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/partial"
)

// readQueryable stands between Prometheus's handlers and the cluster. It gives errors
// the right type, reports those that forbid a success to the request's verdict (some
// handlers turn every error into a text), and notes warnings for answers that have no
// room for them.
type readQueryable struct {
	next storage.SampleAndChunkQueryable
}

// Querier never fails: it has no context, so the error is kept for the first use.
func (q readQueryable) Querier(mint, maxt int64) (storage.Querier, error) {
	next, err := q.next.Querier(mint, maxt)
	if err != nil {
		return failedQuerier{err}, nil
	}
	return readQuerier{readLabels{next}, next}, nil
}

// ChunkQuerier never fails, as Querier.
func (q readQueryable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	next, err := q.next.ChunkQuerier(mint, maxt)
	if err != nil {
		return failedChunkQuerier{failedQuerier{err}}, nil
	}
	return readChunkQuerier{readLabels{next}, next}, nil
}

// report classifies err and tells the verdict of the request in ctx.
func report(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	err = classified(err)
	if status, _, ok := retryable(err); ok && status != statusClientGone {
		verdictOf(ctx).fail(err)
	}
	return err
}

func note(ctx context.Context, warnings annotations.Annotations) annotations.Annotations {
	for _, w := range warnings {
		partial.Note(ctx, w.Error())
	}
	return warnings
}

// readLabels is what queriers of samples and of chunks have in common.
type readLabels struct{ storage.LabelQuerier }

func (q readLabels) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	values, warnings, err := q.LabelQuerier.LabelValues(ctx, name, hints, ms...)
	return values, note(ctx, warnings), report(ctx, err)
}

func (q readLabels) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	names, warnings, err := q.LabelQuerier.LabelNames(ctx, hints, ms...)
	return names, note(ctx, warnings), report(ctx, err)
}

type readQuerier struct {
	readLabels
	next storage.Querier
}

func (q readQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return &readSeriesSet{SeriesSet: q.next.Select(ctx, sorted, hints, ms...), ctx: ctx}
}

// readSeriesSet adds reporting to a series set. Asking for warnings before the first series
// advances it, as Prometheus's series handler asks only then.
type readSeriesSet struct {
	storage.SeriesSet
	ctx  context.Context
	lead lead
}

func (s *readSeriesSet) Next() bool { return s.lead.next(s.SeriesSet.Next) }

func (s *readSeriesSet) At() storage.Series { return readSeries{s.SeriesSet.At(), s.ctx} }

func (s *readSeriesSet) Err() error { return report(s.ctx, s.SeriesSet.Err()) }

func (s *readSeriesSet) Warnings() annotations.Annotations {
	s.lead.start(s.SeriesSet.Next)
	return note(s.ctx, s.SeriesSet.Warnings())
}

// lead runs an iterator one step ahead of its user, once started.
type lead struct {
	begun bool
	// ahead means that the step which the user asks for next was done already, with
	// the result found.
	ahead, found bool
}

func (l *lead) start(next func() bool) {
	if !l.begun {
		l.begun, l.ahead, l.found = true, true, next()
	}
}

func (l *lead) next(next func() bool) bool {
	l.begun = true
	if l.ahead {
		l.ahead = false
		return l.found
	}
	return next()
}

type readSeries struct {
	storage.Series
	ctx context.Context
}

func (s readSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	if reused, ok := it.(*readIterator); ok {
		reused.Iterator, reused.ctx = s.Series.Iterator(reused.Iterator), s.ctx
		return reused
	}
	return &readIterator{s.Series.Iterator(it), s.ctx}
}

type readIterator struct {
	chunkenc.Iterator
	ctx context.Context
}

func (i *readIterator) Err() error { return report(i.ctx, i.Iterator.Err()) }

type readChunkQuerier struct {
	readLabels
	next storage.ChunkQuerier
}

func (q readChunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return &readChunkSeriesSet{ChunkSeriesSet: q.next.Select(ctx, sorted, hints, ms...), ctx: ctx}
}

// readChunkSeriesSet adds reporting to a set of chunks. Warnings are noted with the first
// series: a streamed answer shows them in its header or not at all.
type readChunkSeriesSet struct {
	storage.ChunkSeriesSet
	ctx   context.Context
	begun bool
}

func (s *readChunkSeriesSet) Next() bool {
	ok := s.ChunkSeriesSet.Next()
	if !s.begun {
		s.begun = true
		note(s.ctx, s.ChunkSeriesSet.Warnings())
	}
	return ok
}

func (s *readChunkSeriesSet) At() storage.ChunkSeries {
	return readChunkSeries{s.ChunkSeriesSet.At(), s.ctx}
}

func (s *readChunkSeriesSet) Err() error { return report(s.ctx, s.ChunkSeriesSet.Err()) }

func (s *readChunkSeriesSet) Warnings() annotations.Annotations {
	return note(s.ctx, s.ChunkSeriesSet.Warnings())
}

type readChunkSeries struct {
	storage.ChunkSeries
	ctx context.Context
}

func (s readChunkSeries) Iterator(it chunks.Iterator) chunks.Iterator {
	if reused, ok := it.(*readChunkIterator); ok {
		reused.Iterator, reused.ctx = s.ChunkSeries.Iterator(reused.Iterator), s.ctx
		return reused
	}
	return &readChunkIterator{s.ChunkSeries.Iterator(it), s.ctx}
}

type readChunkIterator struct {
	chunks.Iterator
	ctx context.Context
}

func (i *readChunkIterator) Err() error { return report(i.ctx, i.Iterator.Err()) }

// failedQuerier answers everything with the error that kept a querier from opening.
type failedQuerier struct{ err error }

func (q failedQuerier) LabelValues(ctx context.Context, _ string, _ *storage.LabelHints, _ ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, report(ctx, q.err)
}

func (q failedQuerier) LabelNames(ctx context.Context, _ *storage.LabelHints, _ ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, report(ctx, q.err)
}

func (q failedQuerier) Select(ctx context.Context, _ bool, _ *storage.SelectHints, _ ...*labels.Matcher) storage.SeriesSet {
	return storage.ErrSeriesSet(report(ctx, q.err))
}

func (failedQuerier) Close() error { return nil }

type failedChunkQuerier struct{ failedQuerier }

func (q failedChunkQuerier) Select(ctx context.Context, _ bool, _ *storage.SelectHints, _ ...*labels.Matcher) storage.ChunkSeriesSet {
	return storage.ErrChunkSeriesSet(report(ctx, q.err))
}

// readExemplars classifies and reports the errors of exemplar queries.
type readExemplars struct{ next storage.ExemplarQueryable }

func (e readExemplars) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	next, err := e.next.ExemplarQuerier(ctx)
	if err != nil {
		return nil, report(ctx, err)
	}
	return readExemplarQuerier{next, ctx}, nil
}

type readExemplarQuerier struct {
	storage.ExemplarQuerier
	ctx context.Context
}

func (q readExemplarQuerier) Select(start, end int64, ms ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	res, err := q.ExemplarQuerier.Select(start, end, ms...)
	return res, report(q.ctx, err)
}
