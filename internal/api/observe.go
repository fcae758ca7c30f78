package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	size     *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_http_requests_total",
			Help: "HTTP requests by route, method and status; the code of an answer that broke off after its header is 'aborted'.",
		}, []string{"handler", "code", "method"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "starling_http_request_duration_seconds",
			Help:                            "Time from the header of a request to the end of its answer.",
			Buckets:                         []float64{.005, .025, .1, .25, .5, 1, 3, 8, 20, 60, 120},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"handler"}),
		size: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "starling_http_response_size_bytes",
			Help:    "Size of the bodies of answers as sent.",
			Buckets: prometheus.ExponentialBuckets(100, 10, 8),
		}, []string{"handler"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.duration, m.size)
	}
	return m
}

// unmatched is the route of requests that no handler is for.
const unmatched = "unmatched"

// routeKey leads to a *string in a request's context: the route that took it.
type routeKey struct{}

// named makes requests that next takes count under route, which must be a pattern and
// not a path: patterns are few.
func named(route string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if name, ok := r.Context().Value(routeKey{}).(*string); ok {
			*name = route
		}
		next(w, r)
	}
}

// observed counts requests, and turns panics into a log entry and status 500.
func (a *API) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, begin := unmatched, time.Now()
		rec := &recorder{ResponseWriter: w}
		ctx, span := a.startRequest(r)
		defer func() {
			aborted := a.recovered(rec, r, recover())
			a.metrics.observe(route, r.Method, rec, aborted, time.Since(begin))
			endRequest(span, r, route, rec, aborted)
			if aborted {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(rec, r.WithContext(context.WithValue(ctx, routeKey{}, &route)))
	})
}

// recovered deals with what a handler panicked with, nil if it did not. It returns
// whether the connection has to be broken.
func (a *API) recovered(rec *recorder, r *http.Request, reason any) (aborted bool) {
	if reason == nil {
		return false
	}
	if err, ok := reason.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		return true
	}
	a.logger.Error("panic in a handler", slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.String("client", r.RemoteAddr), slog.Any("panic", reason), slog.String("stack", string(debug.Stack())))
	if rec.status != 0 {
		return true
	}
	resetHeader(rec.Header())
	a.answerError(rec, errInternal)
	return false
}

// errInternal is all that a client hears of a panic; the rest is in the log.
var errInternal = errors.New("internal error, see the log of the node")

func (m *metrics) observe(route, method string, rec *recorder, aborted bool, took time.Duration) {
	code := "aborted"
	if !aborted {
		code = strconv.Itoa(max(rec.status, http.StatusOK))
	}
	m.requests.WithLabelValues(route, code, methodLabel(method)).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
	m.size.WithLabelValues(route).Observe(float64(rec.bytes))
}

// methodLabel bounds the methods, since a client can invent any.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions:
		return strings.ToLower(method)
	}
	return "other"
}

// recorder remembers the status and the size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (w *recorder) Flush() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	// The only error is that the connection below cannot flush: it will at the end.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap implements the contract of http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
