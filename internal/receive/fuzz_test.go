package receive

import (
	"context"
	"math"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/starling-tsdb/starling/internal/series"
)

// Each fuzz target compares with the generated decoder, which is the authority on what
// a body says: nothing may be invented, and what is missing must be counted as lost.

func FuzzRemoteWrite1(f *testing.F) {
	for _, req := range []*prompb.WriteRequest{
		{},
		{
			Timeseries: []prompb.TimeSeries{
				{
					Labels:     pairs("__name__", "m", "a", "1"),
					Samples:    []prompb.Sample{{Value: 1, Timestamp: 2}, {Value: math.NaN()}},
					Exemplars:  []prompb.Exemplar{{Labels: pairs("t", "x"), Value: 3, Timestamp: 4}},
					Histograms: []prompb.Histogram{prompb.FromIntHistogram(5, intHistogram()), prompb.FromFloatHistogram(6, customHistogram().ToFloat(nil))},
				},
				{Labels: pairs("b", "", "__name__", "m", "a", "\xff"), Samples: make([]prompb.Sample, 2)},
			},
			Metadata: []prompb.MetricMetadata{{Type: 3, MetricFamilyName: "f", Help: "h", Unit: "u"}},
		},
	} {
		b, err := req.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	// A sample of -0 at 5, with what only 2.0 takes for a start timestamp.
	f.Add(wrap([]byte("\x0a\x0d\x0a\x08__name__\x12\x01m\x12\x0d\x09\x00\x00\x00\x00\x00\x00\x00\x80\x10\x05\x18\x07"), 1))
	d, wide, known := newTestDecoder(f), newTestDecoder(f, withoutLimits), newTestDecoder(f, remembering())
	f.Fuzz(func(t *testing.T, msg []byte) {
		compareWrite1(t, wide, msg)
		compareKnown(t, (*Decoder).RemoteWrite1, d, known, msg)
		out, err := d.RemoteWrite1(snappy.Encode(nil, msg), nil)
		if err != nil {
			return
		}
		checkCanonical(t, out)
		var req prompb.WriteRequest
		if err := req.Unmarshal(msg); err != nil {
			// The generated decoder also reads what an invalid series holds.
			if len(out.Invalid) == 0 {
				t.Fatalf("decoded %+v of a body that is malformed: %v", out, err)
			}
			return
		}
		var sent series.Written
		want := map[string][]series.Sample{}
		for i := range req.Timeseries {
			ts := &req.Timeseries[i]
			sent.Samples += len(ts.Samples)
			sent.Histograms += len(ts.Histograms)
			sent.Exemplars += len(ts.Exemplars)
			b := labels.NewScratchBuilder(0)
			key := ts.ToLabels(&b, nil).WithoutEmpty().String()
			for _, s := range ts.Samples {
				want[key] = append(want[key], series.Sample{T: s.Timestamp, V: s.Value})
			}
			for _, h := range ts.Histograms {
				want[key] = append(want[key], series.Sample{T: h.Timestamp, H: h.ToIntHistogram(), FH: floatHistogram(h)})
			}
		}
		checkCounts(t, out, sent)
		checkSent(t, out, want)
	})
}

func FuzzRemoteWrite2(f *testing.F) {
	h := writev2.FromIntHistogram(1, 5, intHistogram())
	req := request2(writev2.TimeSeries{
		Samples:    []writev2.Sample{{Value: 1, Timestamp: 2, StartTimestamp: 1}},
		Histograms: []writev2.Histogram{h},
		Exemplars:  []writev2.Exemplar{{LabelsRefs: []uint32{3, 4}, Value: 1, Timestamp: 2}},
		Metadata:   writev2.Metadata{Type: 1, HelpRef: 2, UnitRef: 3},
	}, "__name__", "m", "a", "1")
	req.Timeseries = append(req.Timeseries, writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 9}, Samples: make([]writev2.Sample, 2)})
	b, err := req.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	d, wide, known := newTestDecoder(f), newTestDecoder(f, withoutLimits), newTestDecoder(f, remembering())
	f.Fuzz(func(t *testing.T, msg []byte) {
		compareWrite2(t, wide, msg)
		compareKnown(t, (*Decoder).RemoteWrite2, d, known, msg)
		out, err := d.RemoteWrite2(snappy.Encode(nil, msg), nil)
		if err != nil {
			return
		}
		checkCanonical(t, out)
		var req writev2.Request
		if err := req.Unmarshal(msg); err != nil {
			if len(out.Invalid) == 0 {
				t.Fatalf("decoded %+v of a body that is malformed: %v", out, err)
			}
			return
		}
		var sent series.Written
		want := map[string][]series.Sample{}
		for i := range req.Timeseries {
			ts := &req.Timeseries[i]
			sent.Samples += len(ts.Samples)
			sent.Histograms += len(ts.Histograms)
			sent.Exemplars += len(ts.Exemplars)
			b := labels.NewScratchBuilder(0)
			ls, err := ts.ToLabels(&b, req.Symbols)
			if err != nil {
				continue
			}
			key := ls.WithoutEmpty().String()
			for _, s := range ts.Samples {
				want[key] = append(want[key], series.Sample{T: s.Timestamp, ST: s.StartTimestamp, V: s.Value})
			}
			for _, h := range ts.Histograms {
				s := series.Sample{T: h.Timestamp, ST: h.StartTimestamp}
				if s.H = h.ToIntHistogram(); s.H == nil {
					s.FH = h.ToFloatHistogram()
				}
				want[key] = append(want[key], s)
			}
		}
		checkCounts(t, out, sent)
		checkSent(t, out, want)
	})
}

