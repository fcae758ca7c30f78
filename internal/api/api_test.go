package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/tsdb"
)

// routeTest is one request and what its answer has to hold.
type routeTest struct {
	path string
	// data is the data of the envelope; where it is empty, contains counts.
	data string
	// contains are parts of the body.
	contains []string
}

var routeTests = []routeTest{
	{path: "/api/v1/query?query=free_bytes&time=1700000000",
		data: `{"resultType":"vector","result":[{"metric":{"__name__":"free_bytes","disk":"sda"},"value":[1700000000,"42"]}]}`},
	{path: "/api/v1/query_range?query=count(rate(http_requests_total[1m]))&start=1699999940&end=1700000000&step=60",
		data: `{"resultType":"matrix","result":[{"metric":{},"values":[[1699999940,"2"],[1700000000,"2"]]}]}`},
	{path: "/api/v1/series?match[]=free_bytes", data: `[{"__name__":"free_bytes","disk":"sda"}]`},
	{path: "/api/v1/labels", data: `["__name__","disk","instance","job"]`},
	{path: "/api/v1/label/instance/values", data: `["a","b"]`},
	{path: "/api/v1/query_exemplars?query=http_requests_total",
		data: `[{"seriesLabels":{"__name__":"http_requests_total","instance":"b","job":"web"},"exemplars":[{"labels":{"trace_id":"t1"},"value":"1","timestamp":1699999940}]}]`},
	{path: "/api/v1/format_query?query=sum(a)by(b)", data: `"sum by (b) (a)"`},
	{path: "/api/v1/parse_query?query=1", data: `{"type":"numberLiteral","val":"1"}`},
	{path: "/api/v1/metadata",
		data: `{"free_bytes":[{"type":"gauge","unit":"bytes","help":"Free space."}],"http_requests_total":[{"type":"counter","unit":"","help":"Requests."},{"type":"counter","unit":"","help":"Requests served."}]}`},
	{path: "/api/v1/metadata?limit=1&limit_per_metric=1", data: `{"free_bytes":[{"type":"gauge","unit":"bytes","help":"Free space."}]}`},
	{path: "/api/v1/metadata?metric=http_requests_total&limit_per_metric=1", data: `{"http_requests_total":[{"type":"counter","unit":"","help":"Requests."}]}`},
	{path: "/api/v1/metadata?metric=unknown", data: `{}`},
	{path: "/api/v1/metadata?limit=0", data: `{}`},
	{path: "/api/v1/status/flags", data: `{"query.timeout":"2m"}`},
	{path: "/api/v1/status/buildinfo", contains: []string{`"version":"1.2.3"`}},
	{path: "/api/v1/status/runtimeinfo", contains: []string{`"storageRetention":"15d"`, `"serverTime":"2023-11-14T22:13:20Z"`, `"reloadConfigSuccess":true`}},
	{path: "/api/v1/status/config", contains: []string{`"yaml":"global:\n`}},
	{path: "/api/v1/status/tsdb?limit=1", contains: []string{`"numSeries":5`, `"seriesCountByMetricName":[{"name":"http_requests_total","value":2}]`}},
	{path: "/api/v1/status/tsdb/blocks", contains: []string{`"blocks":`}},
	{path: "/api/v1/status/walreplay", data: `{"min":0,"max":0,"current":0}`},
	{path: "/api/v1/status/self_metrics", contains: []string{`"status":"success"`}},
	{path: "/api/v1/cluster",
		data: `{"clusterId":"c1","self":"n1","epoch":7,"replicationFactor":3,"writeQuorum":2,"slots":[{"slot":0},{"slot":1,"node":"n1","zone":"z"}],"nodes":[{"id":"n1","addresses":{"http":"h:1"},"state":"alive","epoch":0,"slot":1}],"gaps":[{"peer":"n2","since":"2026-03-01T00:00:00Z","opened":"1970-01-01T00:00:00Z","handingOff":false,"samplesLeft":7,"bytesLeft":10}]}`},
	{path: "/api/v1/targets", data: `{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":{}}`},
	{path: "/api/v1/targets/metadata", data: `[]`},
	{path: "/api/v1/scrape_pools", data: `{"scrapePools":[]}`},
	{path: "/api/v1/rules", data: `{"groups":[]}`},
	{path: "/api/v1/alerts", data: `{"alerts":[]}`},
	{path: "/api/v1/alertmanagers", data: `{"activeAlertmanagers":[],"droppedAlertmanagers":[]}`},
	{path: "/api/v1/notifications", data: `[]`},
	{path: "/api/v1/features", contains: []string{`"otlp_write_receiver":true`, `"admin":false`}},
	{path: "/api/v1/openapi.yaml", contains: []string{"openapi:"}},
	{path: "/federate?match[]=free_bytes", contains: []string{`free_bytes{disk="sda",instance=""} 42 1699999940000`}},
	{path: "/-/healthy", contains: []string{"healthy"}},
	{path: "/-/ready", contains: []string{"ready"}},
	{path: "/metrics", contains: []string{"starling_http_requests_total"}},
	{path: "/debug/pprof/", contains: []string{"goroutine"}},
	{path: "/debug/pprof/cmdline", contains: []string{"api"}},
	{path: "/?query=42", contains: []string{"page /: ", `"42"`}},
	{path: "/graph?query=42", contains: []string{"page /graph: "}},
	{path: "/assets/a.css?query=1", contains: []string{"page /assets/a.css: "}},
	{path: "/favicon.ico?query=1", contains: []string{"page /favicon.ico: "}},
}

