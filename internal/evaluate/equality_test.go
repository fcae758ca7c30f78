package evaluate

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// operandText returns a random text of what is evaluated series by series.
func operandText(r *rand.Rand, depth int) string {
	if depth == 0 {
		return leafText(r)
	}
	x := operandText(r, depth-1)
	c := pick(r, []string{"2", "-3", "0", "0.5", "7", "(1 + 2)", "NaN", "Inf"})
	switch r.IntN(8) {
	case 0:
		return "-(" + x + ")"
	case 1:
		return "+(" + x + ")"
	case 2:
		return fmt.Sprintf("(%s) %s %s", x, pick(r, []string{"+", "-", "*", "/", "^", "%", "atan2"}), c)
	case 3:
		return fmt.Sprintf("%s %s (%s)", c, pick(r, []string{"+", "-", "*", "/", "^", "%", "atan2"}), x)
	case 4:
		return fmt.Sprintf("(%s) %s %s %s", x, pick(r, []string{"==", "!=", ">", "<", ">=", "<="}), pick(r, []string{"", "bool"}), c)
	case 5:
		return fmt.Sprintf("%s %s %s (%s)", c, pick(r, []string{"==", "!=", ">", "<", ">=", "<="}), pick(r, []string{"", "bool"}), x)
	case 6:
		return fmt.Sprintf("%s(%s)", pick(r, []string{"abs", "ceil", "exp", "floor", "ln", "log10", "log2", "sqrt", "round"}), x)
	default:
		return fmt.Sprintf(pick(r, []string{"clamp(%s, -10, 50)", "clamp(%s, 5, 1)", "clamp_min(%s, 3)", "clamp_max(%s, 3)", "round(%s, 0.3)"}), x)
	}
}

// leafText returns a random selector, or function of a range.
func leafText(r *rand.Rand) string {
	selector := pick(r, []string{"m_total", "g", `m_total{job="1"}`, `g{job!="2"}`, `{job=~".+"}`})
	offset := pick(r, []string{"", "", " offset 1m", " offset 7s", " offset -2m"})
	if r.IntN(3) == 0 {
		return selector + offset
	}
	matrix := selector + pick(r, []string{"[15s]", "[1m]", "[5m]", "[20m]", "[31s]"}) + offset
	name := pick(r, []string{
		"avg_over_time", "changes", "count_over_time", "delta", "deriv", "first_over_time", "idelta", "increase",
		"irate", "last_over_time", "mad_over_time", "max_over_time", "min_over_time", "present_over_time", "rate",
		"resets", "stddev_over_time", "stdvar_over_time", "sum_over_time", "rate", "increase",
		"predict_linear", "quantile_over_time",
	})
	switch name {
	case "predict_linear":
		return fmt.Sprintf("predict_linear(%s, 60 * 2)", matrix)
	case "quantile_over_time":
		return fmt.Sprintf("quantile_over_time((0.9), (%s))", matrix)
	default:
		return fmt.Sprintf("%s(%s)", name, matrix)
	}
}

// aggregationText returns a random head of an aggregation, or nothing.
func aggregationText(r *rand.Rand) string {
	op := pick(r, []string{"", "", "sum", "sum", "avg", "count", "group", "min", "max"})
	if op == "" {
		return ""
	}
	grouping := pick(r, []string{"", "job", "zone, job", "instance", "__name__", "job, job", "absent", "__name__, zone", "instance, zone"})
	return op + pick(r, []string{"", " by (" + grouping + ")", " without (" + grouping + ")"})
}

func randomGrid(r *rand.Rand) pushdown.Grid {
	g := pushdown.Grid{
		Start:    first + (r.Int64N(420)-20)*interval,
		Step:     pick(r, []int64{1000, 7_000, interval, 60_000, 400_000, 1_800_000}),
		Lookback: pick(r, []int64{60_000, 300_000}),
	}
	if r.IntN(3) == 0 {
		g.Start += r.Int64N(interval)
	}
	g.End = g.Start + r.Int64N(40)*g.Step
	return g
}

// trial is an evaluation that is compared with the engine's.
type trial struct {
	aggregation, operand string
	options              Options
	owners               uint64
}

func (tr trial) text() string {
	if tr.aggregation == "" {
		return tr.operand
	}
	return tr.aggregation + " (" + tr.operand + ")"
}

func (tr trial) String() string {
	return fmt.Sprintf("%s %+v, %d owners, %d workers", tr.text(), tr.options.Grid, tr.owners, tr.options.Workers)
}

