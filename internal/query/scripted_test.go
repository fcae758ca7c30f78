package query

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
)

var errDown = errors.New("connection refused")

// failing is a node that does not answer.
type failing struct{ err error }

func (f failing) State(context.Context) (proof.State, error) { return proof.State{}, f.err }

func (f failing) Select(context.Context, SelectRequest) storage.ChunkSeriesSet {
	return storage.ErrChunkSeriesSet(f.err)
}

func (f failing) Evaluate(context.Context, EvaluateRequest) (*pushdown.Partial, error) {
	return nil, f.err
}

func (f failing) Labels(context.Context, series.LabelQuery, func(int64) error) ([]string, error) {
	return nil, f.err
}

func (f failing) Exemplars(context.Context, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return nil, f.err
}

func (f failing) Metadata(context.Context, string, int, int) (map[string][]metadata.Metadata, error) {
	return nil, f.err
}

func (f failing) Stats(context.Context, string, int) (*tsdb.Stats, error) { return nil, f.err }

// scripted is a node that holds one series with a sample of its own, and answers to a
// select as told. Everything else fails.
type scripted struct {
	failing
	id       int64
	delay    time.Duration // before the answer
	hang     bool          // until the context is done
	panics   bool
	after    error // the failure after the series was handed out
	size     int   // bytes of an additional series
	canceled *atomic.Int64
}

func (s scripted) Select(ctx context.Context, _ SelectRequest) storage.ChunkSeriesSet {
	if err := s.wait(ctx); err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	if s.panics {
		panic("corrupt chunk")
	}
	set := &listSet{err: s.after, series: []storage.ChunkSeries{chunkList(labels.FromStrings(labels.MetricName, "m"), smallChunk(s.id))}}
	if s.size > 0 {
		big := chunkenc.NewXORChunk()
		data := make([]byte, s.size)
		data[1] = 1
		big.Reset(data)
		set.series = append(set.series, chunkList(labels.FromStrings(labels.MetricName, "n"), chunks.Meta{Chunk: big}))
	}
	return set
}

// wait makes no timer that has expired at once: several goroutines of a synctest bubble
// that select on such timers crash the race detector of Go 1.26.
func (s scripted) wait(ctx context.Context) error {
	var over <-chan time.Time
	switch {
	case s.hang:
	case s.delay > 0:
		over = time.After(s.delay)
	default:
		return ctx.Err()
	}
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		if s.canceled != nil {
			s.canceled.Add(1)
		}
		return ctx.Err()
	}
}

// smallChunk holds one sample.
func smallChunk(t int64) chunks.Meta {
	c := chunkenc.NewXORChunk()
	app, err := c.Appender()
	if err != nil {
		panic(err)
	}
	app.Append(0, t, float64(t))
	return chunks.Meta{MinTime: t, MaxTime: t, Chunk: c}
}

func chunkList(ls labels.Labels, metas ...chunks.Meta) storage.ChunkSeries {
	return &storage.ChunkSeriesEntry{Lset: ls, ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
		return storage.NewListChunkSeriesIterator(metas...)
	}}
}

type listSet struct {
	series []storage.ChunkSeries
	cur    storage.ChunkSeries
	err    error
}

func (s *listSet) Next() bool {
	if len(s.series) == 0 {
		return false
	}
	s.cur, s.series = s.series[0], s.series[1:]
	return true
}
func (s *listSet) At() storage.ChunkSeries           { return s.cur }
func (s *listSet) Err() error                        { return s.err }
func (s *listSet) Warnings() annotations.Annotations { return nil }
