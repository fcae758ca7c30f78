package node

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/starling-tsdb/starling/internal/watch"
)

// docs is relative to this package.
const docs = "../../docs"

// targetLabels are put on by the Prometheus that scrapes. A label cluster is up to whoever
// configures it.
var targetLabels = []string{"cluster", "job", "instance"}

// faulty are values of labels that are not seen unless the program has a fault.
var faulty = map[string]labelSet{"code": {"500": true, "aborted": true}}

// asked holds queries against what nodes show.
type asked struct {
	*exposed
	// recorded are the labels of the metrics that rules make.
	recorded map[string]labelSet
	query    watch.Query
	mistakes []string
}

type labelSet map[string]bool

func setOf(names ...string) labelSet {
	s := labelSet{}
	for _, n := range names {
		s[n] = true
	}
	return s
}

// compareWatched wants all that rules and dashboards ask for to be there: metrics, the labels
// that they match and group by, and the values that they match. Values have to be seen, so
// that what they stand for happens in watchFlock.
func compareWatched(t *testing.T, e *exposed) {
	rules, err := watch.Rules(docs)
	if err != nil {
		t.Fatal(err)
	}
	a := &asked{exposed: e, recorded: map[string]labelSet{}}
	for _, q := range append(rules, watch.Dashboards()...) {
		a.compare(q)
	}
	for _, m := range a.mistakes {
		t.Error(m)
	}
}

// compare notes what is wrong with a query.
func (a *asked) compare(q watch.Query) {
	a.query = q
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(q.Expr)
	if err != nil {
		a.mistake("cannot be parsed: %v", err)
		return
	}
	got := a.labelsOf(expr)
	if q.Record != "" {
		a.recorded[q.Record] = got
	}
}

func (a *asked) mistake(format string, args ...any) {
	a.mistakes = append(a.mistakes, a.query.Name+" "+fmt.Sprintf(format, args...))
}

// labelsOf returns the labels that what an expression gives can have, and says what it names and
// is not there.
func (a *asked) labelsOf(expr parser.Expr) labelSet {
	switch e := expr.(type) {
	case *parser.VectorSelector:
		return a.selected(e)
	case *parser.AggregateExpr:
		return a.aggregated(e)
	case *parser.BinaryExpr:
		left, right := a.labelsOf(e.LHS), a.labelsOf(e.RHS)
		if m := e.VectorMatching; m != nil && m.On {
			a.want(left, m.MatchingLabels, "matches on")
			a.want(right, m.MatchingLabels, "matches on")
		}
		if e.VectorMatching == nil { // one of them is a number
			maps.Copy(left, right)
			return left
		}
		a.want(right, e.VectorMatching.Include, "takes over")
		for _, l := range e.VectorMatching.Include {
			left[l] = true
		}
		return left
	case *parser.Call:
		return a.called(e)
	}
	all := labelSet{}
	for child := range parser.ChildrenIter(expr) {
		maps.Copy(all, a.labelsOf(child.(parser.Expr)))
	}
	return all
}

// aggregated returns the labels of what an aggregation gives.
func (a *asked) aggregated(e *parser.AggregateExpr) labelSet {
	have := a.labelsOf(e.Expr)
	if !e.Without {
		a.want(have, e.Grouping, "groups by")
	}
	if e.Without || e.Op == parser.TOPK || e.Op == parser.BOTTOMK {
		return have
	}
	have = setOf(e.Grouping...)
	if made, ok := e.Param.(*parser.StringLiteral); ok { // of count_values
		have[made.Val] = true
	}
	return have
}

// called returns the labels of what a function gives.
func (a *asked) called(e *parser.Call) labelSet {
	all := labelSet{}
	for _, arg := range e.Args {
		maps.Copy(all, a.labelsOf(arg))
	}
	if e.Func.Name == "label_replace" {
		text := func(i int) string { return e.Args[i].(*parser.StringLiteral).Val }
		a.want(all, []string{text(3)}, "takes from")
		all[text(1)] = true
	}
	return all
}

// want says which labels are not among those that there are.
func (a *asked) want(have labelSet, names []string, does string) {
	for _, name := range names {
		if !have[name] && !slices.Contains(targetLabels, name) {
			a.mistake("%s label %s, which is not there", does, name)
		}
	}
}