func TestSeriesGivesWhatTheEngineGives(t *testing.T) {
	databases, trials := 30, 120
	if testing.Short() {
		databases = 4
	}
	evaluated := 0
	for seed := range databases {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		db := openDB(t)
		fill(t, r, db)
		for range trials {
			tr := trial{aggregation: aggregationText(r), operand: operandText(r, r.IntN(4)), owners: uint64(1 + r.IntN(3))}
			f, err := fragment(tr.text())
			if err != nil {
				if !strings.Contains(err.Error(), "several metrics") {
					t.Fatal(err)
				}
				continue
			}
			tr.options = Options{Fragment: f, Grid: randomGrid(r), MaxSamples: 1e9, Workers: 1 + r.IntN(2)}
			tr.compare(t, db)
			evaluated++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if evaluated < databases*trials/2 {
		t.Errorf("only %d texts were fragments", evaluated)
	}
}

// compare evaluates as the owners do, puts together what they answer, and compares it with what
// the engine answers.
func (tr trial) compare(t *testing.T, db *tsdb.DB) {
	t.Helper()
	o := tr.options
	parts := make([]*pushdown.Partial, tr.owners)
	for i := range parts {
		var err error
		if parts[i], err = Series(context.Background(), splitOf(selected(t, db, o), uint64(i), tr.owners, o.Fragment), o); err != nil {
			t.Errorf("%v: %v", tr, err)
			return
		}
	}
	whole, err := o.Fragment.Merge(o.Grid, parts, always)
	if err != nil {
		t.Errorf("%v: %v", tr, err)
		return
	}
	want, samples := ask(t, db, tr.text(), o.Grid)
	if whole.Samples != samples {
		t.Errorf("%v: looked at %d samples, want %d", tr, whole.Samples, samples)
	}
	scale := tr.scales(t, db)
	seen := 0
	for _, v := range whole.Values {
		name := v.Labels.String()
		found := false
		for step := range o.Grid.Len() {
			at := o.Grid.Start + int64(step)*o.Grid.Step
			got, _, ok := v.At(o.Fragment.Op, step)
			w, wanted := want[name][at]
			if ok != wanted {
				t.Errorf("%v: %s at %d: have %v %v, want %v %v", tr, name, at, got, ok, w, wanted)
				return
			}
			found = found || ok
			if ok && !tr.equal(got, w, scale(name, at)) {
				t.Errorf("%v: %s at %d: have %v, want %v", tr, name, at, got, w)
				return
			}
		}
		// Nothing is answered that has no value at any step.
		if found {
			seen++
		}
	}
	if seen != len(want) || seen != len(whole.Values) {
		t.Errorf("%v: have %d label sets, of those %d with values, want %d", tr, len(whole.Values), seen, len(want))
	}
	tr.checkFound(t, whole, want)
}

// scales returns what the absolute values of a group add up to at most.
func (tr trial) scales(t *testing.T, db *tsdb.DB) func(name string, at int64) float64 {
	t.Helper()
	if op := tr.options.Fragment.Op; op != parser.SUM && op != parser.AVG {
		return func(string, int64) float64 { return 0 }
	}
	least, _ := ask(t, db, "min"+tr.aggregation[3:]+" ("+tr.operand+")", tr.options.Grid)
	most, _ := ask(t, db, "max"+tr.aggregation[3:]+" ("+tr.operand+")", tr.options.Grid)
	return func(name string, at int64) float64 {
		return 24 * max(math.Abs(least[name][at]), math.Abs(most[name][at]))
	}
}

// checkFound checks what can be known of it from the answer.
func (tr trial) checkFound(t *testing.T, whole *pushdown.Partial, want map[string]map[int64]float64) {
	t.Helper()
	f := tr.options.Fragment
	if whole.Found && f.Call == nil {
		t.Errorf("%v: found values of a function that there is not", tr)
	}
	if f.Call != nil && (len(want) > 0 && !whole.Found || len(f.Maps) == 0 && whole.Found != (len(want) > 0)) {
		t.Errorf("%v: Found is %v with %d label sets", tr, whole.Found, len(want))
	}
}

// equal tells whether a value is the one of the engine: rounding may only differ where sums are
// put together, and is then small beside the sum of the absolute values. The engine itself adds
// up what operators and functions give in a random order.
func (tr trial) equal(got, want, scale float64) bool {
	if math.IsNaN(want) {
		return math.IsNaN(got)
	}
	switch op := tr.options.Fragment.Op; {
	case (op == parser.SUM || op == parser.AVG) && (tr.owners > 1 || len(tr.options.Fragment.Maps) > 0):
		return got == want || !math.IsInf(want, 0) && math.Abs(got-want) <= 1e-12*math.Abs(want)+1e-15*scale
	case op == parser.MIN || op == parser.MAX:
		// Which of two zeros is the least depends on which comes first, with the engine too.
		return got == want
	default:
		return math.Float64bits(got) == math.Float64bits(want)
	}
}
