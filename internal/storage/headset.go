package storage

import (
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// headSet reads series of a head that has no deletions, and their chunks as they are, in the
// order of their numbers. What At returns changes with the next call of Next, its labels and the
// bytes of its chunks do not. Unlike the TSDB's own set it allocates for the copies of chunks
// alone. Not for concurrent use, but what it is divided into is.
type headSet struct {
	blockReader
	querier *keyedQuerier
	hints   *promstorage.SelectHints
	refs    []promstorage.SeriesRef // those to come

	labels  labels.Labels
	builder labels.ScratchBuilder
	metas   []chunks.Meta
	err     error
}

// leastDivided is how many series are not worth to be divided further.
const leastDivided = 256

// Divide returns sets with all series to come, each for a goroutine of its own, or nothing if
// one set will do. After it, the set that was divided is empty.
func (s *headSet) Divide(most int) []promstorage.ChunkSeriesSet {
	n := min(most, len(s.refs)/leastDivided)
	if n < 2 || s.err != nil {
		return nil
	}
	parts := make([]promstorage.ChunkSeriesSet, n)
	for i := range parts {
		part := &headSet{blockReader: s.blockReader, querier: s.querier, hints: s.hints}
		if i > 0 {
			part.blockReader, part.err = s.querier.open(s.hints)
		}
		part.refs = s.refs[i*len(s.refs)/n : (i+1)*len(s.refs)/n]
		parts[i] = part
	}
	s.refs = nil
	return parts
}

// Next implements storage.ChunkSeriesSet.
func (s *headSet) Next() bool {
	for s.err == nil && len(s.refs) > 0 {
		ref := s.refs[0]
		s.refs = s.refs[1:]
		switch err := s.index.Series(ref, &s.builder, &s.metas); {
		case errors.Is(err, promstorage.ErrNotFound): // It has left the head.
		case err != nil:
			s.err = fmt.Errorf("get series %d: %w", ref, err)
		case s.some():
			s.labels = s.builder.Labels()
			return true
		}
	}
	return false
}

// some tells whether a chunk is left in the time that is asked for, and drops others.
func (s *headSet) some() bool {
	kept := s.metas[:0]
	for _, m := range s.metas {
		if m.MaxTime >= s.hints.Start && m.MinTime <= s.hints.End {
			kept = append(kept, m)
		}
	}
	s.metas = kept
	return len(kept) > 0
}

// At implements storage.ChunkSeriesSet.
func (s *headSet) At() promstorage.ChunkSeries { return s }

// Err implements storage.ChunkSeriesSet.
func (s *headSet) Err() error { return s.err }

// Warnings implements storage.ChunkSeriesSet.
func (s *headSet) Warnings() annotations.Annotations { return nil }

// Labels implements storage.ChunkSeries.
func (s *headSet) Labels() labels.Labels { return s.labels }

// Iterator implements storage.ChunkSeries.
func (s *headSet) Iterator(reuse chunks.Iterator) chunks.Iterator {
	it, ok := reuse.(*headChunks)
	if !ok {
		it = new(headChunks)
	}
	*it = headChunks{chunks: s.chunks, metas: s.metas}
	return it
}

// headChunks reads the chunks of one series.
type headChunks struct {
	chunks tsdb.ChunkReader
	metas  []chunks.Meta // those to come
	at     chunks.Meta
	err    error
}

// Next implements chunks.Iterator.
func (it *headChunks) Next() bool {
	if it.err != nil || len(it.metas) == 0 {
		return false
	}
	it.at, it.metas = it.metas[0], it.metas[1:]
	if it.err = it.read(); it.err != nil {
		it.err = fmt.Errorf("read chunk %d of the head: %w", it.at.Ref, it.err)
	}
	return it.err == nil
}

// read reads the chunk of at: a copy of one that is still appended to.
func (it *headChunks) read() error {
	r, ok := it.chunks.(tsdb.ChunkReaderWithCopy)
	if !ok {
		return fmt.Errorf("a %T does not copy chunks", it.chunks)
	}
	chunk, _, maxt, err := r.ChunkOrIterableWithCopy(it.at)
	if err != nil {
		return err
	}
	if chunk == nil {
		return errors.New("it is no single chunk")
	}
	// What is appended to has no end yet by the index.
	it.at.Chunk, it.at.MaxTime = chunk, maxt
	return nil
}

// At implements chunks.Iterator.
func (it *headChunks) At() chunks.Meta { return it.at }

// Err implements chunks.Iterator.
func (it *headChunks) Err() error { return it.err }
