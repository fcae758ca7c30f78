package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
)

// TestExplain checks what is said of queries, by GET and POST and below both prefixes.
func TestExplain(t *testing.T) {
	const all = `{"text":"sum by (job) (rate(a_total{x=\"1\"}[5m] offset 1m))","selector":"a_total{x=\"1\"}","range":"5m","offset":"1m",` +
		`"function":"rate","aggregation":"sum","grouping":["job"],"without":false}`
	for _, tt := range []struct {
		name, query, want string
		change            func(*EngineOptions)
	}{
		{name: "two fragments and a rest",
			query: `sum by (job) (rate(a_total{x="1"}[5m] offset 1m)) / max without (z, y) (b offset -90s) + histogram_quantile(0.9, b)`,
			want: `{"query":"sum by (job) (rate(a_total{x=\"1\"}[5m] offset 1m)) / max without (z, y) (b offset -90s) + histogram_quantile(0.9, b)"` +
				`,"rest":"answer(0) / answer(1) + histogram_quantile(0.9, b)","fragments":[` + all +
				`,{"text":"max without (z, y) (b offset -90s)","selector":"b","range":"","offset":"-1m30s","function":"","aggregation":"max","grouping":["y","z"],"without":true}` +
				`],"whole":[{"selector":"b","reason":"histogram_quantile is not evaluated series by series"}]}`},
		{name: "a selector", query: "a",
			want: `{"query":"a","rest":"a","fragments":[],"whole":[{"selector":"a","reason":"samples travel as they are stored"}]}`},
		{name: "several metrics", query: `count({job="x"})`,
			want: `{"query":"count({job=\"x\"})","rest":"answer(0)","fragments":[{"text":"count({job=\"x\"})","selector":"{job=\"x\"}","range":"","offset":"","function":"","aggregation":"count","grouping":[],"without":false}],"whole":[]}`},
		{name: "no series", query: "1 + 1", want: `{"query":"1 + 1","rest":"1 + 1","fragments":[],"whole":[]}`},
		{name: "switched off", query: "sum( a)", change: func(o *EngineOptions) { o.Features.DelayedNameRemoval = true },
			want: `{"query":"sum( a)","off":"the feature promql-delayed-name-removal changes what fragments give","rest":"sum(a)","fragments":[],` +
				`"whole":[{"selector":"a","reason":"the feature promql-delayed-name-removal changes what fragments give"}]}`},
		{name: "alone", query: "sum(a)", change: func(o *EngineOptions) { o.Evaluator = nil },
			want: `{"query":"sum(a)","off":"no other node evaluates anything","rest":"sum(a)","fragments":[],` +
				`"whole":[{"selector":"a","reason":"no other node evaluates anything"}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newPushingFixture(t, nil, tt.change)
			form := url.Values{"query": {tt.query}}
			for _, prefix := range []string{"", "/prometheus"} {
				path := prefix + "/api/v1/query_explain"
				for method, res := range map[string]response{
					http.MethodGet: f.get(path + "?" + form.Encode()), http.MethodPost: f.do(http.MethodPost, path, form, nil),
				} {
					var got bytes.Buffer
					if err := json.Compact(&got, res.envelope(t).Data); err != nil {
						t.Fatal(err)
					}
					if res.status != http.StatusOK || got.String() != tt.want {
						t.Errorf("%s %s: %d\n%s\nwant\n%s", method, path, res.status, got.String(), tt.want)
					}
				}
			}
		})
	}
}

// TestExplainRefuses checks that errors are those that Prometheus's handlers give.
func TestExplainRefuses(t *testing.T) {
	for _, change := range []func(*EngineOptions){nil, func(o *EngineOptions) { o.Features.DelayedNameRemoval = true }} {
		f := newPushingFixture(t, nil, change)
		for _, query := range []string{"", "sum(", "limitk(1, a)", "rate(a)"} {
			form := url.Values{"query": {query}}.Encode()
			got, want := f.get("/api/v1/query_explain?"+form), f.get("/api/v1/query?"+form)
			if got.status != http.StatusBadRequest || got.body != want.body {
				t.Errorf("%q: got %d %q, want %q", query, got.status, got.body, want.body)
			}
		}
	}
}
