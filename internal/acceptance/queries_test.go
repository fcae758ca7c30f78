package acceptance

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// window is the time that the questions are about, and whose samples: `$P` in a
// question becomes the matcher of one sender, `$RANGE` the length of the window.
type window struct {
	sender     string
	start, end time.Time
	// outage lies within the time in which a node was dead.
	outage time.Time
}

func (w window) fill(s string) string {
	return strings.NewReplacer(
		"$P", fmt.Sprintf("prometheus=%q", w.sender),
		"$RANGE", fmt.Sprintf("%ds", int(w.end.Sub(w.start).Seconds())),
		"$OUTAGE", fmt.Sprint(w.outage.Unix()),
	).Replace(s)
}

// question is asked of a Prometheus and of every node, and has one right answer.
type question struct {
	// path is the endpoint under /api/v1, query_range for PromQL over the window.
	path string
	// expr is PromQL for query and query_range, and match[] or query elsewhere.
	expr string
	// at moves an instant query from the end of the window into the outage.
	atOutage bool
	// sums are of floating point numbers: their last digits depend on the order of
	// adding. Everything else has to be equal to the bit.
	sums bool
	// ordered results keep their order: sort and topk of an instant query.
	ordered bool
	// empty marks a question whose right answer is empty; all others have to find data,
	// or they would compare nothing with nothing.
	empty bool
}

// sumTolerance is relative. Sums themselves are compensated and differ in the last place
// only, but what is computed from them can lose some digits.
const sumTolerance = 1e-10

func (q question) url(base string, w window) string {
	v := url.Values{}
	start, end := seconds(w.start), seconds(w.end)
	switch q.path {
	case "query":
		v.Set("query", w.fill(q.expr))
		v.Set("time", end)
		if q.atOutage {
			v.Set("time", seconds(w.outage))
		}
	case "query_range":
		v.Set("query", w.fill(q.expr))
		v.Set("start", start)
		v.Set("end", end)
		v.Set("step", "5s")
	case "query_exemplars":
		v.Set("query", w.fill(q.expr))
		v.Set("start", start)
		v.Set("end", end)
	default:
		v.Set("match[]", w.fill(q.expr))
		v.Set("start", start)
		v.Set("end", end)
	}
	return base + "/api/v1/" + q.path + "?" + v.Encode()
}

func seconds(t time.Time) string { return fmt.Sprintf("%.3f", float64(t.UnixMilli())/1000) }

// questions cover the API. None depends on which of several equal values topk keeps: that
// is for the order of series in a store to decide. The first ones return every sample of the window as it was
// stored: nothing lost, nothing invented, nothing twice.
func questions() []question {
	return slices.Concat(storedSamples(), instantQuestions(), rangeQuestions(), labelQuestions(), []question{
		{path: "query", expr: `sum by (`},
		{path: "query", expr: `{__name__=~".*"}`},
		{path: "query", expr: `nowhere_to_be_found{$P}`, empty: true},
		{path: "query_range", expr: `{$P}[1m]`},
	})
}

func storedSamples() []question {
	return []question{
		{path: "query", expr: `{$P,job="workload"}[$RANGE]`},
		{path: "query", expr: `{$P,job="prometheus"}[$RANGE]`},
		{path: "query", expr: `{$P,job="starling"}[$RANGE]`},
		{path: "query", expr: `count_over_time({$P}[$RANGE])`},
	}
}

func instantQuestions() []question {
	return []question{
		{path: "query", expr: `{$P}`},
		{path: "query", expr: `{$P}`, atOutage: true},
		{path: "query", expr: `timestamp({$P,job="workload"})`},
		{path: "query", expr: `up{$P} == 0`, atOutage: true},
		{path: "query", expr: `{__name__="workload.sea.temperature",$P}`},
		{path: "query", expr: `workload_special_value{$P}`},
		{path: "query", expr: `workload_requests_total{$P} offset 7s`},
		{path: "query", expr: `workload_requests_total{$P} @ $OUTAGE`},
		{path: "query", expr: `sort_desc(workload_request_duration_seconds_sum{$P})`, ordered: true},
		{path: "query", expr: `topk(3, workload_stamped{$P})`, ordered: true},
		{path: "query", expr: `bottomk(3, workload_stamped{$P})`, ordered: true},
		{path: "query", expr: `count_values("value", workload_stamped{$P})`},
		{path: "query", expr: `scalar(workload_stamped{$P,n="1"})`},
		{path: "query", expr: `absent(nowhere_to_be_found{$P})`},
		{path: "query", expr: `absent_over_time(workload_blinking{$P}[$RANGE])`, empty: true},
		{path: "query", expr: `count by (job) (count by (__name__, job) ({$P}))`},
		{path: "query", expr: `rate(up{$P}[20s])`},
		{path: "query", expr: `rate(workload_request_duration_seconds{$P}[20s])`},
	}
}

