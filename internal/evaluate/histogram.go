package evaluate

import (
	"context"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// histograms is what a worker has beside floats: scratch that it keeps for all series. Functions
// of windows with histograms are the engine's own. Not for concurrent use.
type histograms struct {
	// points are the histograms of the series at hand, each in memory of its own, which those
	// of the next series take. Before[i] is what those before points[i] count as.
	points []promql.HPoint
	before []int64
	// held is what the series that count as most were held as.
	held int64
	// row is what the series at hand gives, beside floats: histograms that are the row's, or,
	// without a function and maps, those of points.
	row []histogramCell
}

// histogramCell is a histogram at a step.
type histogramCell struct {
	step int
	h    *histogram.FloatHistogram
}

// weight is how many floats the engine counts a histogram as (promql.HPoint.size).
func weight(h *histogram.FloatHistogram) int64 { return int64(h.Size()+8) / 16 }

// ofHistograms tells whether a chunk has histograms.
func ofHistograms(m chunks.Meta) bool {
	switch m.Chunk.Encoding() {
	case chunkenc.EncHistogram, chunkenc.EncFloatHistogram, chunkenc.EncHistogramST, chunkenc.EncFloatHistogramST:
		return true
	default:
		return false
	}
}

// fillWithHistograms is fill for a series that has histograms, and maybe floats beside.
func (w *worker) fillWithHistograms(ctx context.Context, ls labels.Labels, metas []chunks.Meta) error {
	hs := &w.histograms
	w.points, hs.points, hs.before = w.points[:0], hs.points[:0], append(hs.before[:0], 0)
	for i := range metas {
		var err error
		if c := metas[i].Chunk; ofHistograms(metas[i]) {
			w.chunk = c.Iterator(w.chunk)
			err = w.decodeHistogramChunk(ctx)
		} else {
			err = w.decodeFloats(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	if w.function == nil {
		w.lastOfBoth()
		return nil
	}
	return w.slideBoth(ctx, ls)
}

// decodeHistogramChunk appends the samples of the chunk that is open. All that lie before mint
// are stepped over one by one: the hints of the others depend on that. Markers of staleness are
// left out for functions of ranges.
func (w *worker) decodeHistogramChunk(ctx context.Context) error {
	hs := &w.histograms
	for w.chunk.Next() != chunkenc.ValNone {
		t := w.chunk.AtT()
		if t < w.mint {
			continue
		}
		if t > w.maxt {
			return nil
		}
		p := hs.grow()
		p.T, p.H = w.chunk.AtFloatHistogram(p.H)
		if w.function != nil && value.IsStaleNaN(p.H.Sum) {
			hs.points = hs.points[:len(hs.points)-1]
			continue
		}
		if w.function != nil && w.function.starts && w.chunk.AtST() != 0 {
			return errStarted
		}
		total := hs.before[len(hs.before)-1] + weight(p.H)
		if err := w.looked(ctx, int(weight(p.H))); err != nil {
			return err
		}
		hs.before = append(hs.before, total)
		if total > hs.held {
			if err := w.hold(int(total - hs.held)); err != nil {
				return err
			}
			hs.held = total
		}
	}
	return w.chunk.Err()
}

// grow adds a point, with memory to decode a histogram into.
func (hs *histograms) grow() *promql.HPoint {
	n := len(hs.points)
	if n < cap(hs.points) {
		hs.points = hs.points[:n+1]
	} else {
		hs.points = append(hs.points, promql.HPoint{})
	}
	p := &hs.points[n]
	if p.H == nil {
		p.H = &histogram.FloatHistogram{}
	}
	return p
}

// window is which of the floats and which of the histograms lie in the window of a step: those
// from lo to before hi.
type window struct{ loF, hiF, loH, hiH int }

// slideWindow moves a window of the samples of the series at hand to after left, up to right.
func (w *worker) slideWindow(n *window, left, right int64) {
	floats, hs := w.points, w.histograms.points
	for n.hiF < len(floats) && floats[n.hiF].T <= right {
		n.hiF++
	}
	for n.loF < n.hiF && floats[n.loF].T <= left {
		n.loF++
	}
	for n.hiH < len(hs) && hs[n.hiH].T <= right {
		n.hiH++
	}
	for n.loH < n.hiH && hs[n.loH].T <= left {
		n.loH++
	}
}

// lastOfBoth is last for floats and histograms.
func (w *worker) lastOfBoth() {
	g, hs, n := w.Grid, &w.histograms, window{}
	for step := range w.steps {
		at := g.Start + int64(step)*g.Step - w.Fragment.Offset
		w.slideWindow(&n, at-g.Lookback, at)
		switch {
		case n.loF == n.hiF && n.loH == n.hiH:
		case n.loH == n.hiH || n.loF < n.hiF && w.points[n.hiF-1].T > hs.points[n.hiH-1].T:
			if v := w.points[n.hiF-1].F; !value.IsStaleNaN(v) {
				w.samples++
				w.row = append(w.row, cell{step, v})
			}
		default:
			if h := hs.points[n.hiH-1].H; !value.IsStaleNaN(h.Sum) {
				w.samples += weight(h)
				hs.row = append(hs.row, histogramCell{step, h})
			}
		}
	}
}

// slideBoth is slide for floats and histograms. Some functions give floats for histograms.
func (w *worker) slideBoth(ctx context.Context, ls labels.Labels) error {
	g, f, hs, n := w.Grid, w.Fragment, &w.histograms, window{}
	for step := range w.steps {
		t := g.Start + int64(step)*g.Step
		w.slideWindow(&n, t-f.Offset-f.Range, t-f.Offset)
		if n.loF == n.hiF && n.loH == n.hiH {
			continue
		}
		looked := int64(n.hiF-n.loF) + hs.before[n.hiH] - hs.before[n.loH]
		if err := w.looked(ctx, int(looked)); err != nil {
			return err
		}
		w.samples += looked
		s, err := w.function.ofWindow(ls, w.points[n.loF:n.hiF:n.hiF], hs.points[n.loH:n.hiH:n.hiH], t)
		switch {
		case err != nil:
			return err
		case s == nil:
		case s.H != nil:
			hs.row = append(hs.row, histogramCell{step, s.H})
		default:
			w.row = append(w.row, cell{step, s.F})
		}
	}
	w.found = w.found || len(w.row) > 0
	return nil
}

var errMapped = &pushdown.UnprovenError{Reason: "a histogram is mapped to none"}

// kept is how many samples a group holds at a step from its first histogram on.
func kept(op parser.ItemType, h *histogram.FloatHistogram) int {
	switch op {
	case parser.COUNT, parser.GROUP:
		return 0
	case parser.SUM, parser.AVG:
		// As much again is for what rounding takes.
		return 2 * int(weight(h))
	default:
		return int(weight(h))
	}
}

// applyToHistograms maps the histograms of the row.
func (w *worker) applyToHistograms(m pushdown.Map) error {
	row := w.histograms.row
	if len(row) > 0 && m.Histogram == nil {
		return errMapped
	}
	for i := range row {
		row[i].h = m.Histogram(row[i].h)
	}
	return nil
}

var errRanked = &pushdown.UnprovenError{Reason: "histograms have no rank"}

// addHistograms adds the histograms of the row to a group.
func (w *worker) addHistograms(group *pushdown.Values) error {
	op := w.Fragment.Op
	if w.Fragment.Top > 0 && len(w.histograms.row) > 0 {
		return errRanked
	}
	borrowed := w.function == nil && len(w.Fragment.Maps) == 0
	for _, c := range w.histograms.row {
		h := c.h
		if group.N[c.step] == 0 {
			if err := w.hold(kept(op, h)); err != nil {
				return err
			}
		}
		if op == 0 && borrowed {
			h = h.Copy()
		}
		if err := group.AddHistogram(op, c.step, h); err != nil {
			return err
		}
	}
	return nil
}
