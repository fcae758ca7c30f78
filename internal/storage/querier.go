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
// is ErrClosed once Close has begun.
func (s *Store) Querier(mint, maxt int64) (promstorage.Querier, error) {
	if err := s.readers.enter(); err != nil {
		return nil, err
	}
	q, err := s.db.Querier(mint, maxt)
	if err != nil {
		s.readers.leave()
		return nil, err
	}
	return &querier{Querier: q, leave: sync.OnceFunc(s.readers.leave)}, nil
}

// querier counts as a reader until it is closed. What it returns is the TSDB's own.
type querier struct {
	promstorage.Querier
	leave func() // once
}

// Close implements storage.Querier.
func (q *querier) Close() error {
	defer q.leave()
	return q.Querier.Close()
}

// ChunkQuerier returns a querier over the chunks, as stored, that overlap mint to maxt,
// in milliseconds since the epoch. The caller closes it, and uses nothing that it returned
// afterwards. It is ErrClosed once Close has begun.
func (s *Store) ChunkQuerier(mint, maxt int64) (promstorage.ChunkQuerier, error) {
	if err := s.readers.enter(); err != nil {
		return nil, err
	}
	q, err := s.db.ChunkQuerier(mint, maxt)
	if err != nil {
		s.readers.leave()
		return nil, err
	}
	return &chunkQuerier{ChunkQuerier: q, leave: sync.OnceFunc(s.readers.leave)}, nil
}

// chunkQuerier is a querier of chunks.
type chunkQuerier struct {
	promstorage.ChunkQuerier
	leave func() // once
}

// Close implements storage.ChunkQuerier.
func (q *chunkQuerier) Close() error {
	defer q.leave()
	return q.ChunkQuerier.Close()
}

// ExemplarQuerier returns a querier over the exemplars, which live in memory and in the
// write-ahead log only. It is ErrClosed once Close has begun, and so are its answers.
func (s *Store) ExemplarQuerier(ctx context.Context) (promstorage.ExemplarQuerier, error) {
	if s.readers.isShut() {
		return nil, ErrClosed
	}
	q, err := s.db.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	return exemplarQuerier{ExemplarQuerier: q, readers: &s.readers}, nil
}

// exemplarQuerier counts as a reader while it selects, as it is never closed.
type exemplarQuerier struct {
	promstorage.ExemplarQuerier
	readers *gate
}

// Select implements storage.ExemplarQuerier.
func (q exemplarQuerier) Select(start, end int64, matchers ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	if err := q.readers.enter(); err != nil {
		return nil, err
	}
	defer q.readers.leave()
	return q.ExemplarQuerier.Select(start, end, matchers...)
}
