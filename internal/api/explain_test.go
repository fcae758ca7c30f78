package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strings"
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
			query: `sum by (job) (rate(a_total{x="1"}[5m] offset 1m)) / max without (z, y) (b offset -90s) + sort(b)`,
			want: `{"query":"sum by (job) (rate(a_total{x=\"1\"}[5m] offset 1m)) / max without (z, y) (b offset -90s) + sort(b)"` +
				`,"rest":"answer(0) / answer(1) + sort(b)","fragments":[` + all +
				`,{"text":"max without (z, y) (b offset -90s)","selector":"b","range":"","offset":"-1m30s","function":"","aggregation":"max","grouping":["y","z"],"without":true}` +
				`],"whole":[{"selector":"b","reason":"sort is not evaluated series by series"}]}`},
		{name: "a quantile", query: "histogram_quantile(0.9, b)",
			want: `{"query":"histogram_quantile(0.9, b)","rest":"answer(0)","fragments":[` +
				`{"text":"histogram_quantile(0.9, b)","selector":"b","range":"","offset":"","function":"","aggregation":"histogram_quantile","grouping":[],"without":false}],"whole":[]}`},
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

// TestExplainRuns checks that stats=all tells what the query takes, and that a query which cannot be
// answered is answered as such.
func TestExplainRuns(t *testing.T) {
	f := newPushingFixture(t, nil, nil)
	const query = "sum(rate(http_requests_total[1m]))"
	for _, tt := range []struct{ path, params string }{
		{"/api/v1/query", "time=1699999990"},
		{"/api/v1/query_range", "start=1699999900&end=1699999990&step=10"},
	} {
		form := "query=" + url.QueryEscape(query) + "&stats=all&" + tt.params
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			var res response
			if method == http.MethodGet {
				res = f.get("/api/v1/query_explain?" + form)
			} else {
				values, err := url.ParseQuery(form)
				if err != nil {
					t.Fatal(err)
				}
				res = f.do(method, "/api/v1/query_explain", values, nil)
			}
			type told struct {
				Fragments []FragmentStats
				Samples   struct{ TotalQueryableSamples int64 }
			}
			var got struct {
				Query     string
				Fragments []ExplainedFragment
				Result    any
				Stats     *told
			}
			var want struct{ Stats *told }
			if err := json.Unmarshal(res.envelope(t).Data, &got); err != nil || res.status != http.StatusOK {
				t.Fatalf("%v, %d %q", err, res.status, res.body)
			}
			if err := json.Unmarshal(f.get(tt.path+"?"+form).envelope(t).Data, &want); err != nil {
				t.Fatal(err)
			}
			if got.Query != query || len(got.Fragments) != 1 || got.Result != nil || got.Stats == nil {
				t.Fatalf("%s %s: %q", method, tt.path, res.body)
			}
			for _, s := range []*told{got.Stats, want.Stats} {
				s.Fragments[0].Seconds = 0
			}
			if !reflect.DeepEqual(got.Stats, want.Stats) || got.Stats.Samples.TotalQueryableSamples == 0 {
				t.Errorf("%s %s: %+v, the query tells %+v", method, tt.path, got.Stats, want.Stats)
			}
		}
	}
	for _, params := range []string{"time=x", "start=1&end=2&step=0", "start=1", "start=1&end=1e9&step=1"} {
		path := "/query?"
		if params != "time=x" {
			path = "/query_range?"
		}
		form := "query=up&stats=all&" + params
		got, want := f.get("/api/v1/query_explain?"+form), f.get("/api/v1"+path+form)
		if got.status != http.StatusBadRequest || got.body != want.body {
			t.Errorf("%s: %d %q, want %q", params, got.status, got.body, want.body)
		}
	}
	if got := f.get("/api/v1/query_explain?query=up&stats=true"); got.status != http.StatusOK || strings.Contains(got.body, "stats") {
		t.Errorf("%d %q", got.status, got.body)
	}
}
