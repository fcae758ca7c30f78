package node

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/transport"
)

// measuredSet counts what is read of this node's series, and the time that takes. At its end
// it notes that.
type measuredSet struct {
	transport.SeriesSet
	node                     *spent.Node
	reading, series, samples atomic.Int64
}

// newMeasuredSet measures a set that took some time to be opened.
func newMeasuredSet(set transport.SeriesSet, node *spent.Node, opened time.Duration) *measuredSet {
	s := &measuredSet{SeriesSet: set, node: node}
	s.reading.Store(int64(opened))
	return s
}

// measured is what was read so far.
func (s *measuredSet) measured() *spent.Owner {
	return &spent.Owner{Reading: time.Duration(s.reading.Load()), Series: s.series.Load(), Samples: s.samples.Load()}
}

func (s *measuredSet) since(began time.Time) { s.reading.Add(int64(time.Since(began))) }

// Next implements storage.ChunkSeriesSet.
func (s *measuredSet) Next() bool {
	began := time.Now()
	more := s.SeriesSet.Next()
	s.since(began)
	if more {
		s.series.Add(1)
	} else {
		s.node.Owner = s.measured()
	}
	return more
}

// At implements storage.ChunkSeriesSet.
func (s *measuredSet) At() promstorage.ChunkSeries { return measuredSeries{s.SeriesSet.At(), s} }

type measuredSeries struct {
	series promstorage.ChunkSeries
	set    *measuredSet
}

// Labels implements storage.ChunkSeries.
func (s measuredSeries) Labels() labels.Labels { return s.series.Labels() }

// Iterator implements storage.ChunkSeries.
func (s measuredSeries) Iterator(reuse chunks.Iterator) chunks.Iterator {
	began := time.Now()
	defer s.set.since(began)
	it, ok := reuse.(*measuredIterator)
	if !ok {
		it = &measuredIterator{}
	}
	it.Iterator, it.set = s.series.Iterator(it.Iterator), s.set
	return it
}

type measuredIterator struct {
	chunks.Iterator
	set *measuredSet
}

// Next implements chunks.Iterator.
func (it *measuredIterator) Next() bool {
	began := time.Now()
	more := it.Iterator.Next()
	if more {
		if c := it.At().Chunk; c != nil {
			it.set.samples.Add(int64(c.NumSamples()))
		}
	}
	it.set.since(began)
	return more
}

// noteEvaluation notes what an evaluation took that had its turn at a time: beside the reading
// of its set, nil if it was not opened.
func noteEvaluation(node *spent.Node, set transport.SeriesSet, waiting time.Duration, turn time.Time) {
	owner := &spent.Owner{}
	if s, ok := set.(*measuredSet); ok {
		owner = s.measured()
	}
	owner.Waiting = waiting
	owner.Evaluating = max(0, time.Since(turn)-owner.Reading)
	node.Owner = owner
}
