package query

import (
	"cmp"
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/merge"
)

// exemplarQuerier implements storage.ExemplarQuerier.
type exemplarQuerier struct {
	f   *Fanout
	ctx context.Context
}

// Select implements storage.ExemplarQuerier: the union of what the nodes hold, by series
// in label order and by timestamp. The result has no place for a warning, so what a
// partial answer lacks is noted in the context only.
func (q *exemplarQuerier) Select(start, end int64, matchers ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	g, err := gather(q.ctx, q.f, q.f.newBudget(), "exemplars", func(ctx context.Context, n Node, _ *share) ([]exemplar.QueryResult, error) {
		own := make([][]*labels.Matcher, len(matchers))
		for i := range matchers {
			own[i] = slices.Clone(matchers[i])
		}
		return n.Source.Exemplars(ctx, start, end, own)
	})
	if err != nil {
		return nil, err
	}
	return mergeExemplars(g.answers), nil
}

func mergeExemplars(answers [][]exemplar.QueryResult) []exemplar.QueryResult {
	all := slices.Concat(answers...)
	slices.SortStableFunc(all, func(a, b exemplar.QueryResult) int {
		return labels.Compare(a.SeriesLabels, b.SeriesLabels)
	})
	merged := []exemplar.QueryResult{}
	for len(all) > 0 {
		series := exemplar.QueryResult{SeriesLabels: all[0].SeriesLabels}
		for len(all) > 0 && labels.Equal(all[0].SeriesLabels, series.SeriesLabels) {
			series.Exemplars = append(series.Exemplars, all[0].Exemplars...)
			all = all[1:]
		}
		slices.SortFunc(series.Exemplars, compareExemplars)
		series.Exemplars = slices.CompactFunc(series.Exemplars, func(a, b exemplar.Exemplar) bool {
			return compareExemplars(a, b) == 0
		})
		merged = append(merged, series)
	}
	return merged
}

// compareExemplars orders exemplars of one series. Whether the sender gave the timestamp
// is no part of it.
func compareExemplars(a, b exemplar.Exemplar) int {
	return cmp.Or(
		cmp.Compare(a.Ts, b.Ts),
		merge.CompareFloats(a.Value, b.Value),
		labels.Compare(a.Labels, b.Labels),
	)
}