func FuzzOTLP(f *testing.F) {
	r := newOTLP()
	r.gauge("m", "a", "b").At(0).SetTimestamp(0)
	h := r.metric("latency").SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p := h.DataPoints().AppendEmpty()
	p.SetTimestamp(at)
	p.ExplicitBounds().FromRaw([]float64{1, 2})
	p.BucketCounts().FromRaw([]uint64{1, 2, 3})
	x := r.metric("size").SetEmptyExponentialHistogram()
	x.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	xp := x.DataPoints().AppendEmpty()
	xp.SetTimestamp(at)
	xp.SetScale(20)
	xp.SetCount(3)
	xp.Positive().SetOffset(-7)
	xp.Positive().BucketCounts().FromRaw([]uint64{1, 0, 2})
	proto, err := r.MarshalProto()
	if err != nil {
		f.Fatal(err)
	}
	json, err := r.MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proto, false, false)
	f.Add(json, true, true)
	classic := newTestDecoder(f)
	custom := newTestDecoder(f, func(o *Options) { o.OTLP.ConvertHistogramsToNHCB = true })
	f.Fuzz(func(t *testing.T, msg []byte, json, nhcb bool) {
		d, contentType := classic, OTLPProto
		if nhcb {
			d = custom
		}
		if json {
			contentType = OTLPJSON
		}
		out, err := d.OTLP(context.Background(), msg, contentType, "", nil)
		if err != nil {
			if KindOf(err) == 0 {
				t.Errorf("an error without a kind: %v", err)
			}
			return
		}
		checkCanonical(t, out)
	})
}

func floatHistogram(h prompb.Histogram) *histogram.FloatHistogram {
	if h.IsFloatHistogram() {
		return h.ToFloatHistogram()
	}
	return nil
}

// checkCounts: what was sent is in the batch or lost.
func checkCounts(t *testing.T, out *Decoded, sent series.Written) {
	t.Helper()
	got := total(&out.Batch)
	add(&got, out.Lost)
	if got != sent {
		t.Errorf("%+v in the batch or lost, %+v sent", got, sent)
	}
}

// checkSent: every sample in the batch was sent for its series, in this order. Those
// between may have been invalid.
func checkSent(t *testing.T, out *Decoded, want map[string][]series.Sample) {
	t.Helper()
	for _, s := range out.Batch.Series {
		key := s.Labels.String()
		for _, got := range s.Samples {
			rest := want[key]
			for len(rest) > 0 && !same(got, rest[0]) {
				rest = rest[1:]
			}
			if len(rest) == 0 {
				t.Fatalf("%s: %+v was not sent, or not here", key, got)
			}
			want[key] = rest[1:]
		}
	}
}

func same(a, b series.Sample) bool {
	if a.T != b.T || a.ST != b.ST {
		return false
	}
	switch {
	case a.H != nil:
		if b.H != nil {
			_ = normalizeHistogram(&b)
		}
		return b.H != nil && a.H.Equals(b.H)
	case a.FH != nil:
		if b.FH != nil {
			_ = normalizeHistogram(&b)
		}
		return b.FH != nil && a.FH.Equals(b.FH)
	default:
		return !b.IsHistogram() && math.Float64bits(a.V) == math.Float64bits(b.V)
	}
}
