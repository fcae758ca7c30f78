package evaluate

import (
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/kahansum"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// function is a function of a range, evaluated for windows of one series after the other. Not
// for concurrent use.
type function struct {
	// at gives the value at a step, in milliseconds, for the samples from lo to before hi,
	// of which there are some, and whether there is a value. Windows of a series come in
	// the order of their steps. An error is a *pushdown.UnprovenError.
	at func(fn *function, lo, hi int, t int64) (v float64, ok bool, err error)

	// starts says that the engine may have it look at the start timestamps of samples.
	starts bool

	// points are the samples of the series at hand.
	points []promql.FPoint

	// What follows is of rate and its kin. Resets are the indices of points that are less
	// than the one before; those before next are before the last window.
	counter bool
	resets  []int
	next    int
	// rangeOffset is the sum of both, and offset is alone, in milliseconds; seconds is what
	// to divide by.
	rangeOffset, offset int64
	seconds             float64

	// What follows is the engine's own function, and what it is called with.
	stock   promql.FunctionCall
	scalars []promql.Vector
	matrix  promql.Matrix
	args    parser.Expressions
	helper  *promql.EvalNodeHelper
}

// newFunction returns the function of a fragment that has one.
func newFunction(f *pushdown.Fragment) *function {
	name := f.Call.Func.Name
	fn := &function{
		at:     (*function).engine,
		stock:  promql.FunctionCalls[name],
		matrix: make(promql.Matrix, 1),
		helper: &promql.EvalNodeHelper{Out: make(promql.Vector, 0, 1)},
	}
	fn.readArgs(f)
	if at, known := special[name]; known {
		fn.at = at
	}
	switch name {
	case "rate", "increase":
		fn.counter, fn.starts = true, true
	case "irate", "resets":
		fn.starts = true
	}
	if name != "rate" {
		fn.seconds = 1
	}
	return fn
}

// readArgs makes arguments as the engine's functions expect them: the selector bare, and with
// the offset that the engine sets when it prepares a query.
func (fn *function) readArgs(f *pushdown.Fragment) {
	others := f.Args
	for _, arg := range f.Call.Args {
		selector, is := pushdown.Unwrapped(arg).(*parser.MatrixSelector)
		if !is {
			fn.args = append(fn.args, &parser.NumberLiteral{Val: others[0]})
			fn.scalars = append(fn.scalars, promql.Vector{{F: others[0]}})
			others = others[1:]
			continue
		}
		matrix, vector := *selector, *selector.VectorSelector.(*parser.VectorSelector)
		vector.Offset = vector.OriginalOffset
		matrix.VectorSelector = &vector
		fn.args = append(fn.args, &matrix)
		fn.rangeOffset, fn.offset = f.Range+f.Offset, f.Offset
		fn.seconds = matrix.Range.Seconds()
	}
}

// reset begins with the samples of another series, which have to stay until the next reset.
func (fn *function) reset(ls labels.Labels, points []promql.FPoint) {
	fn.points = points
	fn.matrix[0].Metric = ls
	fn.resets, fn.next = fn.resets[:0], 0
	if !fn.counter {
		return
	}
	for i := 1; i < len(points); i++ {
		if points[i].F < points[i-1].F {
			fn.resets = append(fn.resets, i)
		}
	}
}

// engine calls the function of the engine.
func (fn *function) engine(lo, hi int, t int64) (float64, bool, error) {
	fn.matrix[0].Floats = fn.points[lo:hi:hi]
	s, err := fn.call(t)
	if s == nil {
		return 0, false, err
	}
	return s.F, true, nil
}

// ofWindow calls the function of the engine for a window of a series that has histograms, of
// which it changes nothing. What it gives, nil for nothing, is valid until the next call, but
// for a histogram, that is the caller's. An error is a *pushdown.UnprovenError.
func (fn *function) ofWindow(ls labels.Labels, floats []promql.FPoint, histograms []promql.HPoint, t int64) (*promql.Sample, error) {
	fn.matrix[0] = promql.Series{Metric: ls, Floats: floats, Histograms: histograms}
	s, err := fn.call(t)
	fn.matrix[0].Histograms = nil
	return s, err
}

// call calls the function of the engine for what is in matrix.
func (fn *function) call(t int64) (*promql.Sample, error) {
	fn.helper.Ts = t
	out, warnings := fn.stock(fn.scalars, fn.matrix, fn.args, fn.helper)
	for _, w := range warnings {
		return nil, &pushdown.UnprovenError{Reason: w.Error()}
	}
	fn.helper.Out = out[:0]
	if len(out) == 0 {
		return nil, nil
	}
	return &out[0], nil
}

// special are functions that need neither allocate nor, some of them, look at each sample of
// each window. They compute what the engine's do, in the same order.
var special = map[string]func(fn *function, lo, hi int, t int64) (float64, bool, error){
	"rate":              (*function).extrapolated,
	"increase":          (*function).extrapolated,
	"delta":             (*function).extrapolated,
	"sum_over_time":     (*function).sum,
	"avg_over_time":     (*function).average,
	"min_over_time":     (*function).least,
	"max_over_time":     (*function).most,
	"count_over_time":   func(_ *function, lo, hi int, _ int64) (float64, bool, error) { return float64(hi - lo), true, nil },
	"last_over_time":    func(fn *function, _, hi int, _ int64) (float64, bool, error) { return fn.points[hi-1].F, true, nil },
	"first_over_time":   func(fn *function, lo, _ int, _ int64) (float64, bool, error) { return fn.points[lo].F, true, nil },
	"present_over_time": func(*function, int, int, int64) (float64, bool, error) { return 1, true, nil },
}

// extrapolated is promql's extrapolatedRate. Instead of comparing all samples of a window it
// looks at the resets among them.
func (fn *function) extrapolated(lo, hi int, t int64) (float64, bool, error) {
	first, last := fn.points[lo], fn.points[hi-1]
	if hi-lo < 2 {
		return 0, false, nil
	}
	result := last.F - first.F
	for fn.next < len(fn.resets) && fn.resets[fn.next] <= lo {
		fn.next++
	}
	for _, i := range fn.resets[fn.next:] {
		if i >= hi {
			break
		}
		result += fn.points[i-1].F
	}

	toStart := float64(first.T-(t-fn.rangeOffset)) / 1000
	toEnd := float64(t-fn.offset-last.T) / 1000
	sampled := float64(last.T-first.T) / 1000
	between := sampled / float64(hi-lo-1)
	threshold := between * 1.1
	if toStart >= threshold {
		toStart = between / 2
	}
	// A counter does not begin below zero.
	if fn.counter && result > 0 && first.F >= 0 {
		if toZero := sampled * (first.F / result); toZero < toStart {
			toStart = toZero
		}
	}
	if toEnd >= threshold {
		toEnd = between / 2
	}
	return result * ((sampled + toStart + toEnd) / sampled / fn.seconds), true, nil
}

func (fn *function) sum(lo, hi int, _ int64) (float64, bool, error) {
	var sum, c float64
	for _, p := range fn.points[lo:hi] {
		sum, c = kahansum.Inc(p.F, sum, c)
	}
	if math.IsInf(sum, 0) {
		return sum, true, nil
	}
	return sum + c, true, nil
}

func (fn *function) average(lo, hi int, t int64) (float64, bool, error) {
	sum, c := fn.points[lo].F, 0.
	for _, p := range fn.points[lo+1 : hi] {
		if sum, c = kahansum.Inc(p.F, sum, c); math.IsInf(sum, 0) {
			// The engine goes on in another way.
			return fn.engine(lo, hi, t)
		}
	}
	n := float64(hi - lo)
	return sum/n + c/n, true, nil
}

func (fn *function) least(lo, hi int, _ int64) (float64, bool, error) {
	least := fn.points[lo].F
	for _, p := range fn.points[lo+1 : hi] {
		if p.F < least || math.IsNaN(least) {
			least = p.F
		}
	}
	return least, true, nil
}

func (fn *function) most(lo, hi int, _ int64) (float64, bool, error) {
	most := fn.points[lo].F
	for _, p := range fn.points[lo+1 : hi] {
		if p.F > most || math.IsNaN(most) {
			most = p.F
		}
	}
	return most, true, nil
}