func rangeQuestions() []question {
	return []question{
		{path: "query_range", expr: `workload_requests_total{$P}`},
		{path: "query_range", expr: `workload_pod_start_seconds{$P}`},
		{path: "query_range", expr: `workload_blinking{$P}`},
		{path: "query_range", expr: `workload_request_duration_seconds{$P,route="/route/1"}`},
		{path: "query_range", expr: `rate(workload_requests_total{$P}[10s])`},
		{path: "query_range", expr: `irate(workload_requests_total{$P}[10s])`},
		{path: "query_range", expr: `increase(workload_resets_total{$P}[15s])`},
		{path: "query_range", expr: `resets(workload_resets_total{$P}[$RANGE])`},
		{path: "query_range", expr: `changes(workload_blinking{$P}[20s])`},
		{path: "query_range", expr: `delta(workload_inflight_requests{$P}[10s])`},
		{path: "query_range", expr: `deriv(workload_inflight_requests{$P}[10s])`},
		{path: "query_range", expr: `predict_linear(workload_inflight_requests{$P}[10s], 60)`},
		{path: "query_range", expr: `avg_over_time(workload_inflight_requests{$P}[10s])`},
		{path: "query_range", expr: `sum_over_time(workload_special_value{$P,kind!~"max|denormal"}[10s])`},
		{path: "query_range", expr: `quantile_over_time(0.9, workload_inflight_requests{$P}[10s])`},
		{path: "query_range", expr: `stddev_over_time(workload_inflight_requests{$P}[10s])`},
		{path: "query_range", expr: `max_over_time(rate(workload_requests_total{$P}[5s])[20s:2s])`},
		{path: "query_range", expr: `sum by (route) (rate(workload_requests_total{$P}[10s]))`, sums: true},
		{path: "query_range", expr: `sum without (code, method) (workload_requests_total{$P})`, sums: true},
		{path: "query_range", expr: `avg by (code) (rate(workload_requests_total{$P}[10s]))`, sums: true},
		{path: "query_range", expr: `stddev by (job) (scrape_duration_seconds{$P})`, sums: true},
		{path: "query_range", expr: `quantile by (code) (0.5, workload_requests_total{$P})`},
		{path: "query_range", expr: `max by (job, instance) (scrape_samples_scraped{$P})`},
		{path: "query_range", expr: `topk(5, workload_request_duration_seconds_sum{$P})`},
		{path: "query_range", expr: `count({$P}) by (job)`},
		{path: "query_range", expr: `group by (prometheus) ({__name__=~"workload_.+",$P})`},
		{path: "query_range", expr: `histogram_quantile(0.9, sum by (le, route) (rate(workload_request_duration_seconds_bucket{$P}[10s])))`, sums: true},
		{path: "query_range", expr: `histogram_quantile(0.9, sum by (route) (rate(workload_request_duration_seconds{$P}[10s])))`, sums: true},
		{path: "query_range", expr: `sum(rate(workload_request_duration_seconds{$P}[10s]))`, sums: true},
		{path: "query_range", expr: `histogram_avg(workload_request_duration_seconds{$P})`},
		{path: "query_range", expr: `histogram_fraction(0, 0.1, workload_request_duration_seconds{$P})`},
		{path: "query_range", expr: `workload_request_duration_seconds_sum{$P} / workload_request_duration_seconds_count{$P}`},
		{path: "query_range", expr: `sum(rate(workload_requests_total{$P,code=~"5.."}[10s])) / sum(rate(workload_requests_total{$P}[10s]))`, sums: true},
		{path: "query_range", expr: `workload_requests_total{$P} / on (route) group_left workload_inflight_requests{$P}`},
		{path: "query_range", expr: `workload_inflight_requests{$P} > 25 unless on (route) workload_requests_total{$P,code="503"} > 20`},
		{path: "query_range", expr: `label_replace(workload_inflight_requests{$P}, "n", "$$1", "route", "/route/(.*)")`},
		{path: "query_range", expr: `clamp_max(workload_stamped{$P}, 100) + time()`},
	}
}

func labelQuestions() []question {
	return []question{
		{path: "labels", expr: `{$P}`},
		{path: "label/__name__/values", expr: `{$P}`},
		{path: "label/pod/values", expr: `{$P}`},
		{path: "label/instance/values", expr: `{$P,job="starling"}`},
		{path: "series", expr: `{$P,job="workload"}`},
		{path: "series", expr: `{$P,__name__=~"go_.+"}`},
		{path: "query_exemplars", expr: `workload_requests_total{$P}`},
		{path: "query_exemplars", expr: `rate(workload_request_duration_seconds_bucket{$P}[1m])`},
		{path: "query_exemplars", expr: `workload_request_duration_seconds{$P}`},
	}
}

// isPromQL tells what a Prometheus that reads from a remote storage can answer from it.
func (q question) isPromQL() bool {
	return strings.HasPrefix(q.path, "query") && q.path != "query_exemplars"
}

// oracle is what the right answers come from; each is asked for once.
type oracle struct {
	base    string
	window  window
	answers map[question][]byte
}

func (o *oracle) answer(ctx context.Context, t *testing.T, q question) []byte {
	t.Helper()
	if a, ok := o.answers[q]; ok {
		return a
	}
	_, body, err := fetch(ctx, q.url(o.base, o.window))
	if err != nil {
		t.Fatalf("asking Prometheus: %v", err)
	}
	if isEmpty := strings.Contains(string(body), `"result":[]`) || strings.HasSuffix(strings.TrimSpace(string(body)), `"data":[]}`); isEmpty != q.empty {
		t.Errorf("Prometheus's own answer is empty: %v, want %v; the question compares nothing: %.300s", isEmpty, q.empty, body)
	}
	o.answers[q] = body
	return body
}

// agree asks a node, or a Prometheus that reads from it, what the oracle was asked.
func agree(t *testing.T, o *oracle, name, base string, ask func(question) bool) {
	t.Helper()
	for _, q := range questions() {
		if !ask(q) {
			continue
		}
		expr := o.window.fill(q.expr)
		t.Run(name+"/"+q.path+"/"+expr, func(t *testing.T) {
			want := o.answer(t.Context(), t, q)
			_, got, err := fetch(t.Context(), q.url(base, o.window))
			if err != nil {
				t.Fatal(err)
			}
			var tolerance float64
			if q.sums {
				tolerance = sumTolerance
			}
			if d := diff(want, got, q.ordered, tolerance); d != "" {
				t.Errorf("%s %s: not what Prometheus answers:\n%s", q.path, expr, d)
			}
		})
	}
}