func TestRoutes(t *testing.T) {
	f := newFixture(t, nil)
	for _, prefix := range []string{"", altPrefix} {
		for _, tt := range routeTests {
			t.Run(prefix+tt.path, func(t *testing.T) {
				res := f.get(prefix + tt.path)
				if res.status != http.StatusOK {
					t.Fatalf("status %d: %s", res.status, res.body)
				}
				if tt.data != "" {
					e := res.envelope(t)
					if e.Status != "success" || string(e.Data) != tt.data {
						t.Errorf("got  %s %s\nwant success %s", e.Status, e.Data, tt.data)
					}
				}
				for _, part := range tt.contains {
					if !strings.Contains(res.body, part) {
						t.Errorf("%q is not in %.2000s", part, res.body)
					}
				}
			})
		}
	}
}

func TestPostedForms(t *testing.T) {
	f := newFixture(t, nil)
	res := f.do(http.MethodPost, "/api/v1/query", url.Values{"query": {"free_bytes"}, "time": {"1700000000"}}, nil)
	if !strings.Contains(res.body, `"42"`) {
		t.Errorf("query: %d %s", res.status, res.body)
	}
	res = f.do(http.MethodPost, "/api/v1/series", url.Values{"match[]": {"free_bytes", "http_requests_total"}}, nil)
	var series []map[string]string
	if err := json.Unmarshal(res.envelope(t).Data, &series); err != nil || len(series) != 3 {
		t.Errorf("series: %v, %s", err, res.body)
	}
}

func TestErrorsOfRequests(t *testing.T) {
	f := newFixture(t, nil)
	for _, tt := range []struct {
		method, path string
		status       int
		errorType    string
		text         string
	}{
		{"GET", "/api/v1/query?query=sum(", 400, "bad_data", "parse error"},
		{"GET", "/api/v1/series", 400, "bad_data", "no match[]"},
		{"GET", "/api/v1/metadata?limit=x", 400, "bad_data", "limit must be a number"},
		{"GET", "/api/v1/metadata?limit_per_metric=x", 400, "bad_data", "limit_per_metric must be a number"},
		{"GET", "/api/v1/status/tsdb?limit=0", 400, "bad_data", "limit must be a positive number"},
		{"GET", "/api/v1/status/tsdb?limit=10001", 400, "bad_data", "limit must not exceed 10000"},
		{"GET", "/api/v1/query?query=1&partial_response=maybe", 400, "bad_data", "partial_response"},
		{"GET", "/api/v1/scrape_pools/config?scrapePool=x", 400, "bad_data", `"x" not found`},
		{"GET", `/api/v1/targets/relabel_steps?scrapePool=x&labels={}`, 400, "bad_data", `"x" not found`},
		{"POST", "/api/v1/admin/tsdb/snapshot", 500, "unavailable", "admin APIs disabled"},
		{"POST", "/api/v1/admin/tsdb/delete_series", 500, "unavailable", "admin APIs disabled"},
		{"PUT", "/api/v1/admin/tsdb/clean_tombstones", 500, "unavailable", "admin APIs disabled"},
		{"GET", "/api/v1/search/metric_names", 500, "unavailable", "search API disabled"},
	} {
		res := f.do(tt.method, tt.path, nil, nil)
		e := res.envelope(t)
		if res.status != tt.status || e.ErrorType != tt.errorType || !strings.Contains(e.Error, tt.text) {
			t.Errorf("%s %s: got %d %s %q, want %d %s %q", tt.method, tt.path, res.status, e.ErrorType, e.Error, tt.status, tt.errorType, tt.text)
		}
	}
}

