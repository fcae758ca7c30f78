package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
)

// newFederation serves, beside the samples of every fixture, those that federation has
// to treat in a particular way.
func newFederation(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t, nil)
	app := f.db.Appender(t.Context())
	add := func(ago time.Duration, v float64, l ...string) {
		if _, err := app.Append(0, labels.FromStrings(l...), now.Add(-ago).UnixMilli(), v); err != nil {
			t.Fatal(err)
		}
	}
	add(6*time.Minute, 1, "__name__", "too_old")
	add(5*time.Minute, 1, "__name__", "just_in_time")
	add(0, 2, "__name__", "at_the_moment")
	add(2*time.Minute, 1, "__name__", "went_stale")
	add(time.Minute, math.Float64frombits(value.StaleNaN), "__name__", "went_stale")
	add(time.Minute, math.NaN(), "__name__", "not_a_number")
	add(time.Minute, 1, "__name__", "zz", "instance", "a")
	add(time.Minute, 2, "__name__", "aa", "instance", "z")
	add(time.Minute, 3, "__name__", "aa", "instance", "a")
	add(time.Minute, 4, "nameless", "yes")
	gauge := tsdbutil.GenerateTestGaugeFloatHistogram(1)
	if _, err := app.AppendHistogram(0, labels.FromStrings("__name__", "mixed", "kind", "gauge"), now.UnixMilli(), nil, gauge); err != nil {
		t.Fatal(err)
	}
	add(time.Minute, 5, "__name__", "mixed", "kind", "number")
	if _, err := app.AppendHistogram(0, labels.FromStrings("__name__", "mixed", "kind", "counter"), now.UnixMilli(), tsdbutil.GenerateTestHistogram(1), nil); err != nil {
		t.Fatal(err)
	}
	stale := &histogram.FloatHistogram{Sum: math.Float64frombits(value.StaleNaN)}
	if _, err := app.AppendHistogram(0, labels.FromStrings("__name__", "stale_histogram"), now.UnixMilli(), nil, stale); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFederateText(t *testing.T) {
	f := newFederation(t)
	for _, tt := range []struct{ name, query, want string }{
		{"no selector", "", ""},
		{"nothing selected", "match[]=unknown", ""},
		{"one series", "match[]=free_bytes", `# TYPE free_bytes untyped
free_bytes{disk="sda",instance=""} 42 1699999940000
`},
		{"the last sample of each series", "match[]=http_requests_total", `# TYPE http_requests_total untyped
http_requests_total{instance="a",job="web"} 225 1699999985000
http_requests_total{instance="b",job="web"} 450 1699999985000
`},
		{"overlapping selectors", "match[]=http_requests_total&match[]={instance=\"a\",job=\"web\"}", `# TYPE http_requests_total untyped
http_requests_total{instance="a",job="web"} 225 1699999985000
http_requests_total{instance="b",job="web"} 450 1699999985000
`},
		{"sorted by name", "match[]={__name__=~\"zz|aa\"}", `# TYPE aa untyped
aa{instance="a"} 3 1699999940000
aa{instance="z"} 2 1699999940000
# TYPE zz untyped
zz{instance="a"} 1 1699999940000
`},
		{"lookback and staleness", "match[]={__name__=~\"too_old|just_in_time|at_the_moment|went_stale|stale_histogram|not_a_number\"}", `# TYPE at_the_moment untyped
at_the_moment{instance=""} 2 1700000000000
# TYPE just_in_time untyped
just_in_time{instance=""} 1 1699999700000
# TYPE not_a_number untyped
not_a_number{instance=""} NaN 1699999940000
`},
		{"without a name", "match[]={nameless=\"yes\"}", ""},
		{"native histograms have no text", "match[]=latency_seconds", ""},
		{"histograms and numbers of one name", "match[]=mixed", `# TYPE mixed untyped
mixed{kind="number",instance=""} 5 1699999940000
`},
		{"custom buckets become classic ones", "match[]=size_bytes", `# TYPE size_bytes histogram
size_bytes_bucket{instance="a",le="0"} 2 1699999970000
size_bytes_bucket{instance="a",le="1"} 5 1699999970000
size_bytes_bucket{instance="a",le="2"} 5 1699999970000
size_bytes_bucket{instance="a",le="3"} 7 1699999970000
size_bytes_bucket{instance="a",le="4"} 9 1699999970000
size_bytes_bucket{instance="a",le="+Inf"} 9 1699999970000
size_bytes_sum{instance="a"} 36.8 1699999970000
size_bytes_count{instance="a"} 9 1699999970000
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := f.get("/federate?" + tt.query)
			if res.status != http.StatusOK || res.body != tt.want {
				t.Errorf("status %d, got\n%s\nwant\n%s", res.status, res.body, tt.want)
			}
			if got := res.header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=") {
				t.Errorf("content type %q", got)
			}
		})
	}
}

func TestFederateBadSelector(t *testing.T) {
	f := newFixture(t, nil)
	if res := f.get("/federate?match[]=sum("); res.status != http.StatusBadRequest || !strings.Contains(res.body, "parse error") {
		t.Errorf("got %d %q", res.status, res.body)
	}
}

const acceptProto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

// families scrapes as a Prometheus does that reads native histograms.
func (f *fixture) families(query string) []*dto.MetricFamily {
	f.t.Helper()
	res := f.do(http.MethodGet, "/federate?"+query, nil, http.Header{"Accept": {acceptProto}})
	if res.status != http.StatusOK {
		f.t.Fatalf("got %d %q", res.status, res.body)
	}
	dec := expfmt.NewDecoder(strings.NewReader(res.body), expfmt.ResponseFormat(res.header))
	var all []*dto.MetricFamily
	for {
		family := &dto.MetricFamily{}
		err := dec.Decode(family)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, family)
	}
}

func TestFederateNativeHistograms(t *testing.T) {
	f := newFederation(t)
	if stale := f.families("match[]=stale_histogram"); len(stale) > 0 {
		t.Errorf("a stale histogram is served: %v", stale)
	}
	all := f.families("match[]=latency_seconds")
	if len(all) != 1 || all[0].GetType() != dto.MetricType_HISTOGRAM || len(all[0].Metric) != 1 {
		t.Fatalf("got %v, want one histogram", all)
	}
	m, want := all[0].Metric[0], tsdbutil.GenerateTestFloatHistogram(1)
	if m.GetTimestampMs() != now.Add(-30*time.Second).UnixMilli() {
		t.Errorf("timestamp %d", m.GetTimestampMs())
	}
	h := m.GetHistogram()
	got := &histogram.FloatHistogram{
		Count: h.GetSampleCountFloat(), Sum: h.GetSampleSum(), Schema: h.GetSchema(),
		ZeroThreshold: h.GetZeroThreshold(), ZeroCount: h.GetZeroCountFloat(),
		PositiveBuckets: h.PositiveCount, NegativeBuckets: h.NegativeCount,
	}
	for _, s := range h.PositiveSpan {
		got.PositiveSpans = append(got.PositiveSpans, histogram.Span{Offset: s.GetOffset(), Length: s.GetLength()})
	}
	for _, s := range h.NegativeSpan {
		got.NegativeSpans = append(got.NegativeSpans, histogram.Span{Offset: s.GetOffset(), Length: s.GetLength()})
	}
	if !got.Equals(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestFederateMixedName checks that a name with several kinds of samples makes a family
// for each, in the order of the series.
func TestFederateMixedName(t *testing.T) {
	f := newFederation(t)
	var got []string
	for _, family := range f.families("match[]=mixed") {
		for _, m := range family.Metric {
			got = append(got, family.GetType().String()+" "+m.Label[0].GetValue())
		}
	}
	if want := "HISTOGRAM counter, GAUGE_HISTOGRAM gauge, UNTYPED number"; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, ", "), want)
	}
}

func TestFederateCompressed(t *testing.T) {
	f := newFixture(t, nil)
	res := f.do(http.MethodGet, "/federate?match[]=free_bytes", nil, http.Header{"Accept-Encoding": {"gzip"}})
	r, err := gzip.NewReader(bytes.NewReader([]byte(res.body)))
	if err != nil {
		t.Fatalf("%v in %v", err, res.header)
	}
	body, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(body), "free_bytes") {
		t.Errorf("%v, %q", err, body)
	}
}
