package pushdown

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

func of(t *testing.T, text string) (*Fragment, error) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{
		EnableExperimentalFunctions: true, ExperimentalDurationExpr: true, EnableExtendedRangeSelectors: true,
	}).ParseExpr(text)
	if err != nil {
		t.Fatal(text, err)
	}
	return Of(expr)
}

// shape is what a fragment consists of, as text.
func shape(f *Fragment) string {
	var b strings.Builder
	if f.Op != 0 {
		fmt.Fprintf(&b, "%s%v without=%v ", f.Op, f.Grouping, f.Without)
	}
	if f.Top != 0 {
		fmt.Fprintf(&b, "top %d%v without=%v bottom=%v ", f.Top, f.Grouping, f.Without, f.Bottom)
	}
	if f.Quantile != nil {
		fmt.Fprintf(&b, "quantile %v ", *f.Quantile)
	}
	if f.Call != nil {
		fmt.Fprintf(&b, "%s%v[%d] ", f.Call.Func.Name, f.Args, f.Range)
	}
	fmt.Fprintf(&b, "matchers=%d offset=%d maps=%d drop=%v", len(f.Matchers), f.Offset, len(f.Maps), f.DropName)
	return b.String()
}

func TestOf(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"m", "matchers=1 offset=0 maps=0 drop=false"},
		{"(m{a='1'} offset 1m)", "matchers=2 offset=60000 maps=0 drop=false"},
		{"{a='1'} offset -1s", "matchers=1 offset=-1000 maps=0 drop=false"},
		{"rate(m[5m])", "rate[][300000] matchers=1 offset=0 maps=0 drop=true"},
		{"(rate((m[5m] offset 1s)))", "rate[][300000] matchers=1 offset=1000 maps=0 drop=true"},
		{"last_over_time({a='1'}[1m])", "last_over_time[][60000] matchers=1 offset=0 maps=0 drop=false"},
		{"predict_linear(m[1m], -60 * (1 + 1))", "predict_linear[-120][60000] matchers=1 offset=0 maps=0 drop=true"},
		{"quantile_over_time(0.5, m[1m])", "quantile_over_time[0.5][60000] matchers=1 offset=0 maps=0 drop=true"},
		{"-m", "matchers=1 offset=0 maps=1 drop=true"},
		{"+{a='1'}", "matchers=1 offset=0 maps=0 drop=false"},
		{"m * 2", "matchers=1 offset=0 maps=1 drop=true"},
		{"1 - m", "matchers=1 offset=0 maps=1 drop=true"},
		{"{a='1'} > 2", "matchers=1 offset=0 maps=1 drop=false"},
		{"m > bool 2", "matchers=1 offset=0 maps=1 drop=true"},
		{"round(clamp(rate(m[1m]), 0, 10) * 100)", "rate[][60000] matchers=1 offset=0 maps=3 drop=true"},
		{"sum(m)", "sum[] without=false matchers=1 offset=0 maps=0 drop=false"},
		{"max by (b, a) ({a='1'})", "max[a b] without=false matchers=1 offset=0 maps=0 drop=false"},
		{"topk by (b, a) (2.5, m)", "top 2[a b] without=false bottom=false matchers=1 offset=0 maps=0 drop=false"},
		{"bottomk without (a) (1, rate(m[1m]))", "top 1[a] without=true bottom=true rate[][60000] matchers=1 offset=0 maps=0 drop=true"},
		{"histogram_quantile(0.5 + 0.25, m)", "quantile 0.75 matchers=1 offset=0 maps=0 drop=true"},
		{"(histogram_quantile(0.9, (rate(m[1m]) * 2)))", "quantile 0.9 rate[][60000] matchers=1 offset=0 maps=1 drop=true"},
		{"avg without (b, a) ((rate(m[1m]) > 0))", "avg[a b] without=true rate[][60000] matchers=1 offset=0 maps=1 drop=true"},
	} {
		f, err := of(t, c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := shape(f); got != c.want {
			t.Errorf("%s: have %s, want %s", c.text, got, c.want)
		}
	}
}

// TestLabelsRead: what a metric is is looked at even if it is lost, as series that differ in it alone
// are not added up.
func TestLabelsRead(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"sum(rate(m[5m]))", "__name__ __type__ __unit__"},
		{"avg by (zone, job) (m)", "__name__ __type__ __unit__ job zone"},
		{"max by (__name__, __unit__) (m)", "__name__ __type__ __unit__"},
		{"sum without (job) (m)", ""},
		{"rate(m[5m])", ""},
		{"topk by (job) (2, m)", ""},
		{"histogram_quantile(0.9, m)", ""},
	} {
		f, err := of(t, c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.LabelsRead(); strings.Join(got, " ") != c.want || (got == nil) != (c.want == "") {
			t.Errorf("%s: have %q, want %q", c.text, got, c.want)
		}
	}
}

