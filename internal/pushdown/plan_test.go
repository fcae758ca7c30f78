package pushdown

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

var testParser = Parser{Parser: parser.NewParser(parser.Options{ExperimentalDurationExpr: true, EnableExperimentalFunctions: true})}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		query     string
		rest      string // with ANSWERn for the answers
		fragments []string
		whole     []string // selectors, and what the reasons begin with
	}{
		{query: `x`, rest: `ANSWER0`, fragments: []string{`x`}, whole: []string{"x: samples travel"}},
		{query: `x offset 5m`, rest: `ANSWER0 offset 5m`, fragments: []string{`x offset 5m`}, whole: []string{"x offset 5m: samples travel"}},
		{query: `quantile(0.9, x)`, rest: `quantile(0.9, ANSWER0)`, fragments: []string{`x`}, whole: []string{"x: quantile cannot"}},
		{query: `x > 3`, rest: `ANSWER0 > 3`, fragments: []string{`x`}, whole: []string{"x: samples travel"}},
		{query: `sum by (job) (rate(x[5m]))`, rest: `ANSWER0`, fragments: []string{`sum by (job) (rate(x[5m]))`}},
		{query: `topk(5, sum(x) by (pod))`, rest: `topk(5, ANSWER0)`, fragments: []string{`sum(x) by (pod)`}},
		{query: `topk(5, rate(x[5m]))`, rest: `topk(5, ANSWER0)`, fragments: []string{`topk(5, rate(x[5m]))`}},
		{query: `(bottomk(2, x)) + 1`, rest: `(bottomk(2, ANSWER0)) + 1`, fragments: []string{`bottomk(2, x)`}},
		{query: `sum(rate(a[1m])) / sum without (x) (b) * 3`, rest: `ANSWER0 / ANSWER1 * 3`, fragments: []string{`sum(rate(a[1m]))`, `sum without (x) (b)`}},
		{query: `histogram_quantile(0.9, sum(rate(x_bucket[5m])) by (le))`, rest: `histogram_quantile(0.9, ANSWER0)`, fragments: []string{`sum(rate(x_bucket[5m])) by (le)`}},
		{query: `quantile(0.9, rate(x[5m]))`, rest: `quantile(0.9, ANSWER0)`, fragments: []string{`rate(x[5m])`}},
		{query: `quantile_over_time(0.9, x[5m]) > 3 and y`, rest: `ANSWER0 and ANSWER1`, fragments: []string{`quantile_over_time(0.9, x[5m]) > 3`, `y`}, whole: []string{"y: no side of and"}},
		{query: `sum(x) + y`, rest: `ANSWER0 + ANSWER1`, fragments: []string{`sum(x)`, `y`}, whole: []string{"y: no side of +"}},
		{query: `-rate(x[5m])`, rest: `ANSWER0`, fragments: []string{`-rate(x[5m])`}},
		{query: `absent(sum(x))`, rest: `absent(sum(x))`, whole: []string{"x: the function looks"}},
		{query: `timestamp(x)`, rest: `timestamp(x)`, whole: []string{"x: the function looks"}},
		{query: `histogram_count(sum(rate(x[5m])))`, rest: `histogram_count(sum(rate(x[5m])))`, whole: []string{"x: the function looks"}},
		{query: `max_over_time(sum(x)[1h:1m])`, rest: `max_over_time(sum(x)[1h:1m])`, whole: []string{"x: a subquery"}},
		{query: `sum(x @ 3)`, rest: `sum(x @ 3.000)`, whole: []string{"x @ 3.000: @ makes"}},
		{query: `sum({job="a"} * 2)`, rest: `sum(ANSWER0 * 2)`, fragments: []string{`{job="a"}`}, whole: []string{`{job="a"}: series of several`}},
		{query: `sum(max(x))`, rest: `sum(ANSWER0)`, fragments: []string{`max(x)`}},
		{query: `topk(scalar(sum(x)), y)`, rest: `topk(scalar(ANSWER1), ANSWER0)`, fragments: []string{`y`, `sum(x)`}, whole: []string{"y: how many topk"}},
		{query: "sum\n(\n{'ä'})/ \nmax(y*-2^2)", rest: "ANSWER0 / ANSWER1", fragments: []string{"sum\n(\n{'ä'})", "max(y*-2^2)"}},
		{query: `((sum(x))) / (max(y))`, rest: `((ANSWER0)) / (ANSWER1)`, fragments: []string{`sum(x)`, `max(y)`}},
		{query: `vector(1) + time()`, rest: `vector(1) + time()`},
	} {
		plan, err := testParser.Plan(c.query)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		rest := plan.Expr.String()
		for i, digit := range []string{"0", "1"} {
			rest = strings.ReplaceAll(rest, `{"\xff"="`+digit+`"}`, "ANSWER"+digit)
			if i < len(plan.Fragments) && len(plan.Fragments[i].Text) != len(c.query) {
				t.Errorf("%s: the text of a fragment is %q", c.query, plan.Fragments[i].Text)
			}
		}
		var fragments []string
		for _, f := range plan.Fragments {
			fragments = append(fragments, f.Trimmed())
			again, err := testParser.Read(f.Text)
			if err != nil || shape(again) != shape(f) {
				t.Errorf("%s: a peer reads %q as %v, %v", c.query, f.Text, again, err)
			}
		}
		stored := plan.Whole(nil)
		whole := slices.EqualFunc(stored, c.whole, func(w Whole, want string) bool {
			return strings.HasPrefix(w.Selector+": "+w.Reason, want)
		})
		if rest != c.rest || !slices.Equal(fragments, c.fragments) || !whole {
			t.Errorf("%s: rest %s, fragments %q, whole %q", c.query, rest, fragments, stored)
		}
	}
}

// What is read as stored depends on how many samples lie between steps.
func TestWholeAtSteps(t *testing.T) {
	plan, err := testParser.Plan(`sum(a) + b + absent(c)`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		grid Grid
		want []string
	}{
		{Grid{Start: 0, End: 0, Step: 1}, []string{"c"}},
		{Grid{Start: 0, End: 600_000, Step: 60_000}, []string{"c"}},
		{Grid{Start: 0, End: 600_000, Step: 59_999}, []string{"b", "c"}},
		{Grid{Start: 0, End: 600_000, Step: 1}, []string{"b", "c"}},
	} {
		var got []string
		for _, w := range plan.Whole(&c.grid) {
			got = append(got, w.Selector)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("at %+v: %q, want %q", c.grid, got, c.want)
		}
	}
}

// No query can name the answer of a fragment.
func TestAnswersAreNotSelected(t *testing.T) {
	for _, query := range []string{"{\"\xff\"=\"0\"}", `{"\xff"="0"}`, `sum({"\xff"="0"})`, `rate(x{"\xff"=~"0"}[5m])`} {
		if plan, err := testParser.Plan(query); err == nil {
			t.Errorf("%q is planned as %s", query, plan.Expr)
		}
	}
	if _, answer := Answer([]*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "x", "0")}); answer {
		t.Error("any label names an answer")
	}
}
