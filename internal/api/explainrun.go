package api

import (
	"bytes"
	"context"
	"maps"
	"net/http"

	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"
)

// run is an answer to a query of which statistics alone are wanted. It is an http.ResponseWriter
// that keeps no more of the answer than what is to be said of a failure.
type run struct {
	header http.Header
	status int
	body   bytes.Buffer
	// stats are nil if there is no answer; warnings are those of the answer.
	stats    stats.QueryStats
	warnings annotations.Annotations
}

type runKey struct{}

// runOf returns the run that a query is for, nil if its answer is wanted.
func runOf(ctx context.Context) *run {
	r, _ := ctx.Value(runKey{}).(*run)
	return r
}

// runQuery has a request for an explanation answered as one for a query: of a range if it has a step
// or a start, else of an instant.
func runQuery(queries http.Handler, r *http.Request) *run {
	run := &run{header: http.Header{}}
	ctx := context.WithValue(r.Context(), runKey{}, run)
	ctx = context.WithValue(ctx, routeKey{}, new(string)) // It counts as what it came as.
	query := r.Clone(ctx)
	query.Header.Del("Accept-Encoding")
	query.URL.Path = "/query"
	if r.FormValue("step") != "" || r.FormValue("start") != "" {
		query.URL.Path = "/query_range"
	}
	queries.ServeHTTP(run, query)
	if run.status >= http.StatusBadRequest {
		run.stats = nil
	}
	return run
}

// Header implements http.ResponseWriter.
func (r *run) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *run) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
}

// Write implements http.ResponseWriter.
func (r *run) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.status < http.StatusBadRequest {
		return len(p), nil
	}
	return r.body.Write(p)
}

// forward answers what the query was answered.
func (r *run) forward(w http.ResponseWriter) {
	maps.Copy(w.Header(), r.header)
	w.WriteHeader(max(r.status, http.StatusOK))
	// The only error is that the client has gone.
	_, _ = w.Write(r.body.Bytes())
}
