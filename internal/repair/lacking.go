package repair

import (
	"context"
	"errors"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
)

// lackingSet leaves of another owner's series the samples that the own store lacks, or has a
// lesser value of. Both are sorted by labels. At its end it closes the look at the own store: who
// still reads a block while another one is to come into service may wait for ever.
type lackingSet struct {
	storage.ChunkSeriesSet
	own     storage.SeriesSet
	querier storage.Querier // nil once it is closed
	valid   bool            // own stands at a series
	ownIt   chunkenc.Iterator
	err     error
}

func newLackingSet(ctx context.Context, theirs storage.ChunkSeriesSet, q storage.Querier, window proof.Range) *lackingSet {
	s := &lackingSet{
		ChunkSeriesSet: theirs, querier: q,
		own: q.Select(ctx, true, &storage.SelectHints{Start: window.Min, End: window.Max}, handoff.Everything()...),
	}
	s.valid = s.own.Next()
	return s
}

// Next implements storage.ChunkSeriesSet.
func (s *lackingSet) Next() bool {
	if s.err == nil && s.ChunkSeriesSet.Next() {
		return true
	}
	s.err = errors.Join(s.err, s.own.Err(), s.close())
	return false
}

// close may be called several times.
func (s *lackingSet) close() error {
	if s.querier == nil {
		return nil
	}
	q := s.querier
	s.querier, s.valid = nil, false
	return q.Close()
}

// At implements storage.ChunkSeriesSet.
func (s *lackingSet) At() storage.ChunkSeries {
	theirs := s.ChunkSeriesSet.At()
	ls := theirs.Labels()
	for s.valid && labels.Compare(s.own.At().Labels(), ls) < 0 {
		s.valid = s.own.Next()
	}
	if !s.valid || !labels.Equal(s.own.At().Labels(), ls) {
		return theirs
	}
	own := s.own.At()
	return storage.NewSeriesToChunkEncoder(&storage.SeriesEntry{Lset: ls, SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator {
		s.ownIt = own.Iterator(s.ownIt)
		return &lackingIterator{Iterator: samplesOf(theirs), own: s.ownIt, at: s.ownIt.Next()}
	}})
}

// Err implements storage.ChunkSeriesSet.
func (s *lackingSet) Err() error { return errors.Join(s.ChunkSeriesSet.Err(), s.err) }

// samplesOf returns the samples of chunks, which may overlap.
func samplesOf(s storage.ChunkSeries) chunkenc.Iterator {
	var all []chunks.Meta
	it := s.Iterator(nil)
	for it.Next() {
		all = append(all, it.At())
	}
	if err := it.Err(); err != nil {
		return failedIterator{chunkenc.NewNopIterator(), err}
	}
	return merge.New(nil, len(all), func(i int, reuse chunkenc.Iterator) chunkenc.Iterator { return all[i].Chunk.Iterator(reuse) })
}

type failedIterator struct {
	chunkenc.Iterator
	err error
}

// Err implements chunkenc.Iterator.
func (it failedIterator) Err() error { return it.err }

// lackingIterator leaves samples out that the own store has, or has a greater value of. It is
// only good for Next.
type lackingIterator struct {
	chunkenc.Iterator
	own chunkenc.Iterator
	at  chunkenc.ValueType // of own
}

// Next implements chunkenc.Iterator.
func (it *lackingIterator) Next() chunkenc.ValueType {
	for {
		typ := it.Iterator.Next()
		if typ == chunkenc.ValNone || !it.has(typ) {
			return typ
		}
	}
}

// has tells whether the own store has the sample that theirs stands at.
func (it *lackingIterator) has(typ chunkenc.ValueType) bool {
	t := it.AtT()
	if it.at != chunkenc.ValNone && it.own.AtT() < t {
		it.at = it.own.Seek(t)
	}
	if it.at == chunkenc.ValNone || it.own.AtT() != t {
		return false
	}
	own, theirs := merge.SampleAt(it.own, it.at), merge.SampleAt(it.Iterator, typ)
	return merge.Compare(&own, &theirs) >= 0 || merge.Stale(&own) && merge.Stale(&theirs)
}

// Err implements chunkenc.Iterator.
func (it *lackingIterator) Err() error { return errors.Join(it.Iterator.Err(), it.own.Err()) }
