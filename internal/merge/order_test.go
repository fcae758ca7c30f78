package merge

import (
	"math"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/series"
)

// ascending lists values each of which is smaller than the next.
func ascending() []series.Sample {
	stale := math.Float64frombits(value.StaleNaN)
	h := tsdbutil.GenerateTestHistogram
	fh := tsdbutil.GenerateTestFloatHistogram
	gauge := h(0)
	gauge.CounterResetHint = histogram.GaugeType
	bigger := h(5)
	bigger.PositiveBuckets[len(bigger.PositiveBuckets)-1]++
	return []series.Sample{
		{V: stale},
		{V: stale, ST: 5},
		{H: &histogram.Histogram{Sum: stale}},
		{FH: &histogram.FloatHistogram{Sum: stale}},
		{V: math.Float64frombits(value.NormalNaN)},
		{V: math.Float64frombits(value.NormalNaN + 1)},
		{V: math.Inf(-1)},
		{V: -1},
		{V: math.Copysign(0, -1)},
		{V: 0},
		{V: 0, ST: 1},
		{V: math.SmallestNonzeroFloat64},
		{V: 1},
		{V: math.Inf(1)},
		{H: tsdbutil.GenerateTestCustomBucketsHistogram(3)}, // schema -53
		{H: h(0)},
		{H: h(5)},
		{H: h(5), ST: 1},
		{H: bigger},
		{H: gauge},
		{FH: tsdbutil.GenerateTestCustomBucketsFloatHistogram(3)},
		{FH: fh(0)},
		{FH: fh(5)},
		{FH: tsdbutil.GenerateTestGaugeFloatHistogram(0)},
	}
}

// Comparing every two of a list that ascends shows that the order is total on it:
// antisymmetric, transitive, and equal for the same only.
func TestCompare(t *testing.T) {
	list := ascending()
	for i := range list {
		for j := range list {
			want := 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got := Compare(&list[i], &list[j]); got != want {
				t.Errorf("compare value %d, %+v, with %d, %+v: got %d, want %d", i, list[i], j, list[j], got, want)
			}
		}
	}
}

// The same histogram may come with and without empty buckets, and with any hint.
func TestCompareHistogramsByMeaning(t *testing.T) {
	plain := &histogram.Histogram{
		Count: 7, Sum: 3, Schema: 1,
		PositiveSpans:   []histogram.Span{{Offset: 1, Length: 1}, {Offset: 2, Length: 2}},
		PositiveBuckets: []int64{2, 1, -1},
	}
	padded := &histogram.Histogram{
		CounterResetHint: histogram.NotCounterReset,
		Count:            7, Sum: 3, Schema: 1,
		PositiveSpans:   []histogram.Span{{Offset: 0, Length: 7}},
		PositiveBuckets: []int64{0, 2, -2, 0, 3, -1, -2},
	}
	a, b := series.Sample{H: plain}, series.Sample{H: padded}
	if c := Compare(&a, &b); c != 0 || digestOf(labels.EmptyLabels(), a) != digestOf(labels.EmptyLabels(), b) {
		t.Errorf("integer histograms: got %d, want equal, and their digests, too", c)
	}
	a, b = series.Sample{FH: plain.ToFloat(nil)}, series.Sample{FH: padded.ToFloat(nil)}
	if c := Compare(&a, &b); c != 0 || digestOf(labels.EmptyLabels(), a) != digestOf(labels.EmptyLabels(), b) {
		t.Errorf("float histograms: got %d, want equal, and their digests, too", c)
	}
	padded.PositiveBuckets[6]++
	a, b = series.Sample{H: plain}, series.Sample{H: padded}
	if c := Compare(&a, &b); c != -1 {
		t.Errorf("with one more bucket: got %d, want -1", c)
	}
	// Fewer buckets than the spans promise must not panic.
	padded.PositiveBuckets = padded.PositiveBuckets[:3]
	Compare(&a, &b)
}
