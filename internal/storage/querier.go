package storage

import (
	"context"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
)

// Querier returns a querier over samples of mint to maxt, both inclusive, in milliseconds
// since the epoch. The caller closes it, and uses nothing that it returned afterwards. It
// is ErrClosed once Close has begun, wraps ErrFenced while the storage is opened again, and
// ErrDamaged where samples may have been lost; what turns out to be damaged while it is read
// fails the querier, and is noted. What is behind the horizon is not there, nor damaged.
//
// Of several values that the store holds for one timestamp the greatest is answered, in the
// order of merge.Compare.
func (s *Store) Querier(mint, maxt int64) (promstorage.Querier, error) {
	q, v, err := look(s, mint, maxt, promstorage.NoopQuerier(), s.merged)
	if err != nil {
		return nil, err
	}
	return &querier{Querier: s.guard.Querier(q), view: v}, nil
}

// view is a look at the store, which counts as a reader until leave is called.
type view struct {
	horizon int64
	leave   func() // once
}

// look opens a querier over what is not expired, or returns the empty one where nothing is left.
func look[Q any](s *Store, mint, maxt int64, empty Q, open func(mint, maxt int64) (Q, error)) (q Q, v view, err error) {
	v = view{s.Horizon().At(), sync.OnceFunc(s.readers.leave)}
	mint = max(mint, v.horizon)
	if err := s.intact(mint, maxt); err != nil {
		return q, v, err
	}
	if err := s.readers.enter(); err != nil {
		return q, v, err
	}
	if mint > maxt {
		return empty, v, nil
	}
	if q, err = open(mint, maxt); err != nil {
		v.leave()
	}
	return q, v, err
}

// querier counts as a reader until it is closed. What it returns is the TSDB's own.
type querier struct {
	promstorage.Querier
	view
}

// Select implements storage.Querier.
func (q *querier) Select(ctx context.Context, sortSeries bool, hints *promstorage.SelectHints, ms ...*labels.Matcher) promstorage.SeriesSet {
	hints, left := clip(hints, q.horizon)
	if !left {
		return promstorage.EmptySeriesSet()
	}
	return q.Querier.Select(ctx, sortSeries, hints, ms...)
}

// Close implements storage.Querier.
func (q *querier) Close() error {
	defer q.leave()
	return q.Querier.Close()
}

// ChunkQuerier returns a querier over the chunks, as stored, that overlap mint to maxt,
// in milliseconds since the epoch. The caller closes it, and uses nothing that it returned
// afterwards. Its errors are those of Querier.
func (s *Store) ChunkQuerier(mint, maxt int64) (promstorage.ChunkQuerier, error) {
	return s.ChunkQuerierOf(mint, maxt, Want{})
}

// Want is what of the series a querier of chunks gives. The zero value stands for everything.
type Want struct {
	// Keep tells by their keys, of Options.Key, which series are given; nil stands for all. It is called by who
	// calls Select, or Next of what that returned, for each series once in the head and once in each
	// block, and where millions are kept once more. Its error ends the read, which fails with it.
	Keep func(key uint64) (bool, error)
	// Labels are the names of those that the reader looks at, sorted; nil stands for all. Where Keep
	// is set a series may lack others, and what was asked for before costs less.
	Labels []string
	// Looks tells whether the reader looks at samples from mint to maxt, in milliseconds, both inclusive; nil
	// stands for all of them. Where Keep is set chunks of other times may be left out.
	Looks func(mint, maxt int64) bool
}

// ChunkQuerierOf is ChunkQuerier of what is wanted alone. Labels that are asked for, and
// limits, are of all series. A series that was selected with Keep, neither sorted nor trimmed, is
// valid until the next one is read; its labels, and the bytes of its chunks, until the querier is
// closed. Such a selection comes in no order, can be divided, costs least, and is all to which Labels
// and Looks make a difference.
func (s *Store) ChunkQuerierOf(mint, maxt int64, want Want) (promstorage.ChunkQuerier, error) {
	q, v, err := look(s, mint, maxt, promstorage.NoopChunkedQuerier(), func(mint, maxt int64) (promstorage.ChunkQuerier, error) {
		return s.mergedChunks(mint, maxt, want)
	})
	if err != nil {
		return nil, err
	}
	return &chunkQuerier{ChunkQuerier: s.guard.ChunkQuerier(q), view: v}, nil
}

// chunkQuerier is a querier of chunks.
type chunkQuerier struct {
	promstorage.ChunkQuerier
	view
}

// Select implements storage.ChunkQuerier.
func (q *chunkQuerier) Select(ctx context.Context, sortSeries bool, hints *promstorage.SelectHints, ms ...*labels.Matcher) promstorage.ChunkSeriesSet {
	hints, left := clip(hints, q.horizon)
	if !left {
		return promstorage.EmptyChunkSeriesSet()
	}
	return q.ChunkQuerier.Select(ctx, sortSeries, hints, ms...)
}

// Close implements storage.ChunkQuerier.
func (q *chunkQuerier) Close() error {
	defer q.leave()
	return q.ChunkQuerier.Close()
}

// ExemplarQuerier returns a querier over the exemplars, which live in memory and in the
// write-ahead log only. It is ErrClosed once Close has begun, and so are its answers.
func (s *Store) ExemplarQuerier(ctx context.Context) (promstorage.ExemplarQuerier, error) {
	if err := s.readers.closed(); err != nil {
		return nil, err
	}
	return exemplarQuerier{ctx: ctx, store: s}, nil
}

// exemplarQuerier counts as a reader while it selects, as it is never closed. It asks the
// TSDB that is open then.
type exemplarQuerier struct {
	ctx   context.Context // of the querier, as the interface has it
	store *Store
}

// Select implements storage.ExemplarQuerier.
func (q exemplarQuerier) Select(start, end int64, matchers ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	if err := q.store.readers.enter(); err != nil {
		return nil, err
	}
	defer q.store.readers.leave()
	eq, err := q.store.db.ExemplarQuerier(q.ctx)
	if err != nil {
		return nil, err
	}
	return eq.Select(max(start, q.store.Horizon().At()), end, matchers...)
}