// TestReadiness checks what an unready node still answers: all that helps to find out
// why it is not ready, and nothing else.
func TestReadiness(t *testing.T) {
	f := newFixture(t, nil)
	reason := errors.New("replaying the log")
	f.ready.Store(&reason)

	for _, path := range []string{"/-/healthy", "/metrics", "/api/v1/cluster", "/api/v1/status/walreplay", "/debug/pprof/", "/"} {
		if res := f.get(path); res.status != http.StatusOK {
			t.Errorf("%s: got %d, want 200 from an unready node", path, res.status)
		}
	}
	if res := f.get("/-/ready"); res.status != http.StatusServiceUnavailable || !strings.Contains(res.body, reason.Error()) {
		t.Errorf("/-/ready: got %d %q", res.status, res.body)
	}
	type request struct{ method, path string }
	requests := []request{{"POST", "/api/v1/read"}, {"GET", "/federate?match[]=up"}}
	for _, path := range []string{"query?query=1", "query_range", "series?match[]=up", "labels", "label/a/values", "query_exemplars", "metadata", "status/tsdb", "rules"} {
		requests = append(requests, request{"GET", "/api/v1/" + path})
	}
	for _, path := range []string{"write", "push", "receive", "otlp/v1/metrics"} {
		requests = append(requests, request{"POST", "/api/v1/" + path}, request{"POST", "/prometheus/api/v1/" + path})
	}
	for _, r := range requests {
		res := f.do(r.method, r.path, nil, nil)
		e := res.envelope(t)
		if res.status != http.StatusServiceUnavailable || e.ErrorType != "unavailable" || !strings.Contains(e.Error, reason.Error()) {
			t.Errorf("%s %s: got %d %q", r.method, r.path, res.status, res.body)
		}
		if res.header.Get("Retry-After") == "" {
			t.Errorf("%s %s: no Retry-After", r.method, r.path)
		}
	}

	f.ready.Store(nil)
	if res := f.get("/-/ready"); res.status != http.StatusOK {
		t.Errorf("/-/ready when ready: got %d", res.status)
	}
}

func TestConfigIsValid(t *testing.T) {
	f := newFixture(t, nil)
	var data struct{ YAML string }
	if err := json.Unmarshal(f.get("/api/v1/status/config").envelope(t).Data, &data); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(data.YAML, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("Prometheus does not read the configuration: %v\n%s", err, data.YAML)
	}
}

func TestCrossOrigin(t *testing.T) {
	f := newFixture(t, nil)
	for _, path := range []string{"/api/v1/query?query=1", "/api/v1/metadata", "/api/v1/cluster", "/api/v1/status/tsdb"} {
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			res := f.do(method, path, nil, http.Header{"Origin": {"http://dashboards.example"}})
			if got := res.header.Get("Access-Control-Allow-Origin"); got != "*" {
				t.Errorf("%s %s: allowed origin %q, want *", method, path, got)
			}
		}
	}
}

// A node that is cut off answers what it can: whether that is enough is for each read and
// write to find out.
func TestUnreadyNodeThatServesIsAsked(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Ready = func() error { return errors.New("cut off") }
		o.Serving = func() error { return nil }
	})
	if res := f.get("/-/ready"); res.status != http.StatusServiceUnavailable {
		t.Errorf("/-/ready: got %d", res.status)
	}
	if res := f.get("/api/v1/query?query=up"); res.status != http.StatusOK {
		t.Errorf("query: got %d %q", res.status, res.body)
	}
}

