// Package pushdown is what a query leaves to the owners of its series: which parts of it they
// can evaluate so that the whole comes out as if all series lay in one place, what they answer,
// and how their answers are put together. It is pure.
//
// The rules, and why the answers are equal, are in docs/query.md.
package pushdown

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/schema"
	"github.com/prometheus/prometheus/util/annotations"
)

// Fragment is a part of a query that can be evaluated series by series: an aggregation, a quantile
// of histograms, or nothing but the operand of these.
type Fragment struct {
	// Text is the query with blanks for all around the fragment, so that positions in it are
	// those in the query.
	Text string

	// Matchers select the series, Offset is how long before a step to look, in milliseconds.
	Matchers []*labels.Matcher
	Offset   int64
	// Range is that of the selector in milliseconds, and Call the function of it; 0 and nil
	// where the last sample before each step is what counts. Args are its other arguments, in
	// their order.
	Range int64
	Call  *parser.Call
	Args  []float64
	// Maps are applied in their order to what that gives at each step.
	Maps []Map
	// DropName says that the name of the metric, and with it its type and unit, is lost on
	// the way. Then the matchers let only one name through.
	DropName bool

	// Op aggregates over series, 0 if nothing does. It is one of SUM, AVG, COUNT, GROUP, MIN
	// and MAX. Grouping is sorted.
	Op       parser.ItemType
	Grouping []string
	Without  bool
	// Top is how many samples of each group, by Grouping and Without, at each step are of use
	// of those that no Op aggregates, 0 for all: the greatest, or with Bottom the smallest.
	Top    int
	Bottom bool
	// Quantile, if set, is a number from 0 to 1: that quantile is taken of each native histogram, and
	// of each classic one. All buckets of a classic histogram have the same owners, and Op and
	// Top are 0.
	Quantile *float64
	// Bare is set for a selector that nothing is made of, as far as its owners could do it: the reason
	// for that.
	Bare error
}

// Doubt is what the engine says of a fragment whose range function has found something: nil, or
// that the metric does not look like a counter.
func (f *Fragment) Doubt() error {
	if f.Call == nil || f.Call.Func.Name != "rate" && f.Call.Func.Name != "increase" {
		return nil
	}
	metric := name(f.Matchers)
	for _, suffix := range []string{"_total", "_sum", "_count", "_bucket"} {
		if strings.HasSuffix(metric, suffix) {
			return nil
		}
	}
	return annotations.NewPossibleNonCounterInfo(metric, f.Call.Args[0].PositionRange())
}

// Map makes another value of one, or none.
type Map struct {
	Float func(v float64) (mapped float64, ok bool)
	// Histogram leaves h as it is. It is nil where the engine does not make histograms of
	// histograms.
	Histogram func(h *histogram.FloatHistogram) *histogram.FloatHistogram
}

// gives tells whether evaluating it where the series are spares anything at any steps: what it reads
// of each series is more than what it answers.
func (f *Fragment) gives() bool {
	return f.Op != 0 || f.Top > 0 || f.Call != nil || f.Quantile != nil
}

// sparse is how far apart steps are, in milliseconds, for a value at each of them to be less than the samples
// between, some bytes each and four to a minute or so.
const sparse = 60_000

// Stored tells whether the series of a fragment are better read as they are stored, and evaluated by
// the engine: those of a bare selector, unless most of their samples lie between steps.
func (f *Fragment) Stored(g Grid) bool {
	return f.Bare != nil && g.Len() > 1 && g.Step < sparse
}

// aggregations are those whose parts can be put together: without a parameter, and exact.
var aggregations = []parser.ItemType{parser.SUM, parser.AVG, parser.COUNT, parser.GROUP, parser.MIN, parser.MAX}

// Of returns an expression as a fragment, but for its text, or an error that says what in it
// is none.
func Of(expr parser.Expr) (*Fragment, error) {
	f := &Fragment{}
	operand, err := f.readOuter(Unwrapped(expr))
	if err != nil {
		return nil, err
	}
	if err := f.read(operand); err != nil {
		return nil, err
	}
	f.DropName = f.DropName || f.Quantile != nil
	if f.DropName && name(f.Matchers) == "" {
		return nil, errors.New("series of several metrics may become the same without their names")
	}
	return f, nil
}

