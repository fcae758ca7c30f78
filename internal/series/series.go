// Package series is the vocabulary of the write path: what a sender asks to have
// stored, and what a store answers; and of asking which labels the stored series have. It knows
// nothing of networks, disks or placement.
package series

import (
	"sync/atomic"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
)

// Batch is the content of one write: series with their samples, and metadata, which
// belongs to metric families and not to series.
//
// A batch is immutable from the moment it is handed on; several goroutines read it.
type Batch struct {
	Series   []Series
	Metadata []Metadata

	// free is called when nobody reads the batch any more; readers counts who does beside
	// the one that made it.
	free    func()
	readers atomic.Int32
}

// OnFree has free called when all who read the batch have released it, its maker included:
// the memory of Series and Samples, though not that of what they refer to, is then the
// maker's again. Without it the batch is the garbage collector's.
func (b *Batch) OnFree(free func()) { b.free = free }

// Retain keeps the batch for one more reader, which must release it. Who calls it has not
// yet released it itself.
func (b *Batch) Retain() { b.readers.Add(1) }

// Release ends the reading of one who retained the batch, or made it.
func (b *Batch) Release() {
	if b.readers.Add(-1) < 0 && b.free != nil {
		b.readers.Store(0)
		b.free()
	}
}

// Bytes estimates the memory that the batch takes.
func (b *Batch) Bytes() int64 {
	const (
		perSeries, perSample, perExemplar = 96, 48, 96
		// perHistogram allows for some twenty buckets.
		perHistogram = 512
	)
	var n int64
	for i := range b.Series {
		s := &b.Series[i]
		n += perSeries + int64(s.Labels.ByteSize()) + perSample*int64(len(s.Samples)) + perExemplar*int64(len(s.Exemplars))
		for j := range s.Samples {
			if s.Samples[j].IsHistogram() {
				n += perHistogram
			}
		}
	}
	for i := range b.Metadata {
		m := &b.Metadata[i]
		n += int64(len(m.Family) + len(m.Type) + len(m.Unit) + len(m.Help))
	}
	return n
}

// NumSamples counts the samples of all series.
func (b *Batch) NumSamples() int {
	n := 0
	for i := range b.Series {
		n += len(b.Series[i].Samples)
	}
	return n
}

// Series carries what one request holds for one label set.
type Series struct {
	// Labels are canonical: sorted, unique, without empty values, with a metric name.
	Labels labels.Labels
	// Handle is set if this node remembers the series. Its labels are the same.
	Handle *Handle
	// Samples are in the order in which they were sent.
	Samples   []Sample
	Exemplars []exemplar.Exemplar
}

// Sample is one value at one time: a float, an integer histogram or a float histogram.
// At most one of H and FH is set; V counts only when both are nil.
type Sample struct {
	// ST is the start timestamp in milliseconds since the epoch, 0 if unknown.
	ST int64
	// T is the sample's time in milliseconds since the epoch.
	T  int64
	V  float64
	H  *histogram.Histogram
	FH *histogram.FloatHistogram
}

// IsHistogram tells whether the sample is a native histogram of either kind.
func (s *Sample) IsHistogram() bool { return s.H != nil || s.FH != nil }

// Metadata describes a metric family.
type Metadata struct {
	Family string
	metadata.Metadata
}

// Reason says why a store did not take an item.
type Reason uint8

const (
	// Invalid items will never be taken: too old, too far ahead, malformed.
	Invalid Reason = iota + 1
	// Conflict means that the store holds another value for the same series and
	// timestamp. One of the two is answered by queries.
	Conflict
	// Limit means that the sample belongs to a series that the store does not have and,
	// having as many as it may, does not make.
	Limit
)

// Refusal names one item of a batch that a store did not take.
type Refusal struct {
	// Series indexes Batch.Series.
	Series int
	// Item indexes Samples, or Exemplars if Exemplar is set.
	Item     int
	Exemplar bool
	Reason   Reason
	// Message says what is wrong, without the series: "too old sample".
	Message string
}

// Outcome is a store's answer to a batch: everything not refused is stored.
type Outcome struct {
	Refusals []Refusal
}

// Written counts what a write stored, as Remote Write 2.0 reports it.
type Written struct {
	// Samples counts floats, Histograms native histograms.
	Samples, Histograms, Exemplars int
}
