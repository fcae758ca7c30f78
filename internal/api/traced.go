package api

import (
	"cmp"
	"context"
	"net/http"
	"strings"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/starling-tsdb/starling/internal/receive"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// startRequest begins the span of a request. Those that watch the node come again and again, and
// have none.
func (a *API) startRequest(r *http.Request) (context.Context, *tracing.Span) {
	if a.opts.Tracer == nil || watches(r.URL.Path) {
		return r.Context(), nil
	}
	method := methodName(r.Method)
	ctx, span := a.opts.Tracer.Serve(r.Context(), r.Header, method)
	if span != nil {
		span.Set(
			tracing.Text("http.request.method", method), tracing.Text("url.path", r.URL.Path),
			tracing.Text("client.address", r.RemoteAddr), tracing.Text("user_agent.original", r.UserAgent()),
			tracing.Int("http.request.body.size", max(0, r.ContentLength)),
		)
	}
	return ctx, span
}

// watches tells whether a path shows what the node is like, and nothing of what it stores.
func watches(path string) bool {
	path = strings.TrimPrefix(path, altPrefix)
	return path == "/metrics" || strings.HasPrefix(path, "/-/") || strings.HasPrefix(path, "/debug/")
}

// methodName bounds the methods, as OpenTelemetry's conventions have it.
func methodName(method string) string {
	if methodLabel(method) == "other" {
		return "_OTHER"
	}
	return method
}

func endRequest(span *tracing.Span, r *http.Request, route string, rec *recorder, aborted bool) {
	if span == nil {
		return
	}
	status := cmp.Or(rec.status, http.StatusOK)
	span.Set(tracing.Int("http.response.status_code", status), tracing.Int("http.response.body.size", rec.bytes))
	if route != unmatched {
		span.Set(tracing.Text("http.route", route))
		span.Rename(methodName(r.Method) + " " + route)
	}
	switch {
	case aborted:
		span.Fail("the answer broke off")
	case status >= http.StatusInternalServerError:
		span.Fail(http.StatusText(status))
	}
	span.End(nil)
}

func endDecode(span *tracing.Span, d *receive.Decoded, a answer) {
	switch {
	case span == nil:
		return
	case d == nil:
		span.Fail(a.message)
	default:
		span.Set(tracing.Series(len(d.Batch.Series)), tracing.Samples(d.Batch.NumSamples()), tracing.Int("starling.series.invalid", d.InvalidSeries))
	}
	span.End(nil)
}

// endQuery ends the span of a query, which its engine knows more of.
func endQuery(span *tracing.Span, q promql.Query, res *promql.Result) {
	if span == nil {
		return
	}
	told := q.Stats()
	span.Set(tracing.Text("starling.query", q.String()), tracing.Samples(told.Samples.TotalSamples),
		tracing.Seconds("starling.waiting", told.Timers.GetTimer(stats.ExecQueueTime).ElapsedTime()))
	switch v := res.Value.(type) {
	case promql.Matrix:
		span.Set(tracing.Series(len(v)))
	case promql.Vector:
		span.Set(tracing.Series(len(v)))
	}
	if pushed, ok := q.(pushedQuery); ok {
		span.Set(tracing.Int("starling.fragments", len(pushed.pushed.stats)))
		if reasons := wholeReasons(pushed.pushed.whole); reasons != "" {
			span.Set(tracing.Reason(reasons))
		}
	}
	span.End(res.Err)
}

// wholeReasons says why the series of selectors are read as they are stored.
func wholeReasons(whole []ExplainedSelector) string {
	reasons := make([]string, len(whole))
	for i, s := range whole {
		reasons[i] = s.Selector + ": " + s.Reason
	}
	return strings.Join(reasons, "; ")
}

func endFragment(span *tracing.Span, s *FragmentStats, outcome string, err error) {
	if span == nil {
		return
	}
	span.Set(tracing.Text("starling.fragment", s.Text), tracing.Pushed(outcome == "parts"), tracing.Outcome(outcome),
		tracing.Series(s.Series), tracing.Samples(s.Samples))
	if s.Reason != "" {
		span.Set(tracing.Reason(s.Reason))
	}
	span.End(err)
}
