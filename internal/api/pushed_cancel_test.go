package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// unprovenEvaluator evaluates nothing; hanging does so while the context lasts.
type unprovenEvaluator struct{ hanging bool }

func (u unprovenEvaluator) Evaluate(ctx context.Context, _ *pushdown.Fragment, _ pushdown.Grid) (*pushdown.Partial, annotations.Annotations, error) {
	if u.hanging {
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}
	return nil, nil, &pushdown.UnprovenError{Reason: "a test"}
}

// blockedAll is a cluster that answers nothing while the context lasts.
type blockedAll struct{}

func (blockedAll) Querier(int64, int64) (storage.Querier, error) {
	return blockedQuerier{storage.NoopQuerier()}, nil
}

// A canceled query ends at once where its fragments are evaluated, and where they are evaluated
// as a whole because they could not be.
func TestPushedQueriesEndWithTheirContext(t *testing.T) {
	for name, evaluator := range map[string]unprovenEvaluator{"in parts": {hanging: true}, "as a whole": {}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := engineOptions()
				opts.Evaluator = evaluator
				eng, err := NewEngine(opts)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				start := time.Now()
				q, err := eng.NewRangeQuery(ctx, blockedAll{}, nil, "sum(rate(up[5m])) / count(up)", start.Add(-time.Hour), start, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				defer q.Close()
				err = q.Exec(ctx).Err
				if took := time.Since(start); took != time.Second || !errors.As(err, new(promql.ErrQueryCanceled)) && !errors.Is(err, context.Canceled) {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}
