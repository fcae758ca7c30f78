package merge

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"

	"github.com/starling-tsdb/starling/internal/series"
)

// Compare orders the values that may have been sent for one series and timestamp,
// so that everybody who meets several of them keeps the same one: the greatest. It is
// total, and pure, and disregards the timestamps.
//
// In ascending order:
//
//  1. stale markers, of whatever type;
//  2. floats that are other NaNs, by bits;
//  3. floats, numerically, -0 before +0;
//  4. integer histograms;
//  5. float histograms.
//
// Stale markers order among themselves as float, integer histogram, float histogram.
// Histograms order by, one after the other: gauge after counter, schema, zero threshold,
// zero count, count, sum, the positive buckets, the negative ones, custom values.
// Buckets are compared as the sequence of (index, count) of those that are not empty,
// so that it makes no difference which empty buckets a chunk happens to spell out;
// counter reset hints are no part of the value. Floats inside of histograms order as
// floats do. What is left equal is ordered by start timestamp.
func Compare(a, b *series.Sample) int {
	ca, cb := classOf(a), classOf(b)
	if ca != cb {
		return cmp.Compare(ca, cb)
	}
	c := 0
	switch ca {
	case classNaN, classFloat:
		c = CompareFloats(a.V, b.V)
	case classHistogram:
		c = compareHistograms(a.H, b.H)
	case classFloatHistogram:
		c = compareFloatHistograms(a.FH, b.FH)
	}
	return cmp.Or(c, cmp.Compare(a.ST, b.ST))
}

// Stale tells whether a sample is a stale marker.
func Stale(s *series.Sample) bool { return classOf(s) <= classStaleFloatHistogram }

const (
	classStaleFloat = iota
	classStaleHistogram
	classStaleFloatHistogram
	classNaN
	classFloat
	classHistogram
	classFloatHistogram
)

func classOf(s *series.Sample) int {
	switch {
	case s.FH != nil:
		if value.IsStaleNaN(s.FH.Sum) {
			return classStaleFloatHistogram
		}
		return classFloatHistogram
	case s.H != nil:
		if value.IsStaleNaN(s.H.Sum) {
			return classStaleHistogram
		}
		return classHistogram
	case value.IsStaleNaN(s.V):
		return classStaleFloat
	case math.IsNaN(s.V):
		return classNaN
	default:
		return classFloat
	}
}

// CompareFloats orders stale markers, other NaNs by bits, numbers, -0 before +0.
func CompareFloats(a, b float64) int {
	x, y := math.Float64bits(a), math.Float64bits(b)
	if x == y {
		return 0
	}
	if c := cmp.Compare(floatRank(a), floatRank(b)); c != 0 {
		return c
	}
	if math.IsNaN(a) {
		return cmp.Compare(x, y)
	}
	if c := cmp.Compare(a, b); c != 0 {
		return c
	}
	// Only the two zeros are equal and differ in bits; the negative one has the sign
	// bit set.
	return cmp.Compare(y, x)
}

func floatRank(v float64) int {
	switch {
	case value.IsStaleNaN(v):
		return 0
	case math.IsNaN(v):
		return 1
	default:
		return 2
	}
}

func compareHistograms(a, b *histogram.Histogram) int {
	return cmp.Or(
		compareGauge(a.CounterResetHint, b.CounterResetHint),
		cmp.Compare(a.Schema, b.Schema),
		CompareFloats(a.ZeroThreshold, b.ZeroThreshold),
		cmp.Compare(a.ZeroCount, b.ZeroCount),
		cmp.Compare(a.Count, b.Count),
		CompareFloats(a.Sum, b.Sum),
		compareBuckets(deltas(a.PositiveSpans, a.PositiveBuckets), deltas(b.PositiveSpans, b.PositiveBuckets), cmp.Compare[int64]),
		compareBuckets(deltas(a.NegativeSpans, a.NegativeBuckets), deltas(b.NegativeSpans, b.NegativeBuckets), cmp.Compare[int64]),
		slices.CompareFunc(a.CustomValues, b.CustomValues, CompareFloats),
	)
}

func compareFloatHistograms(a, b *histogram.FloatHistogram) int {
	return cmp.Or(
		compareGauge(a.CounterResetHint, b.CounterResetHint),
		cmp.Compare(a.Schema, b.Schema),
		CompareFloats(a.ZeroThreshold, b.ZeroThreshold),
		CompareFloats(a.ZeroCount, b.ZeroCount),
		CompareFloats(a.Count, b.Count),
		CompareFloats(a.Sum, b.Sum),
		compareBuckets(counts(a.PositiveSpans, a.PositiveBuckets), counts(b.PositiveSpans, b.PositiveBuckets), CompareFloats),
		compareBuckets(counts(a.NegativeSpans, a.NegativeBuckets), counts(b.NegativeSpans, b.NegativeBuckets), CompareFloats),
		slices.CompareFunc(a.CustomValues, b.CustomValues, CompareFloats),
	)
}

func compareGauge(a, b histogram.CounterResetHint) int {
	gauge := func(h histogram.CounterResetHint) int {
		if h == histogram.GaugeType {
			return 1
		}
		return 0
	}
	return cmp.Compare(gauge(a), gauge(b))
}

// buckets walks the buckets of a histogram that are not empty. A histogram with fewer
// buckets than its spans ask for ends early.
type buckets[N int64 | float64] struct {
	spans   []histogram.Span
	values  []N
	delta   bool
	inSpan  uint32
	index   int64 // of the next bucket; meaningful inside of a span
	started bool
	sum     N
}

func deltas(spans []histogram.Span, values []int64) buckets[int64] {
	return buckets[int64]{spans: spans, values: values, delta: true}
}

func counts(spans []histogram.Span, values []float64) buckets[float64] {
	return buckets[float64]{spans: spans, values: values}
}

// next returns the next bucket that is not empty.
func (b *buckets[N]) next() (index int64, count N, ok bool) {
	for len(b.spans) > 0 && len(b.values) > 0 {
		if !b.started {
			b.index += int64(b.spans[0].Offset)
			b.started = true
		}
		if b.inSpan >= b.spans[0].Length {
			b.spans, b.inSpan, b.started = b.spans[1:], 0, false
			continue
		}
		index, count = b.index, b.values[0]
		if b.delta {
			b.sum += count
			count = b.sum
		}
		b.values, b.index = b.values[1:], b.index+1
		b.inSpan++
		if count != 0 {
			return index, count, true
		}
	}
	return 0, 0, false
}

// compareBuckets orders sequences of (index, count), a sequence after its prefixes.
func compareBuckets[N int64 | float64](a, b buckets[N], compare func(N, N) int) int {
	for {
		ia, va, oka := a.next()
		ib, vb, okb := b.next()
		switch {
		case !oka && !okb:
			return 0
		case !oka:
			return -1
		case !okb:
			return 1
		}
		if c := cmp.Or(cmp.Compare(ia, ib), compare(va, vb)); c != 0 {
			return c
		}
	}
}
