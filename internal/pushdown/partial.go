package pushdown

import (
	"errors"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/kahansum"
)

// UnprovenError says that a fragment met something that it is not known to be equal for: what
// it reads has to be evaluated as a whole.
type UnprovenError struct{ Reason string }

// Error implements error.
func (e *UnprovenError) Error() string { return "not to be evaluated in parts: " + e.Reason }

// errOverflow is met by the average of finite numbers whose sum is not: the engine goes over
// to another way of computing it then.
var errOverflow = &UnprovenError{Reason: "the sum of an average overflows"}

// Partial is what one node makes of a fragment, of the series that it serves.
type Partial struct {
	// Values are by labels, in no order and without duplicates.
	Values []Values
	// Samples are how many were looked at, those that several steps look at as often.
	Samples int64
	// Found tells whether the function of a range gave a float for any series, before
	// anything was made of that.
	Found bool
}

// Values are those of a group of series, or of one where nothing aggregates.
type Values struct {
	Labels labels.Labels
	// N counts the samples at each step.
	N []uint64
	// V has a value for each step at which there are samples; nil for COUNT and GROUP, that
	// need none. For SUM and AVG it is the sum, and C is what has to be added to it, for
	// what rounding took.
	V, C []float64
	// H is what histograms come to at each step. It is nil if there are none at any step, and
	// with COUNT and GROUP. V is 0 at the steps with histograms.
	H []Histogram
}

// NewValues returns values without samples.
func NewValues(op parser.ItemType, ls labels.Labels, steps int) Values {
	v := Values{Labels: ls, N: make([]uint64, steps)}
	switch op {
	case parser.COUNT, parser.GROUP:
	case parser.SUM, parser.AVG:
		both := make([]float64, 2*steps)
		v.V, v.C = both[:steps:steps], both[steps:]
	default:
		v.V = make([]float64, steps)
	}
	return v
}

// Add adds a sample at a step. An error is an *UnprovenError.
func (v *Values) Add(op parser.ItemType, step int, sample float64) error {
	v.N[step]++
	if v.V == nil {
		return nil
	}
	if v.N[step] == 1 {
		v.V[step] = sample
		return nil
	}
	if v.HasHistogram(step) {
		return errMixed
	}
	was := v.V[step]
	switch op {
	case parser.SUM, parser.AVG:
		sum, c := kahansum.Inc(sample, was, v.C[step])
		if op == parser.AVG && math.IsInf(sum, 0) && !math.IsInf(was, 0) && !math.IsInf(sample, 0) {
			return errOverflow
		}
		v.V[step], v.C[step] = sum, c
	case parser.MIN:
		if was > sample || math.IsNaN(was) {
			v.V[step] = sample
		}
	case parser.MAX:
		if was < sample || math.IsNaN(was) {
			v.V[step] = sample
		}
	default:
		return errDuplicate
	}
	return nil
}

// merge adds what another node has of the same group.
func (v *Values) merge(op parser.ItemType, other *Values) error {
	for step, n := range other.N {
		if n == 0 {
			continue
		}
		was := v.N[step]
		var err error
		switch {
		case other.HasHistogram(step):
			err = v.mergeHistogram(op, step, other)
		case v.V != nil:
			err = v.mergeFloat(op, step, other)
		}
		if err != nil {
			return err
		}
		v.N[step] = was + n
	}
	return nil
}

// mergeFloat adds the floats that another node has at a step.
func (v *Values) mergeFloat(op parser.ItemType, step int, other *Values) error {
	if err := v.Add(op, step, other.V[step]); err != nil {
		return err
	}
	if v.C != nil {
		v.V[step], v.C[step] = kahansum.Inc(other.C[step], v.V[step], v.C[step])
	}
	return nil
}

// At returns what comes out at a step, if anything does: a histogram that is not to be changed, or
// a float if it is nil.
func (v *Values) At(op parser.ItemType, step int) (float64, *histogram.FloatHistogram, bool) {
	n := v.N[step]
	if n == 0 {
		return 0, nil, false
	}
	if v.HasHistogram(step) {
		return 0, v.histogramAt(op, step), true
	}
	switch op {
	case parser.COUNT:
		return float64(n), nil, true
	case parser.GROUP:
		return 1, nil, true
	case parser.SUM:
		return v.V[step] + v.C[step], nil, true
	case parser.AVG:
		return v.V[step]/float64(n) + v.C[step]/float64(n), nil, true
	default:
		return v.V[step], nil, true
	}
}

// Bytes returns about how much memory it takes.
func (p *Partial) Bytes() int64 {
	var n int64
	for i := range p.Values {
		v := &p.Values[i]
		n += int64(v.Labels.ByteSize()) + 8*int64(len(v.N)+len(v.V)+len(v.C)) + v.HistogramBytes() + valuesOverhead
	}
	return n
}

// Bytes returns about how much memory values take beside their labels.
func Bytes(op parser.ItemType, steps int) int64 {
	each := 2
	switch op {
	case parser.COUNT, parser.GROUP:
		each = 1
	case parser.SUM, parser.AVG:
		each = 3
	}
	return 8*int64(each)*int64(steps) + valuesOverhead
}

// valuesOverhead is what Values take beside what they refer to.
const valuesOverhead = 120

// errShape is a mistake of a peer.
var errShape = errors.New("a part of a fragment does not have the steps that it was asked for")

// check tells whether values have the parts of an example, with so many steps.
func (v *Values) check(example Values, steps int) error {
	fits := func(have, want []float64) bool {
		return (have == nil) == (want == nil) && (have == nil || len(have) == steps)
	}
	if len(v.N) != steps || !fits(v.V, example.V) || !fits(v.C, example.C) ||
		v.H != nil && len(v.H) != steps {
		return errShape
	}
	return nil
}
