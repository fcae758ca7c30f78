package copies

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/storage"
)

// Read reads all that was sent to a node from its directory, which nobody uses.
func Read(dir string) (_ ledger.Answer, err error) {
	store, err := storage.Open(storage.Options{Dir: dir, OutOfOrderWindow: 3 * time.Hour})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	q, err := store.ChunkQuerier(math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	ours := labels.MustNewMatcher(labels.MatchRegexp, labels.MetricName, "faults_.+")
	set := q.Select(context.Background(), true, nil, ours)
	a := ledger.Answer{}
	for set.Next() {
		at := set.At()
		s, err := ledger.SeriesOf(at.Labels().Get)
		if err != nil {
			return nil, err
		}
		if a[s], err = readChunks(at); err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
	}
	return a, set.Err()
}

func readChunks(s promstorage.ChunkSeries) ([]ledger.Point, error) {
	var points []ledger.Point
	chunks := s.Iterator(nil)
	for chunks.Next() {
		it := chunks.At().Chunk.Iterator(nil)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			points = append(points, pointOf(it, kind))
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
	}
	return points, chunks.Err()
}

func pointOf(it chunkenc.Iterator, kind chunkenc.ValueType) ledger.Point {
	if kind == chunkenc.ValFloat {
		t, v := it.At()
		return ledger.Point{T: t, V: v}
	}
	var h histogram.FloatHistogram
	t, fh := it.AtFloatHistogram(&h)
	return ledger.Point{T: t, V: fh.Sum, Count: uint64(fh.Count)}
}
