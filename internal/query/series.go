package query

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
)

// milliseconds since the epoch. It is int64 under another name because vet takes every
// Seek that begins with an int64 for a failed io.Seeker.
type milliseconds = int64

const (
	minTime = math.MinInt64
	maxTime = math.MaxInt64
)

// selected is the result of a select, merged while it is walked. It waits for the
// answers at the first step.
type selected struct {
	f       *Fanout
	pending *pending
	merger  *merger
	limit   int // of series, 0 for none
	n       int // series so far
}

// Next moves to the next series.
func (s *selected) Next() bool {
	if s.merger == nil {
		<-s.pending.done
		s.merger = newMerger(s.pending.answers)
		s.pending.answers = nil
	}
	if s.limit > 0 && s.n == s.limit {
		return false
	}
	divergent := s.merger.divergent
	if !s.merger.Next() {
		return false
	}
	s.n++
	if s.merger.divergent > divergent {
		s.f.metrics.divergent.Inc()
		if s.f.opts.Disagree != nil {
			s.f.opts.Disagree(spanOf(s.merger.lanes))
		}
	}
	return true
}

// spanOf is the time of all chunks.
func spanOf(lanes [][]chunk) proof.Range {
	r := proof.Range{Min: maxTime, Max: minTime}
	for _, lane := range lanes {
		for _, c := range lane {
			r.Min, r.Max = min(r.Min, c.mint), max(r.Max, c.maxt)
		}
	}
	return r
}

// Err returns why the select failed, nil before the first call of Next.
func (s *selected) Err() error {
	if s.merger == nil {
		return nil
	}
	return s.pending.err
}

// Warnings returns those of all nodes that were used.
func (s *selected) Warnings() annotations.Annotations {
	if s.merger == nil {
		return nil
	}
	return s.pending.warnings
}

// seriesSet implements storage.SeriesSet.
type seriesSet struct {
	selected
	mint, maxt int64
}

// At implements storage.SeriesSet.
func (s *seriesSet) At() storage.Series {
	return &mergedSeries{labels: s.merger.labels, lanes: s.merger.lanes, mint: s.mint, maxt: s.maxt}
}

// mergedSeries implements storage.Series over the lanes of a series.
type mergedSeries struct {
	labels     labels.Labels
	lanes      [][]chunk
	mint, maxt int64
}

// Labels implements storage.Series.
func (s *mergedSeries) Labels() labels.Labels { return s.labels }

// Iterator implements storage.Series.
func (s *mergedSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	switch len(s.lanes) {
	case 0:
		return chunkenc.NewNopIterator()
	case 1:
		return s.iterator(0, it)
	default:
		return merge.New(it, len(s.lanes), s.iterator)
	}
}

// iterator returns one over a lane.
func (s *mergedSeries) iterator(number int, reuse chunkenc.Iterator) chunkenc.Iterator {
	l, ok := reuse.(*lane)
	if !ok {
		l = &lane{}
	}
	l.reset(s.lanes[number], s.mint, s.maxt)
	return l
}

// chunkSeriesSet implements storage.ChunkSeriesSet.
type chunkSeriesSet struct{ selected }

// At implements storage.ChunkSeriesSet.
func (s *chunkSeriesSet) At() storage.ChunkSeries {
	return &mergedChunkSeries{mergedSeries{labels: s.merger.labels, lanes: s.merger.lanes, mint: minTime, maxt: maxTime}}
}

// mergedChunkSeries implements storage.ChunkSeries: chunks as stored where all copies
// are the same, encoded anew where samples have to be merged.
type mergedChunkSeries struct{ series mergedSeries }

// Labels implements storage.ChunkSeries.
func (s *mergedChunkSeries) Labels() labels.Labels { return s.series.labels }

// Iterator implements storage.ChunkSeries.
func (s *mergedChunkSeries) Iterator(it chunks.Iterator) chunks.Iterator {
	switch len(s.series.lanes) {
	case 0:
		return &chunkIterator{}
	case 1:
		return &chunkIterator{rest: s.series.lanes[0]}
	default:
		return storage.NewSeriesToChunkEncoder(&s.series).Iterator(it)
	}
}

// chunkIterator implements chunks.Iterator over chunks as they are stored.
type chunkIterator struct {
	rest []chunk
	cur  chunks.Meta
	err  error
}

// Next implements chunks.Iterator.
func (it *chunkIterator) Next() bool {
	if len(it.rest) == 0 || it.err != nil {
		return false
	}
	c := it.rest[0]
	it.rest = it.rest[1:]
	data, err := chunkenc.FromData(c.enc, c.data)
	if err != nil {
		it.err = fmt.Errorf("chunk [%d, %d]: %w", c.mint, c.maxt, err)
		return false
	}
	it.cur = chunks.Meta{MinTime: c.mint, MaxTime: c.maxt, Chunk: data}
	return true
}

// At implements chunks.Iterator.
func (it *chunkIterator) At() chunks.Meta { return it.cur }

// Err implements chunks.Iterator.
func (it *chunkIterator) Err() error { return it.err }
