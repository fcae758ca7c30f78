package watch

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v2"
)

// docs is relative to this package.
const docs = "../../docs"

// ruleTests is a file of tests of rules, as promtool has it, so far as ours use it: one that
// uses more is refused. The acceptance tests have promtool itself run it.
type ruleTests struct {
	RuleFiles          []string       `yaml:"rule_files"`
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	GroupEvalOrder     []string       `yaml:"group_eval_order"`
	Tests              []ruleTest     `yaml:"tests"`
}

// ruleTest loads series and asks for results at some times, the earliest first.
type ruleTest struct {
	Name        string         `yaml:"name"`
	Interval    model.Duration `yaml:"interval"`
	InputSeries []struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	} `yaml:"input_series"`
	Exprs []expectation `yaml:"promql_expr_test"`
}

// expectation is what an expression gives at a time.
type expectation struct {
	Expr     string         `yaml:"expr"`
	EvalTime model.Duration `yaml:"eval_time"`
	Samples  []struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	} `yaml:"exp_samples"`
}

// firing is the expression that gives all alerts that fire.
const firing = `ALERTS{alertstate="firing"}`

func TestRules(t *testing.T) {
	tests, dir := readRuleTests(t)
	for i := range tests.Tests {
		test := &tests.Tests[i]
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			test.run(t, tests, dir)
		})
	}
}

// readRuleTests returns the tests, and the folder that they are in.
func readRuleTests(t *testing.T) (tests *ruleTests, dir string) {
	t.Helper()
	file := filepath.Join(docs, strings.Replace(rulesFile, ".yml", "_test.yml", 1))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tests = new(ruleTests)
	if err := yaml.UnmarshalStrict(text, tests); err != nil {
		t.Fatal(err)
	}
	return tests, filepath.Dir(file)
}

// run evaluates all rules at each interval, and compares what comes of it when that is asked for.
func (r *ruleTest) run(t *testing.T, all *ruleTests, dir string) {
	var load strings.Builder
	fmt.Fprintf(&load, "load %s\n", r.Interval)
	for _, s := range r.InputSeries {
		fmt.Fprintf(&load, "  %s %s\n", s.Series, s.Values)
	}
	suite, err := promqltest.NewLazyLoader(load.String(), promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true})
	if err != nil {
		t.Fatal(err)
	}
	defer suite.Close()
	groups := loadGroups(t, suite, all, dir)
	start := time.Unix(0, 0).UTC()
	at := start
	for _, e := range r.Exprs {
		asked := start.Add(time.Duration(e.EvalTime))
		for ; !at.After(asked); at = at.Add(time.Duration(all.EvaluationInterval)) {
			suite.WithSamplesTill(at, func(err error) {
				if err != nil {
					t.Fatal(err)
				}
			})
			for _, g := range groups {
				g.Eval(suite.Context(), at)
				for _, rule := range g.Rules() {
					if rule.LastError() != nil {
						t.Fatalf("%s after %s: %v", rule.Name(), at.Sub(start), rule.LastError())
					}
				}
			}
		}
		if asked.Add(time.Duration(all.EvaluationInterval)).Before(at) {
			t.Fatalf("%s is asked for at %s after a later time", e.Expr, e.EvalTime)
		}
		if got, want := e.got(t, suite, asked), e.want(t); !slices.Equal(got, want) {
			t.Errorf("%s at %s: got %q, want %q", e.Expr, e.EvalTime, got, want)
		}
		for _, g := range groups {
			wantTold(t, g)
		}
	}
}

// loadGroups returns the groups of rules in the order in which they are evaluated.
func loadGroups(t *testing.T, suite *promqltest.LazyLoader, all *ruleTests, dir string) []*rules.Group {
	t.Helper()
	var files []string
	for _, f := range all.RuleFiles {
		files = append(files, filepath.Join(dir, f))
	}
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc:  rules.EngineQueryFunc(suite.QueryEngine(), suite.Storage()),
		Appendable: suite.Storage(),
		Context:    t.Context(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		Logger:     slog.New(slog.DiscardHandler),
		Parser:     parser.NewParser(parser.Options{}),
	})
	loaded, errs := m.LoadGroups(time.Duration(all.EvaluationInterval), labels.EmptyLabels(), "", nil, false, files...)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var groups []*rules.Group
	for _, name := range all.GroupEvalOrder {
		for _, g := range loaded {
			if g.Name() == name {
				groups = append(groups, g)
			}
		}
	}
	if len(groups) != len(loaded) {
		t.Fatalf("group_eval_order names %d of %d groups", len(groups), len(loaded))
	}
	for _, g := range groups {
		for _, r := range g.Rules() {
			if alert, ok := r.(*rules.AlertingRule); ok {
				alert.SetRestored(true) // else it is not in ALERTS
			}
		}
	}
	return groups
}

