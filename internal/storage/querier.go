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
// fails the querier, and is noted.
func (s *Store) Querier(mint, maxt int64) (promstorage.Querier, error) {
	if err := s.intact(mint, maxt); err != nil {
		return nil, err
	}
	if err := s.readers.enter(); err != nil {
		return nil, err
	}
	q, err := s.db.Querier(mint, maxt)
	if err != nil {
		s.readers.leave()
		return nil, err
	}
	return &querier{Querier: s.guard.Querier(q), leave: sync.OnceFunc(s.readers.leave)}, nil
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
// afterwards. Its errors are those of Querier.
func (s *Store) ChunkQuerier(mint, maxt int64) (promstorage.ChunkQuerier, error) {
	if err := s.intact(mint, maxt); err != nil {
		return nil, err
	}
	if err := s.readers.enter(); err != nil {
		return nil, err
	}
	q, err := s.db.ChunkQuerier(mint, maxt)
	if err != nil {
		s.readers.leave()
		return nil, err
	}
	return &chunkQuerier{ChunkQuerier: s.guard.ChunkQuerier(q), leave: sync.OnceFunc(s.readers.leave)}, nil
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
	return eq.Select(start, end, matchers...)
}
