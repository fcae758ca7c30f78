package query

import (
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/series"
)

// LabelNames implements storage.LabelQuerier.
func (r *reader) LabelNames(ctx context.Context, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return r.labels(ctx, "label_names", "", hints, matchers)
}

// LabelValues implements storage.LabelQuerier.
func (r *reader) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	if name == "" {
		return nil, nil, nil // No series has it, and names are asked for like this.
	}
	return r.labels(ctx, "label_values", name, hints, matchers)
}

// labels asks all nodes and returns what any of them knows, in order. Nothing is proven before:
// each node answers from the postings of all that it holds, and when the answers are complete one
// of them has every acknowledged series. Each node may stop at the limit, since the first
// strings of all are among the first of each. As with Prometheus's own queriers the caller asks for
// one more than it wants and warns if it gets it.
func (r *reader) labels(ctx context.Context, operation, name string, hints *storage.LabelHints, matchers []*labels.Matcher) ([]string, annotations.Annotations, error) {
	q := series.LabelQuery{Name: name, Mint: max(r.mint, r.f.opts.Horizon()), Maxt: r.maxt, Matchers: slices.Clone(matchers)}
	if hints != nil {
		q.Limit = max(0, hints.Limit)
	}
	if q.Mint > q.Maxt {
		return nil, nil, nil // It is expired.
	}
	g, err := gather(ctx, r.f, r.budget, operation, func(ctx context.Context, n Node, sh *share) ([]string, error) {
		return n.Source.Labels(ctx, q, sh.take)
	})
	if err != nil {
		return nil, nil, err
	}
	longest := 0
	for _, a := range g.answers {
		longest = max(longest, len(a))
	}
	all := make([]string, 0, longest)
	merge.Strings(g.answers, func(s string) bool {
		if q.Limit > 0 && len(all) == q.Limit {
			return false
		}
		if len(all)%lookEvery == 0 && ctx.Err() != nil {
			err = ctx.Err()
			return false
		}
		all = append(all, s)
		return true
	})
	return all, g.warnings, err
}

// lookEvery is after how many strings the context is looked at.
const lookEvery = 1 << 12