func (e *expectation) got(t *testing.T, suite *promqltest.LazyLoader, at time.Time) []string {
	t.Helper()
	q, err := suite.QueryEngine().NewInstantQuery(suite.Context(), suite.Queryable(), nil, e.Expr, at)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	result := q.Exec(suite.Context())
	samples, ok := result.Value.(promql.Vector)
	if result.Err != nil || !ok {
		t.Fatalf("%s: %v, a %T", e.Expr, result.Err, result.Value)
	}
	var got []string
	for _, s := range samples {
		got = append(got, fmt.Sprint(s.Metric, " ", s.F))
	}
	slices.Sort(got)
	return got
}

func (e *expectation) want(t *testing.T) []string {
	t.Helper()
	var want []string
	for _, s := range e.Samples {
		ls, err := parser.NewParser(parser.Options{}).ParseMetric(s.Labels)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(ls, " ", s.Value))
	}
	slices.Sort(want)
	return want
}

// wantTold wants the texts of alerts that fire to be whole.
func wantTold(t *testing.T, g *rules.Group) {
	t.Helper()
	for _, rule := range g.AlertingRules() {
		for _, a := range rule.ActiveAlerts() {
			a.Annotations.Range(func(l labels.Label) {
				if strings.Contains(l.Value, "<error") || strings.Contains(l.Value, "<no value>") || strings.Contains(l.Value, "  ") {
					t.Errorf("%s of %s: %q", l.Name, rule.Name(), l.Value)
				}
			})
		}
	}
}

// TestAlertsAreTold wants each alert to say how grave it is and what it means, to be tested where
// it fires and where it does not, and to be in the runbook; and the runbook to have nothing else.
func TestAlertsAreTold(t *testing.T) {
	groups, err := readRules(docs)
	if err != nil {
		t.Fatal(err)
	}
	const page = "operations.md"
	text, err := os.ReadFile(filepath.Join(docs, page))
	if err != nil {
		t.Fatal(err)
	}
	runbook := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^### Runbook: (\w+)$`).FindAllStringSubmatch(string(text), -1) {
		runbook[heading[1]] = true
	}
	tests, _ := readRuleTests(t)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: no summary or no description", r.Alert)
			}
			url := "https://github.com/starling-tsdb/starling/blob/main/docs/" + page + "#runbook-" + strings.ToLower(r.Alert)
			if got := r.Annotations["runbook_url"]; got != url {
				t.Errorf("%s: runbook_url %s, want %s", r.Alert, got, url)
			}
			if !runbook[r.Alert] {
				t.Errorf("%s: no heading \"### Runbook: %s\" in %s", r.Alert, r.Alert, page)
			}
			delete(runbook, r.Alert)
			fires, silent := tests.tries(r.Alert)
			if !fires || !silent {
				t.Errorf("%s: no test of that name asks for %s when it fires and when it does not", r.Alert, firing)
			}
		}
	}
	for alert := range runbook {
		t.Errorf("%s is in the runbook and not in the rules", alert)
	}
}

// tries tells whether the test of an alert has it fire, and be silent.
func (r *ruleTests) tries(alert string) (fires, silent bool) {
	for _, test := range r.Tests {
		if test.Name != alert {
			continue
		}
		for _, e := range test.Exprs {
			if e.Expr != firing {
				continue
			}
			found := false
			for _, s := range e.Samples {
				found = found || strings.Contains(s.Labels, fmt.Sprintf("alertname=%q", alert))
			}
			fires, silent = fires || found, silent || !found
		}
	}
	return fires, silent
}