// selected returns the labels of a selector's metric.
func (a *asked) selected(s *parser.VectorSelector) labelSet {
	if s.Name == "" {
		a.mistake("selects %s without the name of one metric", s)
		return labelSet{}
	}
	family, have := a.lookUp(s.Name)
	if have == nil {
		a.mistake("asks for %s, which no node shows", s.Name)
		return labelSet{}
	}
	for _, m := range s.LabelMatchers {
		if m.Name == labels.MetricName {
			continue
		}
		a.want(have, []string{m.Name}, "matches")
		seen := a.values[[2]string{family, m.Name}]
		if slices.Contains(targetLabels, m.Name) || m.Type == labels.MatchNotEqual || m.Type == labels.MatchNotRegexp {
			continue
		}
		if faults := faulty[m.Name]; faults != nil {
			seen = maps.Clone(seen)
			maps.Copy(seen, faults)
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), m.Matches) {
			a.mistake("matches %s, of which only these values of %s are seen: %q", m, family, slices.Sorted(maps.Keys(seen)))
		}
		for _, value := range alternatives(m) {
			if !seen[value] {
				a.mistake("matches %s=%q of %s, which is not seen", m.Name, value, family)
			}
		}
	}
	return have
}

// literal matches a regular expression that is nothing but a choice of values.
var literal = regexp.MustCompile(`^[A-Za-z0-9_/|-]+$`)

// alternatives returns the values that a regular expression offers, if it offers nothing else.
func alternatives(m *labels.Matcher) []string {
	if m.Type != labels.MatchRegexp || !literal.MatchString(m.Value) {
		return nil
	}
	return strings.Split(m.Value, "|")
}

// lookUp returns the family of a metric and its labels; none if no node shows it.
func (a *asked) lookUp(name string) (family string, have labelSet) {
	if name == "up" {
		return name, labelSet{} // Prometheus makes it for each target
	}
	if have := a.recorded[name]; have != nil {
		return name, have
	}
	if f := a.families[name]; f != nil && f.GetType() != dto.MetricType_HISTOGRAM {
		have := maps.Clone(a.labels[name])
		if f.GetType() == dto.MetricType_SUMMARY {
			have["quantile"] = true
		}
		return name, have
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		family, ok := strings.CutSuffix(name, suffix)
		f := a.families[family]
		if !ok || f == nil {
			continue
		}
		have := maps.Clone(a.labels[family])
		switch {
		case f.GetType() == dto.MetricType_HISTOGRAM:
			have["le"] = suffix == "_bucket"
			return family, have
		case f.GetType() == dto.MetricType_SUMMARY && suffix != "_bucket":
			return family, have
		}
	}
	return "", nil
}

// TestMistakesOfQueries has mistakes in queries be found, and others pass.
func TestMistakesOfQueries(t *testing.T) {
	e := newExposed()
	kind := dto.MetricType_HISTOGRAM
	e.families["waits"] = &dto.MetricFamily{Type: &kind}
	e.labels["waits"] = labelSet{"peer": true}
	e.values[[2]string{"waits", "peer"}] = labelSet{"A": true, "B": true}
	for expr, want := range map[string]string{
		`sum by (le, peer, job) (rate(waits_bucket[5m]))`:                    "",
		`waits_sum{peer="A"} / on (peer) waits_count{peer=~"A|B"}`:           "",
		`up == 0 and on (instance) waits_sum`:                                "",
		`label_replace(waits_sum, "id", "$1", "peer", "(.+)")`:               "",
		`max by (id) (label_replace(waits_sum, "id", "$1", "peer", "(.+)"))`: "",
		`min_over_time(sum by (peer) (waits_count)[1h:5m])`:                  "",
		`max by (peer) (topk by (job) (1, waits_sum))`:                       "",
		`sum by (value) (count_values("value", waits_sum))`:                  "",
		`60 - sum by (peer) (waits_sum) / on (peer) waits_count`:             "",
		`waits_sum * on (peer) group_left (id) waits_count`:                  "takes over label id",
		`waits`:                   "asks for",
		`wait_sum`:                "asks for",
		`rate(waits_sum[5m]`:      "parsed",
		`{peer="A"}`:              "without the name",
		`waits_sum{le="1"}`:       "matches label le",
		`waits_sum{peer="C"}`:     "only these values",
		`waits_sum{peer=~"A|C"}`:  `peer="C"`,
		`sum by (id) (waits_sum)`: "groups by label id",
		`sum by (peer) (sum by (job) (waits_sum))`:             "groups by label peer",
		`waits_sum / on (id) waits_count`:                      "matches on label id",
		`label_replace(waits_sum, "id", "$1", "node", "(.+)")`: "takes from label node",
	} {
		a := &asked{exposed: e}
		a.compare(watch.Query{Name: "it", Expr: expr})
		got := strings.Join(a.mistakes, "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: found %q, want %q", expr, got, want)
		}
	}
}
