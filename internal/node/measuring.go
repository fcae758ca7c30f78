package node

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/evaluate"
	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/transport"
)

// measure is what is read of this node's series, and the time that takes.
type measure struct {
	reading, series, samples atomic.Int64
	// readers is how many goroutines read at the same time.
	readers int64
}

func (m *measure) since(began time.Time) { m.reading.Add(int64(time.Since(began)) / m.readers) }

// read is what was read so far.
func (m *measure) read() *spent.Owner {
	return &spent.Owner{Reading: time.Duration(m.reading.Load()), Series: m.series.Load(), Samples: m.samples.Load()}
}

// measuredSet measures what is read of a set. At its end it notes that.
type measuredSet struct {
	measuredPart
	io.Closer
	node *spent.Node
}

// newMeasuredSet measures a set that took some time to be opened.
func newMeasuredSet(set transport.SeriesSet, node *spent.Node, opened time.Duration) *measuredSet {
	m := &measure{readers: 1}
	m.reading.Store(int64(opened))
	return &measuredSet{measuredPart{set, m}, set, node}
}

// Next implements storage.ChunkSeriesSet.
func (s *measuredSet) Next() bool {
	more := s.measuredPart.Next()
	if !more {
		s.node.Owner = s.read()
	}
	return more
}

// Divide divides what can be divided, and measures each part.
func (s *measuredSet) Divide(most int) []promstorage.ChunkSeriesSet {
	d, ok := s.ChunkSeriesSet.(evaluate.Divisible)
	if !ok {
		return nil
	}
	began := time.Now()
	parts := d.Divide(most)
	s.since(began)
	for i, p := range parts {
		parts[i] = measuredPart{p, s.measure}
	}
	s.readers = int64(max(1, len(parts)))
	return parts
}

// measuredPart is what one goroutine reads.
type measuredPart struct {
	promstorage.ChunkSeriesSet
	*measure
}

// Next implements storage.ChunkSeriesSet.
func (s measuredPart) Next() bool {
	began := time.Now()
	more := s.ChunkSeriesSet.Next()
	s.since(began)
	if more {
		s.series.Add(1)
	}
	return more
}

// At implements storage.ChunkSeriesSet.
func (s measuredPart) At() promstorage.ChunkSeries {
	return measuredSeries{s.ChunkSeriesSet.At(), s.measure}
}

type measuredSeries struct {
	series promstorage.ChunkSeries
	*measure
}

// Labels implements storage.ChunkSeries.
func (s measuredSeries) Labels() labels.Labels { return s.series.Labels() }

// Iterator implements storage.ChunkSeries.
func (s measuredSeries) Iterator(reuse chunks.Iterator) chunks.Iterator {
	began := time.Now()
	defer s.since(began)
	it, ok := reuse.(*measuredIterator)
	if !ok {
		it = &measuredIterator{}
	}
	it.Iterator, it.measure = s.series.Iterator(it.Iterator), s.measure
	return it
}

type measuredIterator struct {
	chunks.Iterator
	*measure
}

// Next implements chunks.Iterator.
func (it *measuredIterator) Next() bool {
	began := time.Now()
	more := it.Iterator.Next()
	if more {
		if c := it.At().Chunk; c != nil {
			it.samples.Add(int64(c.NumSamples()))
		}
	}
	it.since(began)
	return more
}

// noteEvaluation notes what an evaluation took that had its turn at a time: beside the reading
// of its set, nil if it was not opened.
func noteEvaluation(node *spent.Node, set transport.SeriesSet, waiting time.Duration, turn time.Time) {
	owner := &spent.Owner{}
	if s, ok := set.(*measuredSet); ok {
		owner = s.read()
	}
	owner.Waiting = waiting
	owner.Evaluating = max(0, time.Since(turn)-owner.Reading)
	node.Owner = owner
}
