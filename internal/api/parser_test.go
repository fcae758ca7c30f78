package api

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

func TestLongRegexpsAreRefused(t *testing.T) {
	long, longest := strings.Repeat("a", maxRegexpBytes+1), strings.Repeat("a", maxRegexpBytes)
	p := NewParser(parser.Options{})
	for _, tc := range []struct {
		query   string
		refused bool
	}{
		{`up{job=~"` + longest + `"}`, false},
		{`up{job=~"` + long + `"}`, true},
		{`up{job!~"` + long + `"}`, true},
		{"up{job!~`" + long + "`}", true},
		{`up{"job" =~ # why` + "\n'" + long + `'}`, true},
		{`up{a=~"b",job=~"` + long + `"}`, true},
		{`up{job=~"` + strings.Repeat(`\x61`, maxRegexpBytes) + `"}`, false},
		{`up{job=~"` + strings.Repeat(`\x61`, maxRegexpBytes+1) + `"}`, true},
		{`up{job="` + long + `"}`, false},
		{`up{job=~"b",instance="` + long + `"}`, false},
	} {
		_, expr := p.ParseExpr(tc.query)
		_, selector := p.ParseMetricSelector(tc.query)
		_, selectors := p.ParseMetricSelectors([]string{"up", tc.query})
		for _, err := range []error{expr, selector, selectors} {
			if (err != nil) != tc.refused || tc.refused && !strings.Contains(err.Error(), "has 4097 bytes, and may have 4096") {
				t.Errorf("%.40s: %v", tc.query, err)
			}
		}
	}
	nested := `sum(rate(up[5m])) / on() group_left count_over_time((up{job=~"` + long + `"} or up)[5m:1m])`
	if _, err := p.ParseExpr(nested); err == nil {
		t.Error("it is not found in an expression")
	}
	if _, err := p.ParseExpr(`up{job=~"` + long); err == nil || strings.Contains(err.Error(), "may have") {
		t.Errorf("what is no PromQL: %v", err)
	}
}

// Every path that takes a matcher says what is wrong with it.
func TestLongRegexpsAreBadData(t *testing.T) {
	f := newFixture(t, nil)
	q := url.QueryEscape(`up{job=~"` + strings.Repeat("a", 5000) + `"}`)
	for _, path := range []string{
		"/api/v1/query?query=" + q,
		"/api/v1/query_range?start=1&end=2&step=1&query=" + q,
		"/api/v1/query_exemplars?start=1&end=2&query=" + q,
		"/api/v1/series?match[]=" + q,
		"/api/v1/labels?match[]=" + q,
		"/api/v1/label/job/values?match[]=" + q,
		"/federate?match[]=" + q,
	} {
		res := f.get(path)
		if res.status != http.StatusBadRequest || !strings.Contains(res.body, "5000 bytes, and may have 4096") {
			t.Errorf("%.30s: %d %.200s", path, res.status, res.body)
		} else if strings.HasPrefix(path, "/api/") && res.envelope(t).ErrorType != "bad_data" {
			t.Errorf("%.30s: %.200s", path, res.body)
		}
	}
}