// Names returns the names of the labels that tell the groups of an aggregation apart: those that
// are kept or, with Without, those that are lost. They are sorted.
func (f *Fragment) Names() []string {
	names := slices.Clone(f.Grouping)
	switch {
	case f.Without:
		names = append(names, labels.MetricName)
	case f.DropName:
		names = slices.DeleteFunc(names, schema.IsMetadataLabel)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// LabelsRead returns the names of the labels of a series that its evaluation looks at, sorted, or
// nothing if those are all: an aggregation does so by their names, and by what the metric is.
func (f *Fragment) LabelsRead() []string {
	if f.Op == 0 || f.Without {
		return nil
	}
	names := append(f.Names(), model.MetricNameLabel, model.MetricTypeLabel, model.MetricUnitLabel)
	slices.Sort(names)
	return slices.Compact(names)
}

// Key returns what the series of a group, and no others, have in common, given the Names. It
// overwrites buf.
func (f *Fragment) Key(ls labels.Labels, names []string, buf []byte) []byte {
	switch {
	case f.Without:
		return ls.BytesWithoutLabels(buf, names...)
	case len(names) == 1:
		// A third of the time of the general way.
		return append(buf[:0], ls.Get(names[0])...)
	default:
		return ls.BytesWithLabels(buf, names...)
	}
}

// readOuter reads what looks at more than one series, and returns its operand.
func (f *Fragment) readOuter(expr parser.Expr) (operand parser.Expr, err error) {
	switch e := expr.(type) {
	case *parser.AggregateExpr:
		return e.Expr, f.readAggregation(e)
	case *parser.Call:
		if e.Func.Name != "histogram_quantile" {
			break
		}
		q, ok := constant(e.Args[0])
		if !ok || !(q >= 0 && q <= 1) {
			return nil, errors.New("the quantile is no number from 0 to 1")
		}
		f.Quantile = &q
		return e.Args[1], nil
	}
	return expr, nil
}

// maxTop is far more than anybody looks at.
const maxTop = 10_000

func (f *Fragment) readAggregation(agg *parser.AggregateExpr) error {
	switch agg.Op {
	case parser.TOPK, parser.BOTTOMK:
		k, ok := constant(agg.Param)
		if !ok || !(k >= 1 && k <= maxTop) {
			return fmt.Errorf("how many %s leaves is no number from 1 to %d", agg.Op, maxTop)
		}
		f.Top, f.Bottom = int(k), agg.Op == parser.BOTTOMK
	default:
		if !slices.Contains(aggregations, agg.Op) {
			return fmt.Errorf("%s cannot be put together from parts", agg.Op)
		}
		f.Op = agg.Op
	}
	f.Without, f.Grouping = agg.Without, slices.Sorted(slices.Values(agg.Grouping))
	return nil
}

// Unwrapped returns an expression without parentheses around it.
func Unwrapped(expr parser.Expr) parser.Expr {
	for {
		paren, ok := expr.(*parser.ParenExpr)
		if !ok {
			return expr
		}
		expr = paren.Expr
	}
}

// name returns the name of the metric that matchers select, or nothing if they let several
// through.
func name(ms []*labels.Matcher) string {
	for _, m := range ms {
		if m.Type == labels.MatchEqual && m.Name == labels.MetricName {
			return m.Value
		}
	}
	return ""
}

// read reads what is evaluated for each series.
func (f *Fragment) read(expr parser.Expr) error {
	switch e := Unwrapped(expr).(type) {
	case *parser.VectorSelector:
		return f.readSelector(e)
	case *parser.UnaryExpr:
		if err := f.read(e.Expr); err != nil {
			return err
		}
		if e.Op == parser.SUB {
			f.add(Map{
				Float:     func(v float64) (float64, bool) { return -v, true },
				Histogram: func(h *histogram.FloatHistogram) *histogram.FloatHistogram { return h.Copy().Mul(-1) },
			})
		}
		return nil
	case *parser.BinaryExpr:
		return f.readBinary(e)
	case *parser.Call:
		for _, arg := range e.Args {
			if m, ok := Unwrapped(arg).(*parser.MatrixSelector); ok {
				return f.readRange(e, m)
			}
		}
		return f.readFunction(e)
	default:
		return fmt.Errorf("%s is not evaluated series by series", kind(e))
	}
}

// kind names an expression for a user.
func kind(expr parser.Expr) string {
	switch e := expr.(type) {
	case *parser.AggregateExpr:
		return e.Op.String()
	case *parser.SubqueryExpr:
		return "a subquery"
	case *parser.StringLiteral:
		return "a string"
	case *parser.NumberLiteral:
		return "a number"
	default:
		return fmt.Sprintf("a %s", parser.DocumentedType(expr.Type()))
	}
}

func (f *Fragment) readSelector(s *parser.VectorSelector) error {
	switch {
	case s.Timestamp != nil || s.StartOrEnd != 0:
		return errors.New("@ makes one step of many")
	case s.Anchored || s.Smoothed:
		return errors.New("anchored and smoothed ranges reach beyond their ends")
	case s.OriginalOffsetExpr != nil:
		return errors.New("the offset is computed")
	}
	f.Matchers, f.Offset = s.LabelMatchers, s.OriginalOffset.Milliseconds()
	return nil
}

// ranges are the functions of a range that look at one series, and at nothing but its samples,
// with what tells whether their other arguments are in order.
var ranges = map[string]func(args []float64) bool{
	"avg_over_time": nil, "changes": nil, "count_over_time": nil, "delta": nil, "deriv": nil,
	"first_over_time": nil, "idelta": nil, "increase": nil, "irate": nil, "last_over_time": nil,
	"mad_over_time": nil, "max_over_time": nil, "min_over_time": nil, "present_over_time": nil,
	"rate": nil, "resets": nil, "stddev_over_time": nil, "stdvar_over_time": nil, "sum_over_time": nil,
	"predict_linear": nil,
	// Others are warned of.
	"quantile_over_time": func(args []float64) bool { return args[0] >= 0 && args[0] <= 1 },
}

func (f *Fragment) readRange(c *parser.Call, m *parser.MatrixSelector) error {
	proper, known := ranges[c.Func.Name]
	if !known {
		return fmt.Errorf("%s is not evaluated series by series", c.Func.Name)
	}
	if m.RangeExpr != nil {
		return errors.New("the range is computed")
	}
	var others []float64
	for _, arg := range c.Args {
		if Unwrapped(arg) == parser.Expr(m) {
			continue
		}
		v, ok := constant(arg)
		if !ok {
			return fmt.Errorf("an argument of %s is no number", c.Func.Name)
		}
		others = append(others, v)
	}
	if proper != nil && !proper(others) {
		return fmt.Errorf("an argument of %s is out of range", c.Func.Name)
	}
	f.Call, f.Args, f.Range = c, others, m.Range.Milliseconds()
	f.DropName = c.Func.Name != "last_over_time" && c.Func.Name != "first_over_time"
	return f.readSelector(m.VectorSelector.(*parser.VectorSelector))
}

// functions are those of a value, with the numbers that are its other arguments.
var functions = map[string]func(args []float64) Map{
	"abs": plain(math.Abs), "ceil": plain(math.Ceil), "exp": plain(math.Exp), "floor": plain(math.Floor),
	"ln": plain(math.Log), "log10": plain(math.Log10), "log2": plain(math.Log2), "sqrt": plain(math.Sqrt),
	"clamp":     func(args []float64) Map { return clamp(args[0], args[1]) },
	"clamp_max": func(args []float64) Map { return clamp(math.Inf(-1), args[0]) },
	"clamp_min": func(args []float64) Map { return clamp(args[0], math.Inf(1)) },
	"round": func(args []float64) Map {
		inverse := 1.0
		if len(args) > 0 {
			inverse = 1 / args[0]
		}
		return Map{Float: func(v float64) (float64, bool) { return math.Floor(v*inverse+0.5) / inverse, true }}
	},
}

func plain(f func(float64) float64) func([]float64) Map {
	return func([]float64) Map { return Map{Float: func(v float64) (float64, bool) { return f(v), true }} }
}

func clamp(least, most float64) Map {
	return Map{Float: func(v float64) (float64, bool) { return math.Max(least, math.Min(most, v)), !(most < least) }}
}

func (f *Fragment) readFunction(c *parser.Call) error {
	function, known := functions[c.Func.Name]
	if !known || len(c.Args) == 0 {
		return fmt.Errorf("%s is not evaluated series by series", c.Func.Name)
	}
	var others []float64
	for _, arg := range c.Args[1:] {
		v, ok := constant(arg)
		if !ok {
			return fmt.Errorf("an argument of %s is no number", c.Func.Name)
		}
		others = append(others, v)
	}
	if err := f.read(c.Args[0]); err != nil {
		return err
	}
	f.add(function(others))
	return nil
}

func (f *Fragment) readBinary(b *parser.BinaryExpr) error {
	of := b.LHS
	c, right := constant(b.RHS)
	if !right {
		var left bool
		if c, left = constant(b.LHS); !left {
			return fmt.Errorf("no side of %s is a number", b.Op)
		}
		of = b.RHS
	}
	operation := operations[b.Op]
	if operation == nil {
		return fmt.Errorf("%s is not evaluated series by series", b.Op)
	}
	if err := f.read(of); err != nil {
		return err
	}
	compute := func(v float64) float64 { return operation(v, c) }
	if !right {
		compute = func(v float64) float64 { return operation(c, v) }
	}
	switch {
	case !b.Op.IsComparisonOperator() || b.ReturnBool:
		f.add(Map{
			Float:     func(v float64) (float64, bool) { return compute(v), true },
			Histogram: scale(b.Op, c, right),
		})
	default:
		f.Maps = append(f.Maps, Map{Float: func(v float64) (float64, bool) { return v, compute(v) != 0 }})
	}
	return nil
}

// scale returns what an operation with a number, on its right or left, makes of histograms, or
// nil.
func scale(op parser.ItemType, c float64, right bool) func(h *histogram.FloatHistogram) *histogram.FloatHistogram {
	switch {
	case op == parser.MUL:
		return func(h *histogram.FloatHistogram) *histogram.FloatHistogram { return h.Copy().Mul(c).Compact(0) }
	case op == parser.DIV && right:
		return func(h *histogram.FloatHistogram) *histogram.FloatHistogram { return h.Copy().Div(c).Compact(0) }
	default:
		return nil
	}
}

// add adds a map that leaves no name.
func (f *Fragment) add(m Map) {
	f.Maps = append(f.Maps, m)
	f.DropName = true
}

// operations are those of two numbers; comparisons give 0 or 1.
var operations = map[parser.ItemType]func(a, b float64) float64{
	parser.ADD:   func(a, b float64) float64 { return a + b },
	parser.SUB:   func(a, b float64) float64 { return a - b },
	parser.MUL:   func(a, b float64) float64 { return a * b },
	parser.DIV:   func(a, b float64) float64 { return a / b },
	parser.POW:   math.Pow,
	parser.MOD:   math.Mod,
	parser.ATAN2: math.Atan2,
	parser.EQLC:  func(a, b float64) float64 { return number(a == b) },
	parser.NEQ:   func(a, b float64) float64 { return number(a != b) },
	parser.GTR:   func(a, b float64) float64 { return number(a > b) },
	parser.LSS:   func(a, b float64) float64 { return number(a < b) },
	parser.GTE:   func(a, b float64) float64 { return number(a >= b) },
	parser.LTE:   func(a, b float64) float64 { return number(a <= b) },
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// constant returns the value of an expression that is the same at every step and needs no
// series.
func constant(expr parser.Expr) (float64, bool) {
	switch e := Unwrapped(expr).(type) {
	case *parser.NumberLiteral:
		return e.Val, true
	case *parser.UnaryExpr:
		v, ok := constant(e.Expr)
		if e.Op == parser.SUB {
			v = -v
		}
		return v, ok
	case *parser.BinaryExpr:
		a, okA := constant(e.LHS)
		b, okB := constant(e.RHS)
		operation := operations[e.Op]
		if !okA || !okB || operation == nil {
			return 0, false
		}
		return operation(a, b), true
	default:
		return 0, false
	}
}
