package query

import (
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// reader is what queriers of samples and of chunks have in common: a range, a limit to
// what they hold, and a way to end everything they began.
type reader struct {
	f          *Fanout
	mint, maxt int64
	budget     *budget
	// closed ends the selects that are still running when the querier is closed. It
	// carries nothing else.
	closed context.Context
	close  context.CancelFunc
}

func newReader(f *Fanout, mint, maxt int64) reader {
	r := reader{f: f, mint: mint, maxt: maxt, budget: f.newBudget()}
	r.closed, r.close = context.WithCancel(context.Background())
	return r
}

// Close implements storage.LabelQuerier. It cancels what is running and does not wait.
func (r *reader) Close() error {
	r.close()
	return nil
}

// pending is a select under way. The fields are set when done is closed.
type pending struct {
	done     chan struct{}
	answers  []answer
	warnings annotations.Annotations
	err      error
}

// start begins a select at once, so that the selectors of a query are read in parallel:
// the engine asks for all of them before it iterates over the first.
func (r *reader) start(ctx context.Context, req SelectRequest) *pending {
	ctx, cancel := context.WithCancel(ctx)
	unlink := context.AfterFunc(r.closed, cancel)
	p := &pending{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer cancel()
		defer unlink()
		g, err := r.f.selected(ctx, r.budget, req)
		p.answers, p.warnings, p.err = g.answers, g.warnings, err
		for _, a := range g.answers {
			p.warnings.Merge(a.warnings)
		}
	}()
	return p
}

// request makes a select's request. Without hints the range is that of the querier.
func (r *reader) request(hints *storage.SelectHints, matchers []*labels.Matcher) SelectRequest {
	own := storage.SelectHints{Start: r.mint, End: r.maxt}
	if hints != nil {
		own = *hints
		// The reads run on while the engine sorts its own.
		own.Grouping = slices.Clone(hints.Grouping)
		own.ProjectionLabels = slices.Clone(hints.ProjectionLabels)
	}
	return SelectRequest{Mint: r.mint, Maxt: r.maxt, Hints: &own, Matchers: matchers}
}

// LabelNames implements storage.LabelQuerier.
func (r *reader) LabelNames(ctx context.Context, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return r.union(ctx, "label_names", hints, func(ctx context.Context, s Source, own *storage.LabelHints) ([]string, annotations.Annotations, error) {
		return s.LabelNames(ctx, r.mint, r.maxt, own, slices.Clone(matchers)...)
	})
}

// LabelValues implements storage.LabelQuerier.
func (r *reader) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return r.union(ctx, "label_values", hints, func(ctx context.Context, s Source, own *storage.LabelHints) ([]string, annotations.Annotations, error) {
		return s.LabelValues(ctx, name, r.mint, r.maxt, own, slices.Clone(matchers)...)
	})
}

// union asks all nodes for strings and returns those that any node has, sorted. Each
// node may stop at the limit, since the first strings of all are among the first of
// each. As with Prometheus's own queriers the caller asks for one more than it wants
// and warns if it gets it.
func (r *reader) union(ctx context.Context, operation string, hints *storage.LabelHints,
	ask func(context.Context, Source, *storage.LabelHints) ([]string, annotations.Annotations, error),
) ([]string, annotations.Annotations, error) {
	var limit storage.LabelHints
	if hints != nil {
		limit = *hints
	}
	type found struct {
		strings  []string
		warnings annotations.Annotations
	}
	g, err := gather(ctx, r.f, r.budget, operation, func(ctx context.Context, n Node, sh *share) (found, error) {
		own := limit
		strings, warnings, err := ask(ctx, n.Source, &own)
		if err != nil {
			return found{}, err
		}
		var size int64
		for _, s := range strings {
			size += int64(len(s)) + stringOverhead
		}
		return found{strings, warnings}, sh.take(size)
	})
	if err != nil {
		return nil, nil, err
	}
	var all []string
	for _, a := range g.answers {
		all = append(all, a.strings...)
		g.warnings.Merge(a.warnings)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if limit.Limit > 0 && len(all) > limit.Limit {
		all = all[:limit.Limit]
	}
	return all, g.warnings, nil
}

// querier reads samples.
type querier struct{ reader }

// Select implements storage.Querier. The result is sorted whatever sortSeries says.
//
// Sources are asked for whole chunks, since cutting samples off a chunk means decoding
// and encoding it; what is out of range is skipped here.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	req := q.request(hints, matchers)
	set := &seriesSet{mint: req.Hints.Start, maxt: req.Hints.End}
	if req.Hints.DisableTrimming {
		set.mint, set.maxt = minTime, maxTime
	}
	req.Hints.DisableTrimming = true
	set.selected = selected{f: q.f, pending: q.start(ctx, req), limit: req.Hints.Limit}
	return set
}

// chunkQuerier reads chunks.
type chunkQuerier struct{ reader }

// Select implements storage.ChunkQuerier. The result is sorted whatever sortSeries says.
func (q *chunkQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.ChunkSeriesSet {
	req := q.request(hints, matchers)
	return &chunkSeriesSet{selected{f: q.f, pending: q.start(ctx, req), limit: req.Hints.Limit}}
}
