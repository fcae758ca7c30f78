// Package merge makes one series of several copies of it: one value for each timestamp, the
// greatest in a fixed order, so that everybody who meets several values keeps the same one,
// be it a node that puts the answers of others together, or a store that reads, compacts or
// imports.
package merge

import (
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/series"
)

// Series merges copies, or parts, of one series. It is a storage.VerticalSeriesMergeFunc.
func Series(copies ...storage.Series) storage.Series {
	if len(copies) == 0 {
		return nil
	}
	return &storage.SeriesEntry{Lset: copies[0].Labels(), SampleIteratorFn: func(reuse chunkenc.Iterator) chunkenc.Iterator {
		return New(reuse, len(copies), func(i int, reuse chunkenc.Iterator) chunkenc.Iterator { return copies[i].Iterator(reuse) })
	}}
}

// ChunkSeries returns a function that merges copies, or parts, of one series as chunks: those
// that overlap others are encoded anew, floats as encoding
// says, or as XOR if it is nil.
func ChunkSeries(encoding func() chunkenc.Encoding) storage.VerticalChunkSeriesMergeFunc {
	return storage.NewCompactingChunkSeriesMergerWithFloatEncoding(Series, encoding)
}

// SampleAt returns the sample that an iterator stands at, of the type that it said; it is the
// caller's.
func SampleAt(it chunkenc.Iterator, typ chunkenc.ValueType) series.Sample {
	s := series.Sample{T: it.AtT(), ST: it.AtST()}
	switch typ {
	case chunkenc.ValHistogram:
		_, s.H = it.AtHistogram(&histogram.Histogram{})
	case chunkenc.ValFloatHistogram:
		_, s.FH = it.AtFloatHistogram(&histogram.FloatHistogram{})
	default:
		_, s.V = it.At()
	}
	return s
}
