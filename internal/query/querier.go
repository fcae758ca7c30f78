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
