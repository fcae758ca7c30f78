package evaluate

import (
	"context"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

const (
	// fedSeries is how many series are read and handed over at once: enough that handing them over costs
	// nothing beside decoding them, few enough that the last batches keep all workers busy.
	fedSeries = 128
	// ownSeries is how many series a worker reads at once for itself: what it has copied is in the
	// processor's nearest cache when it is decoded.
	ownSeries = 8
)

// batch is series that one worker evaluates.
type batch struct {
	series []series
	// chunks are those of all series, one after the other.
	chunks []chunks.Meta
}

// series is one of a batch: its chunks are those up to end, from the end of the one before.
type series struct {
	labels labels.Labels
	end    int
}

// reader reads the series of a set, so many at once, and of each the chunks that are looked at. Not for
// concurrent use.
type reader struct {
	set        storage.ChunkSeriesSet
	most       int
	mint, maxt int64
	looks      func(mint, maxt int64) bool // nil for all of that
	chunks     chunks.Iterator
}

func (r *run) reader(set storage.ChunkSeriesSet, most int) *reader {
	return &reader{set: set, most: most, mint: r.mint, maxt: r.maxt, looks: r.Fragment.Looks(r.Grid)}
}

// fill replaces the series of a batch by those of the next ones that have chunks to look at, and
// tells whether there may be more.
func (r *reader) fill(b *batch) (more bool, err error) {
	b.series, b.chunks = b.series[:0], b.chunks[:0]
	for range r.most {
		if !r.set.Next() {
			return false, r.set.Err()
		}
		s, before := r.set.At(), len(b.chunks)
		r.chunks = s.Iterator(r.chunks)
		if err := r.take(b); err != nil {
			return false, err
		}
		if len(b.chunks) > before {
			b.series = append(b.series, series{labels: s.Labels(), end: len(b.chunks)})
		}
	}
	return true, nil
}

var errOverlap = &pushdown.UnprovenError{Reason: "chunks of a series overlap"}

// take takes the chunks of one series.
func (r *reader) take(b *batch) error {
	first := len(b.chunks)
	for r.chunks.Next() {
		c := r.chunks.At()
		if c.MaxTime < r.mint || c.MinTime > r.maxt || r.looks != nil && !r.looks(c.MinTime, c.MaxTime) {
			continue
		}
		if n := len(b.chunks); n > first && c.MinTime <= b.chunks[n-1].MaxTime {
			return errOverlap
		}
		b.chunks = append(b.chunks, c)
	}
	return r.chunks.Err()
}

// feed hands batches to workers, and takes them back.
type feed struct {
	full, empty chan *batch
}

// newFeed returns a feed with two batches for each worker, one being read while the other is
// evaluated.
func newFeed(workers int) *feed {
	f := &feed{full: make(chan *batch), empty: make(chan *batch, 2*workers)}
	for range cap(f.empty) - 1 {
		f.empty <- &batch{}
	}
	return f
}

// feed hands over a first batch and all that follow. It gives up when ctx is done.
func (f *feed) feed(ctx context.Context, read *reader, b *batch) error {
	for more := true; ; {
		select {
		case f.full <- b:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !more {
			return nil
		}
		select {
		case b = <-f.empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var err error
		if more, err = read.fill(b); err != nil {
			return err
		}
	}
}