func TestNewNamesMissingOptions(t *testing.T) {
	f := newFixture(t, nil)
	for want, spoil := range map[string]func(*Options){
		"Sources.Engine":    func(o *Options) { o.Sources.Engine = nil },
		"Sources.Metadata":  func(o *Options) { o.Sources.Metadata = nil },
		"Writes":            func(o *Options) { o.Writes = nil },
		"Ready":             func(o *Options) { o.Ready = nil },
		"Serving":           func(o *Options) { o.Serving = nil },
		"--query.timeout":   func(o *Options) { o.Limits.QueryTimeout = -1 },
		"read-sample-limit": func(o *Options) { o.Limits.RemoteReadSamples = -1 },
	} {
		opts := f.opts
		opts.Registerer = nil
		spoil(&opts)
		if _, err := New(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that names %s", err, want)
		}
	}
}

// TestHandlerLabelIsBounded checks that paths and methods of the client's invention do
// not become label values.
func TestHandlerLabelIsBounded(t *testing.T) {
	f := newFixture(t, nil)
	f.get("/api/v1/label/instance/values")
	f.get("/prometheus/api/v1/label/job/values")
	f.get("/no/such/page")
	f.get("/api/v1/no_such_call")
	f.do("BREW", "/api/v1/query", nil, nil)

	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "starling_http_requests_total" {
			continue
		}
		for _, m := range family.Metric {
			var key []string
			for _, l := range m.Label {
				key = append(key, l.GetValue())
			}
			got[strings.Join(key, " ")] = m.Counter.GetValue()
		}
	}
	want := map[string]float64{
		"200 /api/v1/label/:name/values get": 2,
		"404 unmatched get":                  2,
		"405 unmatched other":                1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// TestNothingPanics asks for every path in every way.
func TestNothingPanics(t *testing.T) {
	f := newFixture(t, nil)
	paths := []string{
		"query", "query_range", "query_exemplars", "format_query", "parse_query", "labels", "label/a/values", "series",
		"scrape_pools", "scrape_pools/config", "targets", "targets/metadata", "targets/relabel_steps", "alertmanagers",
		"metadata", "status/config", "status/runtimeinfo", "status/buildinfo", "status/flags", "status/tsdb",
		"status/tsdb/blocks", "status/self_metrics", "features", "status/walreplay", "notifications", "notifications/live",
		"read", "write", "push", "receive", "otlp/v1/metrics", "search/metric_names", "search/label_names",
		"search/label_values", "alerts", "rules", "admin/tsdb/delete_series", "admin/tsdb/clean_tombstones",
		"admin/tsdb/snapshot", "openapi.yaml", "cluster", "", "nothing",
	}
	for i := range paths {
		paths[i] = "/api/v1/" + paths[i]
	}
	paths = append(paths, "/", "/federate", "/-/ready", "/-/healthy", "/metrics", "/debug/pprof/", "/debug/pprof/symbol", "/prometheus", "/nothing")
	queries := []string{
		"", "?query=up&match[]=up&scrapePool=x&labels={}&match_target={a=\"b\"}",
		"?query=sum(rate(up[5m]))&start=1&end=2&step=1&limit=1&type=alert&state=any&match[]={__name__=~\".%2B\"}",
	}
	for _, path := range paths {
		for _, query := range queries {
			for _, method := range []string{"GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"} {
				if res := f.do(method, path+query, nil, nil); res.broken != nil || res.status == 0 {
					t.Errorf("%s %s%s: %v", method, path, query, res.broken)
				}
			}
		}
	}
	if log := f.log.String(); strings.Contains(log, "panic") {
		t.Errorf("a handler panicked:\n%.4000s", log)
	}
}

// TestPanicIsAnswered checks that a panic ends neither the process nor in silence.
func TestPanicIsAnswered(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Info.BlockMetas = func() ([]tsdb.BlockMeta, error) { panic("oh no") } })
	res := f.do(http.MethodGet, "/api/v1/status/tsdb/blocks", nil, http.Header{"Accept-Encoding": {"gzip"}})
	if res.status != http.StatusInternalServerError || res.envelope(t).ErrorType != "internal" {
		t.Errorf("got %d %q", res.status, res.body)
	}
	if got := res.header.Get("Content-Encoding"); got != "" {
		t.Errorf("the plain answer is called %s", got)
	}
	if log := f.log.String(); !strings.Contains(log, "oh no") || !strings.Contains(log, "api_test.go") {
		t.Errorf("the log lacks the panic or its stack: %s", log)
	}
	if !slices.Contains(strings.Fields(f.get("/metrics").body), `starling_http_requests_total{code="500",handler="/api/v1/status/tsdb/blocks",method="get"}`) {
		t.Error("the panic was not counted")
	}
}
