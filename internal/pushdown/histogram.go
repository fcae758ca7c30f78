package pushdown

import (
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/promql/parser"
)

var (
	errMixed     = &UnprovenError{Reason: "floats and histograms of one group at one step"}
	errIgnored   = &UnprovenError{Reason: "the aggregation leaves histograms out"}
	errDuplicate = &UnprovenError{Reason: "two samples of one series at one step"}
	errReset     = &UnprovenError{Reason: "a histogram is known to follow a reset"}
	errZero      = &UnprovenError{Reason: "histograms with zero buckets of different width"}
	errBuckets   = &UnprovenError{Reason: "histograms whose buckets do not fit together"}
)

// Histogram is what histograms come to: their sum, nil if there are none, and what has to be
// added to it for what rounding took, nil if it is of one.
type Histogram struct{ Sum, C *histogram.FloatHistogram }

// AddHistogram adds a histogram at a step, and takes it over where nothing aggregates. An error
// is an *UnprovenError.
func (v *Values) AddHistogram(op parser.ItemType, step int, h *histogram.FloatHistogram) error {
	switch op {
	case parser.COUNT, parser.GROUP:
		v.N[step]++
		return nil
	case parser.MIN, parser.MAX:
		return errIgnored
	}
	// Chunks do not tell of resets. Without such hints no order of histograms has resets that
	// contradict each other, which the engine warns of.
	if h.CounterResetHint == histogram.CounterReset {
		return errReset
	}
	if !(h.ZeroThreshold >= 0) || math.IsInf(h.ZeroThreshold, 1) {
		return errZero
	}
	if v.N[step]++; v.N[step] == 1 {
		if op != 0 {
			// Copies of histograms with bounds lose what these do not have, and so do the
			// engine's.
			h = h.Copy()
		}
		v.SetHistogram(step, Histogram{Sum: h})
		return nil
	}
	switch {
	case !v.HasHistogram(step):
		return errMixed
	case op == 0:
		return errDuplicate
	}
	return v.sumHistogram(op, step, h)
}

// SetHistogram sets what the histograms at a step come to, and takes it over.
func (v *Values) SetHistogram(step int, h Histogram) {
	if v.H == nil {
		v.H = make([]Histogram, len(v.N))
	}
	v.H[step] = h
}

// HasHistogram tells whether the samples at a step are histograms, and are kept.
func (v *Values) HasHistogram(step int) bool { return v.H != nil && v.H[step].Sum != nil }

// sumHistogram adds to the sum of histograms that there is at a step. Zero buckets have to be
// equally wide: the order in which others are made so decides on the buckets beside them.
func (v *Values) sumHistogram(op parser.ItemType, step int, h *histogram.FloatHistogram) error {
	at := &v.H[step]
	if at.Sum.ZeroThreshold != h.ZeroThreshold {
		return errZero
	}
	c, collision, reconciled, err := at.Sum.KahanAdd(h, at.C)
	if err != nil || collision || reconciled {
		return errBuckets
	}
	if op == parser.AVG && at.Sum.HasOverflow() {
		return errOverflow
	}
	at.C = c
	return nil
}

// mergeHistogram adds the histograms that another node has at a step, and takes them over.
func (v *Values) mergeHistogram(op parser.ItemType, step int, other *Values) error {
	first := v.N[step] == 0
	if err := v.AddHistogram(op, step, other.H[step].Sum); err != nil {
		return err
	}
	c := other.H[step].C
	switch {
	case c == nil:
		return nil
	case first:
		v.H[step].C = c
		return nil
	default:
		return v.sumHistogram(op, step, c)
	}
}

// histogramAt returns what histograms come to at a step where there are some.
func (v *Values) histogramAt(op parser.ItemType, step int) *histogram.FloatHistogram {
	if op == 0 {
		return v.H[step].Sum
	}
	sum, c := v.H[step].Sum.Copy(), v.H[step].C
	if op == parser.AVG {
		n := float64(v.N[step])
		sum.Div(n)
		if c != nil {
			c = c.Copy().Div(n)
		}
	}
	if c != nil {
		// It has the buckets of the sum.
		_, _, _, _ = sum.Add(c)
	}
	return sum.Compact(0)
}

// HistogramBytes returns about how much memory histograms take.
func (v *Values) HistogramBytes() int64 {
	var n int64
	for _, h := range v.H {
		n += 2 * pointerBytes
		if h.Sum != nil {
			n += int64(h.Sum.Size())
		}
		if h.C != nil {
			n += int64(h.C.Size())
		}
	}
	return n
}

const pointerBytes = 8
