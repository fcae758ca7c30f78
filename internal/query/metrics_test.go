package query

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/promql"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
)

func TestResult(t *testing.T) {
	for _, tc := range []struct {
		err     error
		partial bool
		want    string
	}{
		{want: "complete"},
		{partial: true, want: "partial"},
		{err: &IncompleteError{}, want: "incomplete"},
		{err: &TooManyBytesError{Limit: 1}, want: "limit"},
		{err: promql.ErrTooManySamples("query"), want: "limit"},
		{err: &series.TooManyLabelsError{Limit: 1}, want: "limit"},
		{err: errNotAlone, want: "unproven"},
		{err: &pushdown.UnprovenError{Reason: "histograms"}, want: "unproven"},
		{err: context.Canceled, want: "canceled"},
		{err: context.DeadlineExceeded, want: "canceled"},
		{err: errors.New("the view is not there"), want: "error"},
	} {
		err := tc.err
		if err != nil {
			err = fmt.Errorf("wrapped: %w", err)
		}
		if got := result(err, tc.partial); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.err, got, tc.want)
		}
	}
}
