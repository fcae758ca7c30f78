package evaluate

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// worker evaluates series, one after the other, with scratch that it keeps for all of them. Not
// for concurrent use.
type worker struct {
	*run
	// function is nil where the last sample before each step is what counts.
	function *function
	groups   *groups
	samples  int64
	found    bool

	// points are the samples of the series at hand; counted is how many of the longest series
	// are held.
	points  []promql.FPoint
	counted int
	chunk   chunkenc.Iterator
	// row is what the series at hand gives in floats.
	row        []cell
	histograms histograms
	// unchecked is how many samples were looked at since the context was.
	unchecked int
}

// cell is a value at a step.
type cell struct {
	step int
	v    float64
}

func newWorker(r *run) *worker {
	w := &worker{run: r, groups: newGroups(r)}
	if r.Fragment.Call != nil {
		w.function = newFunction(r.Fragment)
	}
	return w
}

// partial returns what all series evaluated so far came to.
func (w *worker) partial() *pushdown.Partial {
	return &pushdown.Partial{Values: w.groups.values, Samples: w.samples, Found: w.found}
}

// evaluate evaluates a batch.
func (w *worker) evaluate(ctx context.Context, b *batch) error {
	start := 0
	for _, s := range b.series {
		if ctx.Err() != nil {
			break
		}
		if err := w.add(ctx, s.labels, b.chunks[start:s.end]); err != nil {
			return err
		}
		start = s.end
	}
	return context.Cause(ctx)
}

var errTyped = &pushdown.UnprovenError{Reason: "series that differ in type or unit may become the same"}

// add adds a series.
func (w *worker) add(ctx context.Context, ls labels.Labels, metas []chunks.Meta) error {
	f := w.Fragment
	if f.DropName && (ls.Has(model.MetricTypeLabel) || ls.Has(model.MetricUnitLabel)) {
		return errTyped
	}
	w.row, w.histograms.row = w.row[:0], w.histograms.row[:0]
	if err := w.fill(ctx, ls, metas); err != nil {
		return err
	}
	for _, m := range f.Maps {
		w.apply(m)
		if err := w.applyToHistograms(m); err != nil {
			return err
		}
	}
	if len(w.row) == 0 && len(w.histograms.row) == 0 {
		return nil
	}
	group, err := w.groups.of(ls)
	if err != nil {
		return err
	}
	for _, c := range w.row {
		if err := group.Add(f.Op, c.step, c.v); err != nil {
			return err
		}
	}
	return w.addHistograms(group)
}

// fill fills the rows with what a series gives, before it is mapped.
func (w *worker) fill(ctx context.Context, ls labels.Labels, metas []chunks.Meta) error {
	if slices.ContainsFunc(metas, ofHistograms) {
		return w.fillWithHistograms(ctx, ls, metas)
	}
	if err := w.decode(ctx, metas); err != nil {
		return err
	}
	if w.function == nil {
		w.last()
		return nil
	}
	return w.slide(ctx, ls)
}

// decode makes points the samples of chunks that lie between mint and maxt. Markers of
// staleness are left out for functions of ranges.
func (w *worker) decode(ctx context.Context, metas []chunks.Meta) error {
	w.points = w.points[:0]
	for i := range metas {
		if err := w.decodeFloats(ctx, metas[i].Chunk); err != nil {
			return err
		}
	}
	return nil
}

// decodeFloats appends the samples of one chunk, and counts them as held.
func (w *worker) decodeFloats(ctx context.Context, c chunkenc.Chunk) error {
	if e := c.Encoding(); e != chunkenc.EncXOR && e != chunkenc.EncXOR2 {
		return &pushdown.UnprovenError{Reason: fmt.Sprintf("a chunk is encoded as %s", e)}
	}
	if most := len(w.points) + c.NumSamples(); most > w.counted {
		if err := w.hold(most - w.counted); err != nil {
			return err
		}
		w.counted = most
	}
	if err := w.looked(ctx, c.NumSamples()); err != nil {
		return err
	}
	return w.decodeChunk(c)
}

// checkEvery is after how many samples the context is looked at: they take about a millisecond.
const checkEvery = 1 << 17

// looked counts samples that were looked at. It returns the cause of ctx once that is done: one
// series with long windows takes as long as many.
func (w *worker) looked(ctx context.Context, samples int) error {
	if w.unchecked += samples; w.unchecked < checkEvery {
		return nil
	}
	w.unchecked = 0
	return context.Cause(ctx)
}

var errStarted = &pushdown.UnprovenError{Reason: "samples of a counter have start timestamps"}

// decodeChunk appends the samples of one chunk.
func (w *worker) decodeChunk(c chunkenc.Chunk) (err error) {
	if c.Encoding() == chunkenc.EncXOR {
		w.points, err = appendXOR(w.points, c.Bytes(), w.mint, w.maxt, w.function != nil)
		return err
	}
	w.chunk = c.Iterator(w.chunk)
	for w.chunk.Next() != chunkenc.ValNone {
		t, v := w.chunk.At()
		if t < w.mint || w.function != nil && value.IsStaleNaN(v) {
			continue
		}
		if t > w.maxt {
			return nil
		}
		if w.function != nil && w.function.starts && w.chunk.AtST() != 0 {
			return errStarted
		}
		w.points = append(w.points, promql.FPoint{T: t, F: v})
	}
	return w.chunk.Err()
}

// last fills the row with the last sample at or before each step, unless it is too old or a
// marker of staleness.
func (w *worker) last() {
	g, next := w.Grid, 0
	for step := range w.steps {
		at := g.Start + int64(step)*g.Step - w.Fragment.Offset
		for next < len(w.points) && w.points[next].T <= at {
			next++
		}
		if next == 0 {
			continue
		}
		p := w.points[next-1]
		if p.T <= at-g.Lookback || value.IsStaleNaN(p.F) {
			continue
		}
		w.samples++
		w.row = append(w.row, cell{step, p.F})
	}
}

// slide fills the row with what the function gives for the window of each step: it excludes
// its left end, and includes its right.
func (w *worker) slide(ctx context.Context, ls labels.Labels) error {
	g, f := w.Grid, w.Fragment
	w.function.reset(ls, w.points)
	lo, hi := 0, 0
	for step := range w.steps {
		t := g.Start + int64(step)*g.Step
		right := t - f.Offset
		for hi < len(w.points) && w.points[hi].T <= right {
			hi++
		}
		for lo < hi && w.points[lo].T <= right-f.Range {
			lo++
		}
		if lo == hi {
			continue
		}
		if err := w.looked(ctx, hi-lo); err != nil {
			return err
		}
		w.samples += int64(hi - lo)
		v, ok, err := w.function.at(w.function, lo, hi, t)
		if err != nil {
			return err
		}
		if ok {
			w.row = append(w.row, cell{step, v})
		}
	}
	w.found = w.found || len(w.row) > 0
	return nil
}

// apply maps the values of the row, and drops those that are mapped to none.
func (w *worker) apply(m pushdown.Map) {
	kept := w.row[:0]
	for _, c := range w.row {
		if v, ok := m.Float(c.v); ok {
			kept = append(kept, cell{c.step, v})
		}
	}
	w.row = kept
}