func TestOfRefuses(t *testing.T) {
	for _, c := range []struct{ text, reason string }{
		{"1", "a number"},
		{"'a'", "a string"},
		{"m + m", "no side of + is a number"},
		{"m[5m]", "a range vector"},
		{"topk(scalar(m), m)", "how many topk leaves is no number"},
		{"topk(0, m)", "how many topk leaves is no number"},
		{"bottomk(NaN, m)", "how many bottomk leaves is no number"},
		{"limitk(3, m)", "limitk cannot be put together"},
		{"topk(3, sum(m))", "sum is not evaluated series by series"},
		{"quantile(0.5, m)", "quantile cannot"},
		{"count_values('v', m)", "count_values cannot"},
		{"stddev(m)", "stddev cannot"},
		{"sum(sum(m))", "sum is not evaluated series by series"},
		{"-sum(m)", "sum is not"},
		{"sum(absent(m))", "absent is not"},
		{"absent_over_time(m[5m])", "absent_over_time is not"},
		{"histogram_quantile(1.1, m)", "the quantile is no number from 0 to 1"},
		{"histogram_quantile(NaN, m)", "the quantile is no number from 0 to 1"},
		{"histogram_quantile(scalar(m), m)", "the quantile is no number from 0 to 1"},
		{"histogram_quantile(0.9, sum by (le) (m))", "sum is not evaluated series by series"},
		{"histogram_quantile(0.9, {a='1'})", "several metrics"},
		{"sum(histogram_quantile(0.9, m))", "histogram_quantile is not"},
		{"histogram_quantile(0.9, m) * 2", "histogram_quantile is not"},
		{"timestamp(m)", "timestamp is not"},
		{"sort(m)", "sort is not"},
		{"time()", "time is not"},
		{"vector(1)", "vector is not"},
		{"label_replace(m, 'a', 'b', 'c', 'd')", "label_replace is not"},
		{"clamp(m, 0, scalar(m))", "an argument of clamp is no number"},
		{"predict_linear(m[5m], time())", "an argument of predict_linear is no number"},
		{"quantile_over_time(1.1, m[5m])", "out of range"},
		{"quantile_over_time(NaN, m[5m])", "out of range"},
		{"rate(m[5m:1m])", "rate is not"},
		{"m @ 5", "@ makes one step"},
		{"rate(m[5m] @ end())", "@ makes one step"},
		{"rate(m[step() * 5])", "the range is computed"},
		{"m offset (step() * 5)", "the offset is computed"},
		{"rate(m[5m] anchored)", "anchored"},
		{"rate(m[5m] smoothed)", "smoothed"},
		{"rate({a='1'}[5m])", "several metrics"},
		{"sum(rate({__name__=~'a|b'}[5m]))", "several metrics"},
		{"sum(-{__name__!='a', a='1'})", "several metrics"},
	} {
		if f, err := of(t, c.text); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: have %v, %v, want an error with %q", c.text, f, err, c.reason)
		}
	}
}

func TestSpan(t *testing.T) {
	g := Grid{Start: 1_000_000, End: 2_000_000, Step: 1000, Lookback: 300_000}
	for text, want := range map[string][2]int64{
		"m":                      {700_001, 2_000_000},
		"m offset 1m":            {640_001, 1_940_000},
		"rate(m[1m])":            {940_001, 2_000_000},
		"rate(m[1m] offset -1m)": {1_000_001, 2_060_000},
	} {
		f, err := of(t, text)
		if err != nil {
			t.Fatal(text, err)
		}
		if mint, maxt := f.Span(g); mint != want[0] || maxt != want[1] {
			t.Errorf("%s: have %d to %d, want %v", text, mint, maxt, want)
		}
	}
	if n := g.Len(); n != 1001 {
		t.Errorf("have %d steps", n)
	}
	if n := (Grid{Start: 5, End: 5, Step: 1}).Len(); n != 1 {
		t.Errorf("an instant has %d steps", n)
	}
}

// TestLooks compares with a search for a step that looks at one of the times.
func TestLooks(t *testing.T) {
	gaps := 0
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := Grid{Start: r.Int64N(200) - 100, Step: 1 + r.Int64N(40), Lookback: 1 + r.Int64N(20)}
		g.End = g.Start + r.Int64N(10*g.Step)
		f := &Fragment{Offset: r.Int64N(100) - 50}
		back := g.Lookback
		if r.IntN(2) == 0 {
			f.Call, f.Range = &parser.Call{}, 1+r.Int64N(20)
			back = f.Range
		}
		looks := f.Looks(g)
		if looks == nil {
			if g.Step > back {
				t.Fatalf("seed %d: between steps of %d ms nothing of %d ms is left out", seed, g.Step, back)
			}
			continue
		}
		oldest, newest := f.Span(g)
		mint := oldest + r.Int64N(newest-oldest+1)
		maxt := mint + r.Int64N(newest-mint+1)
		want := false
		for k := range int64(g.Len()) {
			at := g.Start + k*g.Step - f.Offset
			want = want || max(mint, at-back+1) <= min(maxt, at)
		}
		if got := looks(mint, maxt); got != want {
			t.Fatalf("seed %d: %+v, %d ms back, offset %d: looks at %d to %d: %t, want %t", seed, g, back, f.Offset, mint, maxt, got, want)
		}
		if !want {
			gaps++
		}
	}
	if gaps < 1000 {
		t.Errorf("%d times lay between steps", gaps)
	}
}

func TestRest(t *testing.T) {
	for text, want := range map[string]string{
		"sum(m) / on() count(n)": "answer(0) / on () answer(1)",
		"topk(3, rate(m[5m]))":   "topk(3, answer(0))",
		"m":                      "m",
		"m offset 5m + sum(n)":   "m offset 5m + answer(0)",
		`label_replace(sum(m), "a", "{", "b", "\xff")`:           `label_replace(answer(0), "a", "{", "b", "\xff")`,
		`label_replace(sum(m), "a", "{\"\xff\"=\"0\"}", "", "")`: `label_replace(answer(0), "a", "{\"\xff\"=\"0\"}", "", "")`,
	} {
		plan, err := Parser{parser.NewParser(parser.Options{})}.Plan(text)
		if err != nil {
			t.Fatal(text, err)
		}
		if got := plan.Rest(); got != want {
			t.Errorf("%s: have %s, want %s", text, got, want)
		}
	}
}
