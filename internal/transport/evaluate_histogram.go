package transport

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// maxHistogramBytes bounds the histograms of one group, which travel in one message: encoded they
// take less than twice what they do in memory.
const maxHistogramBytes = maxMessageBytes / 4

func histogramToProto(step int, of pushdown.Histogram) *peerpb.FloatHistogram {
	h, c := of.Sum, of.C
	p := &peerpb.FloatHistogram{
		Step: uint32(step), CounterResetHint: uint32(h.CounterResetHint), Schema: h.Schema, ZeroThreshold: h.ZeroThreshold,
		ZeroCount: h.ZeroCount, Count: h.Count, Sum: h.Sum,
		PositiveSpans: spansToProto(h.PositiveSpans), PositiveBuckets: h.PositiveBuckets,
		NegativeSpans: spansToProto(h.NegativeSpans), NegativeBuckets: h.NegativeBuckets,
		CustomValues: h.CustomValues,
	}
	if c == nil {
		return p
	}
	all := slices.Concat([]float64{c.ZeroCount, c.Count, c.Sum}, c.PositiveBuckets, c.NegativeBuckets)
	if slices.ContainsFunc(all, func(e float64) bool { return math.Float64bits(e) != 0 }) {
		p.Errors = all
	}
	return p
}

func spansToProto(spans []histogram.Span) []int64 {
	p := make([]int64, 0, 2*len(spans))
	for _, s := range spans {
		p = append(p, int64(s.Offset), int64(s.Length))
	}
	return p
}

// histogramBytes is decodedBytes for histograms alone. Each may have what rounding took beside.
func histogramBytes(v *peerpb.Values, steps int) int64 {
	if len(v.Histograms) == 0 {
		return 0
	}
	n := int64(steps) * int64(unsafe.Sizeof(pushdown.Histogram{}))
	for _, p := range v.Histograms {
		h := histogram.FloatHistogram{
			PositiveBuckets: p.GetPositiveBuckets(), NegativeBuckets: p.GetNegativeBuckets(), CustomValues: p.GetCustomValues(),
		}
		n += 2 * int64(h.Size()+4*len(p.GetPositiveSpans())+4*len(p.GetNegativeSpans()))
	}
	return n
}

var errHistogram = errors.New("a histogram is malformed")

// setHistograms sets the histograms of values whose numbers of samples are known.
func setHistograms(v *pushdown.Values, ps []*peerpb.FloatHistogram, op parser.ItemType) error {
	if len(ps) > 0 && op != 0 && op != parser.SUM && op != parser.AVG {
		return errHistogram
	}
	next := 0
	for _, p := range ps {
		step := int(p.GetStep())
		if step < next || step >= len(v.N) || v.N[step] == 0 {
			return errSteps
		}
		next = step + 1
		h, err := histogramFromProto(p)
		if err != nil {
			return err
		}
		c, err := errorsFromProto(p, h, v.N[step] > 1)
		if err != nil {
			return err
		}
		v.SetHistogram(step, pushdown.Histogram{Sum: h, C: c})
	}
	return nil
}

// histogramFromProto refuses what arithmetic might not end for, or panic.
func histogramFromProto(p *peerpb.FloatHistogram) (*histogram.FloatHistogram, error) {
	h := &histogram.FloatHistogram{
		Schema: p.GetSchema(), ZeroThreshold: p.GetZeroThreshold(), ZeroCount: p.GetZeroCount(), Count: p.GetCount(), Sum: p.GetSum(),
		PositiveBuckets: p.GetPositiveBuckets(), NegativeBuckets: p.GetNegativeBuckets(), CustomValues: p.GetCustomValues(),
	}
	switch hint := p.GetCounterResetHint(); hint {
	case uint32(histogram.UnknownCounterReset), uint32(histogram.NotCounterReset), uint32(histogram.GaugeType):
		h.CounterResetHint = histogram.CounterResetHint(hint)
	default:
		return nil, errHistogram
	}
	if !(h.ZeroThreshold >= 0) || math.IsInf(h.ZeroThreshold, 1) {
		return nil, errHistogram
	}
	var err error
	if h.PositiveSpans, err = spansFromProto(p.GetPositiveSpans()); err != nil {
		return nil, err
	}
	if h.NegativeSpans, err = spansFromProto(p.GetNegativeSpans()); err != nil {
		return nil, err
	}
	// Validate is for what is observed. Differences may be below 0.
	layout := *h
	layout.ZeroCount, layout.Count = 0, 0
	layout.PositiveBuckets, layout.NegativeBuckets = make([]float64, len(h.PositiveBuckets)), make([]float64, len(h.NegativeBuckets))
	if err := layout.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errHistogram, err)
	}
	return h, nil
}

func spansFromProto(p []int64) ([]histogram.Span, error) {
	if len(p)%2 != 0 {
		return nil, errHistogram
	}
	var spans []histogram.Span
	for pair := range slices.Chunk(p, 2) {
		s := histogram.Span{Offset: int32(pair[0]), Length: uint32(pair[1])}
		if int64(s.Offset) != pair[0] || int64(s.Length) != pair[1] {
			return nil, errHistogram
		}
		spans = append(spans, s)
	}
	return spans, nil
}

// errorsFromProto returns what has to be added to a sum of histograms, which has the same
// buckets; nil if it is of one.
func errorsFromProto(p *peerpb.FloatHistogram, h *histogram.FloatHistogram, several bool) (*histogram.FloatHistogram, error) {
	positive, all := len(h.PositiveBuckets), p.GetErrors()
	if !several {
		if len(all) > 0 {
			return nil, errSteps
		}
		return nil, nil
	}
	if len(all) == 0 {
		all = make([]float64, 3+positive+len(h.NegativeBuckets))
	}
	if len(all) != 3+positive+len(h.NegativeBuckets) {
		return nil, errSteps
	}
	c := *h
	c.ZeroCount, c.Count, c.Sum = all[0], all[1], all[2]
	c.PositiveBuckets, c.NegativeBuckets = all[3:3+positive:3+positive], all[3+positive:]
	return &c, nil
}
