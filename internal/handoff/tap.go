package handoff

import (
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// tappedSet calls each for every chunk that is read from a set, and ends at its first error.
type tappedSet struct {
	storage.ChunkSeriesSet
	each func(chunks.Meta) error
	err  error
}

// Next implements storage.ChunkSeriesSet.
func (s *tappedSet) Next() bool { return s.err == nil && s.ChunkSeriesSet.Next() }

// At implements storage.ChunkSeriesSet.
func (s *tappedSet) At() storage.ChunkSeries { return &tappedSeries{s.ChunkSeriesSet.At(), s} }

// Err implements storage.ChunkSeriesSet.
func (s *tappedSet) Err() error {
	if s.err != nil {
		return s.err
	}
	return s.ChunkSeriesSet.Err()
}

type tappedSeries struct {
	storage.ChunkSeries
	set *tappedSet
}

// Iterator implements storage.ChunkSeries.
func (s *tappedSeries) Iterator(chunks.Iterator) chunks.Iterator {
	return &tappedIterator{s.ChunkSeries.Iterator(nil), s.set}
}

type tappedIterator struct {
	chunks.Iterator
	set *tappedSet
}

// Next implements chunks.Iterator.
func (it *tappedIterator) Next() bool {
	if it.set.err != nil || !it.Iterator.Next() {
		return false
	}
	it.set.err = it.set.each(it.At())
	return it.set.err == nil
}

// Err implements chunks.Iterator.
func (it *tappedIterator) Err() error {
	if it.set.err != nil {
		return it.set.err
	}
	return it.Iterator.Err()
}
