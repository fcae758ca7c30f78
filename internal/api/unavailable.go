package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/tracing"
)

// Unavailable is implemented by errors which mean that an answer would be incomplete:
// not enough owners of some range answered. Asking again later may work, so they become
// status 503. They are recognised through any wrapping.
type Unavailable interface {
	error
	Unavailable() bool
}

func isUnavailable(err error) bool {
	var u Unavailable
	return errors.As(err, &u) && u.Unavailable()
}

// unavailableError makes Prometheus's handlers report an error with the type
// "unavailable": they do so for tsdb.ErrNotReady, wherever in the chain it is.
type unavailableError struct{ error }

func (e unavailableError) Unwrap() error        { return e.error }
func (e unavailableError) Is(target error) bool { return target == tsdb.ErrNotReady }

// timeoutError makes Prometheus's handlers report an expired deadline with the type
// "timeout", also where it expired in a peer and not in the engine.
type timeoutError struct{ error }

func (e timeoutError) Unwrap() []error {
	return []error{e.error, promql.ErrQueryTimeout("reading from the cluster")}
}

// classified returns err so that Prometheus's handlers give it the right type. Nil and
// what needs no other type come back as they are.
func classified(err error) error {
	switch {
	case err == nil || errors.Is(err, tsdb.ErrNotReady):
		return err
	case isUnavailable(err):
		return unavailableError{err}
	case errors.Is(err, context.DeadlineExceeded):
		return timeoutError{err}
	}
	return err
}

// retryable returns the status and the error type of err, if err says nothing about the
// request itself: incomplete, too slow, or no longer wanted.
func retryable(err error) (status int, errorType string, ok bool) {
	switch {
	case errors.Is(err, tsdb.ErrNotReady) || isUnavailable(err):
		return http.StatusServiceUnavailable, "unavailable", true
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "timeout", true
	case errors.Is(err, context.Canceled):
		return statusClientGone, "canceled", true
	}
	return 0, "", false
}

// clusterEngine hands the cluster's queryable to the query engine as it is, without the layer
// that other reads need, since that would cost something for each series; the errors
// are classified where they leave the engine.
type clusterEngine struct {
	promql.QueryEngine
	queryable storage.Queryable
}

func (e clusterEngine) NewInstantQuery(ctx context.Context, _ storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	q, err := e.QueryEngine.NewInstantQuery(ctx, e.queryable, opts, qs, ts)
	return classifiedQuery(q, err)
}

func (e clusterEngine) NewRangeQuery(ctx context.Context, _ storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, interval time.Duration) (promql.Query, error) {
	q, err := e.QueryEngine.NewRangeQuery(ctx, e.queryable, opts, qs, start, end, interval)
	return classifiedQuery(q, err)
}

type query struct{ promql.Query }

func classifiedQuery(q promql.Query, err error) (promql.Query, error) {
	if err != nil {
		return nil, classified(err)
	}
	return query{q}, nil
}

func (q query) Exec(ctx context.Context) *promql.Result {
	ctx, span := tracing.Start(ctx, "query")
	res := q.Query.Exec(ctx)
	endQuery(span, q.Query, res)
	res.Err = classified(res.Err)
	if warning := wantedStats(ctx).warning(); warning != nil && res.Err == nil {
		res.Warnings = res.Warnings.Add(warning)
	}
	if run := runOf(ctx); run != nil {
		run.warnings = res.Warnings
	}
	return res
}
