package receive

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/series"
)

func intHistogram() *histogram.Histogram {
	return &histogram.Histogram{
		Schema: 2, Count: 12, Sum: 18.4, ZeroThreshold: 0.001, ZeroCount: 2,
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}, {Offset: 3, Length: 1}}, PositiveBuckets: []int64{1, 1, -1},
		NegativeSpans: []histogram.Span{{Offset: -1, Length: 2}}, NegativeBuckets: []int64{2, 2},
	}
}

func customHistogram() *histogram.Histogram {
	return &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 5,
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}}, PositiveBuckets: []int64{1, 1},
		CustomValues: []float64{1, 2.5},
	}
}

func staleHistogram() *histogram.Histogram {
	return &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}
}

func invalid(h *histogram.Histogram) *histogram.Histogram {
	h.PositiveSpans[0].Length++
	return h
}

func fine(h *histogram.Histogram) *histogram.Histogram {
	h.Schema = 10
	return h
}

// TestHistograms sends every kind in both versions.
func TestHistograms(t *testing.T) {
	reduced := fine(intHistogram())
	if err := reduced.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		in   *histogram.Histogram
		want *histogram.Histogram // nil if invalid
	}{
		{"exponential", intHistogram(), intHistogram()},
		{"custom buckets", customHistogram(), customHistogram()},
		{"stale", staleHistogram(), staleHistogram()},
		{"empty", &histogram.Histogram{}, &histogram.Histogram{}},
		{"too fine", fine(intHistogram()), reduced},
		{"spans without buckets", invalid(intHistogram()), nil},
		{"invalid custom", invalid(customHistogram()), nil},
		{"unknown schema", &histogram.Histogram{Schema: 100}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newTestDecoder(t)
			req2 := request2(writev2.TimeSeries{
				Samples: []writev2.Sample{{Value: 1, Timestamp: 10}},
				Histograms: []writev2.Histogram{
					writev2.FromIntHistogram(5, 11, tc.in), writev2.FromFloatHistogram(5, 12, tc.in.ToFloat(nil)),
				},
			}, "__name__", "h")
			for version, out := range []*Decoded{
				decode1(t, d, prompb.TimeSeries{
					Labels:  pairs("__name__", "h"),
					Samples: []prompb.Sample{{Value: 1, Timestamp: 10}},
					Histograms: []prompb.Histogram{
						prompb.FromIntHistogram(11, tc.in), prompb.FromFloatHistogram(12, tc.in.ToFloat(nil)),
					},
				}),
				decode2(t, d, req2),
			} {
				got := out.Batch.Series[0].Samples
				if tc.want == nil {
					if len(got) != 1 || out.InvalidSeries != 2 || out.Lost.Histograms != 2 || !strings.Contains(out.Invalid[0].Message, `{__name__="h"}`) {
						t.Errorf("%d.0: got %+v, want both histograms invalid and the float kept", version+1, out)
					}
					continue
				}
				if len(got) != 3 {
					t.Fatalf("%d.0: got %+v, want three samples", version+1, out)
				}
				st := int64(0)
				if version == 1 {
					st = 5
				}
				if h := got[1]; h.T != 11 || h.ST != st || h.H == nil || !h.H.Equals(tc.want) {
					t.Errorf("%d.0: got %+v, want %v", version+1, h, tc.want)
				}
				if h := got[2]; h.T != 12 || h.ST != st || h.FH == nil || !h.FH.Equals(tc.want.ToFloat(nil)) {
					t.Errorf("%d.0: got %+v, want the float of %v", version+1, h, tc.want)
				}
			}
		})
	}
}

func TestResetHints(t *testing.T) {
	for in, want := range map[prompb.Histogram_ResetHint]histogram.CounterResetHint{
		0: histogram.UnknownCounterReset, 1: histogram.CounterReset, 2: histogram.NotCounterReset, 3: histogram.GaugeType,
		4: histogram.UnknownCounterReset, 259: histogram.UnknownCounterReset, -1: histogram.UnknownCounterReset,
	} {
		h := prompb.FromIntHistogram(1, intHistogram())
		h.ResetHint = in
		out := decode1(t, newTestDecoder(t), prompb.TimeSeries{Labels: pairs("__name__", "h"), Histograms: []prompb.Histogram{h}})
		if got := out.Batch.Series[0].Samples[0].H.CounterResetHint; got != want {
			t.Errorf("hint %d: got %d, want %d", in, got, want)
		}
	}
}

// Values are kept bit for bit: a stale marker is a NaN that is not any NaN.
func TestValuesBitForBit(t *testing.T) {
	bits := []uint64{value.StaleNaN, value.NormalNaN, 0x7ff8000000000123, math.Float64bits(math.Inf(-1)), 1, 0}
	// Not among them is -0, which the sender's encoder takes for no value at all.
	var s1 []prompb.Sample
	var s2 []writev2.Sample
	for i, b := range bits {
		s1 = append(s1, prompb.Sample{Value: math.Float64frombits(b), Timestamp: int64(-i)})
		s2 = append(s2, writev2.Sample{Value: math.Float64frombits(b), Timestamp: int64(-i), StartTimestamp: 7})
	}
	d := newTestDecoder(t)
	for version, out := range []*Decoded{
		decode1(t, d, prompb.TimeSeries{Labels: pairs("__name__", "m"), Samples: s1}),
		decode2(t, d, request2(writev2.TimeSeries{Samples: s2}, "__name__", "m")),
	} {
		for i, b := range bits {
			got := out.Batch.Series[0].Samples[i]
			if math.Float64bits(got.V) != b || got.T != int64(-i) || got.ST != int64(7*version) {
				t.Errorf("%d.0: got %+v (%x), want bits %x at %d", version+1, got, math.Float64bits(got.V), b, -i)
			}
		}
	}
}

func TestExemplars(t *testing.T) {
	long := strings.Repeat("é", 121)
	out := decode1(t, newTestDecoder(t), prompb.TimeSeries{
		Labels:  pairs("__name__", "m"),
		Samples: []prompb.Sample{{Value: 1, Timestamp: 1}},
		Exemplars: []prompb.Exemplar{
			{Labels: pairs("trace_id", "x", "a", "1"), Value: 2, Timestamp: 3},
			{Labels: pairs("trace_id", long[2:]), Value: 4},
			{Labels: pairs("trace_id", long), Value: 5},
			{Labels: pairs("a", "1", "a", "2"), Value: 6},
			{Labels: pairs("a", "\xff"), Value: 7},
			{Value: 8, Timestamp: 9},
		},
	})
	want := []exemplar.Exemplar{
		{Labels: labels.FromStrings("a", "1", "trace_id", "x"), Value: 2, Ts: 3, HasTs: true},
		{Labels: labels.FromStrings("trace_id", long[2:]), Value: 4},
		{Labels: labels.EmptyLabels(), Value: 8, Ts: 9, HasTs: true},
	}
	s := out.Batch.Series[0]
	if !reflect.DeepEqual(s.Exemplars, want) {
		t.Errorf("got %+v, want %+v", s.Exemplars, want)
	}
	if len(s.Samples) != 1 || out.InvalidSeries != 0 || out.InvalidExemplars != 3 || out.Lost != (series.Written{Exemplars: 3}) {
		t.Errorf("got %+v, want three invalid exemplars and nothing else", out)
	}
	if m := out.Invalid[0].Message; m != `exemplar of series {__name__="m"}: labels of 129 characters, the limit is 128` {
		t.Errorf("message %q", m)
	}
}

// A series may carry exemplars only: Prometheus sends them so, also in 2.0, whatever the
// specification says. In 1.0 it may carry nothing.
func TestSeriesWithoutSamples(t *testing.T) {
	d := newTestDecoder(t)
	out := decode1(t, d,
		prompb.TimeSeries{Labels: pairs("__name__", "nothing")},
		prompb.TimeSeries{Labels: pairs("__name__", "exemplar"), Exemplars: []prompb.Exemplar{{Value: 1}}})
	if len(out.Batch.Series) != 1 || len(out.Invalid) != 0 || len(out.Batch.Series[0].Exemplars) != 1 {
		t.Errorf("1.0: got %+v", out)
	}
	out = decode2(t, d, request2(writev2.TimeSeries{Exemplars: []writev2.Exemplar{{Value: 1}}}, "__name__", "exemplar"))
	if len(out.Batch.Series) != 1 || len(out.Invalid) != 0 || len(out.Batch.Series[0].Exemplars) != 1 {
		t.Errorf("2.0: got %+v", out)
	}
	out = decode2(t, d, request2(writev2.TimeSeries{}, "__name__", "nothing"))
	if len(out.Batch.Series) != 0 || out.InvalidSeries != 1 ||
		out.Invalid[0].Message != `series {__name__="nothing"}: neither samples nor histograms nor exemplars` {
		t.Errorf("2.0: got %+v", out)
	}
}

// A body under the other version's name must not pass for an empty request.
func TestBodyOfTheOtherVersion(t *testing.T) {
	d := newTestDecoder(t)
	one, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: pairs("__name__", "m"), Samples: []prompb.Sample{{Value: 1}}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	two, err := request2(writev2.TimeSeries{Samples: []writev2.Sample{{Value: 1}}}, "__name__", "m").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.RemoteWrite2(snappy.Encode(nil, one), nil); KindOf(err) != Malformed {
		t.Errorf("1.0 as 2.0: %v", err)
	}
	if _, err := d.RemoteWrite1(snappy.Encode(nil, two), nil); KindOf(err) != Malformed {
		t.Errorf("2.0 as 1.0: %v", err)
	}
}

// The same series twice keeps the order in which it was sent.
func TestOrderIsKept(t *testing.T) {
	out := decode1(t, newTestDecoder(t),
		prompb.TimeSeries{Labels: pairs("__name__", "m"), Samples: []prompb.Sample{{Value: 3, Timestamp: 3}, {Value: 1, Timestamp: 1}}},
		prompb.TimeSeries{Labels: pairs("__name__", "n"), Samples: []prompb.Sample{{Value: 9, Timestamp: 9}}},
		prompb.TimeSeries{Labels: pairs("__name__", "m"), Samples: []prompb.Sample{{Value: 2, Timestamp: 2}}})
	var got []float64
	for _, s := range out.Batch.Series {
		for _, v := range s.Samples {
			got = append(got, v.V)
		}
	}
	if !reflect.DeepEqual(got, []float64{3, 1, 9, 2}) {
		t.Errorf("got %v", got)
	}
}

func TestSymbolReferences(t *testing.T) {
	sample := []writev2.Sample{{Value: 1, Timestamp: 1}}
	symbols := []string{"", "__name__", "m", "a", "help"}
	for _, tc := range []struct {
		name string
		ts   writev2.TimeSeries
		flaw string
	}{
		{"out of range", writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 3, 5}, Samples: sample}, "symbol reference 5 is outside the table of 5"},
		{"far out of range", writev2.TimeSeries{LabelsRefs: []uint32{1, math.MaxUint32}, Samples: sample}, "symbol reference 4294967295 is outside"},
		{"odd", writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 3}, Samples: sample}, "odd number"},
		{"help", writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Samples: sample, Metadata: writev2.Metadata{HelpRef: 9}}, "symbols 9 and 0 of a table of 5"},
		{"unit", writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Samples: sample, Metadata: writev2.Metadata{UnitRef: 9}}, "symbols 0 and 9 of a table of 5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			good := writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Samples: sample}
			out := decode2(t, newTestDecoder(t), &writev2.Request{Symbols: symbols, Timeseries: []writev2.TimeSeries{good, tc.ts, good}})
			if len(out.Batch.Series) != 2 || out.InvalidSeries != 1 || !strings.Contains(out.Invalid[0].Message, tc.flaw) {
				t.Errorf("got %+v, want %q", out, tc.flaw)
			}
			if strings.Contains(out.Invalid[0].Message, `""`) {
				t.Errorf("%s: the message shows a label that was not sent", out.Invalid[0].Message)
			}
		})
	}
	t.Run("exemplar", func(t *testing.T) {
		out := decode2(t, newTestDecoder(t), &writev2.Request{Symbols: symbols, Timeseries: []writev2.TimeSeries{{
			LabelsRefs: []uint32{1, 2}, Samples: sample, Exemplars: []writev2.Exemplar{{LabelsRefs: []uint32{3, 77}}},
		}}})
		if len(out.Batch.Series) != 1 || out.InvalidSeries != 0 || out.InvalidExemplars != 1 {
			t.Errorf("got %+v", out)
		}
	})
}

// The specification keeps symbol 0 for what is absent. In a table that begins with something
// else all references without a value would mean that.
func TestFirstSymbolIsEmpty(t *testing.T) {
	ts := writev2.TimeSeries{LabelsRefs: []uint32{0, 1}, Samples: []writev2.Sample{{Value: 1, Timestamp: 1}}}
	req := &writev2.Request{Symbols: []string{"__name__", "m"}, Timeseries: []writev2.TimeSeries{ts}}
	_, err := newTestDecoder(t).RemoteWrite2(snappied(t, req), nil)
	if KindOf(err) != Malformed || !strings.Contains(err.Error(), `"__name__"`) {
		t.Errorf("RemoteWrite2: %v, want a malformed body that names the symbol", err)
	}
}

func TestMetadata1(t *testing.T) {
	req := &prompb.WriteRequest{Metadata: []prompb.MetricMetadata{
		{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "c_total", Help: "h", Unit: "u"},
		{Type: prompb.MetricMetadata_STATESET, MetricFamilyName: "s"},
		{Type: prompb.MetricMetadata_GAUGE, Help: "no name"},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "g", Help: "\xff"},
	}}
	out, err := newTestDecoder(t).RemoteWrite1(snappied(t, req), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []series.Metadata{
		{Family: "c_total", Metadata: metadata.Metadata{Type: model.MetricTypeCounter, Help: "h", Unit: "u"}},
		{Family: "s", Metadata: metadata.Metadata{Type: model.MetricTypeStateset}},
	}
	if !reflect.DeepEqual(out.Batch.Metadata, want) {
		t.Errorf("got %+v, want %+v", out.Batch.Metadata, want)
	}
	if out.InvalidMetadata != 2 || out.InvalidSeries != 0 {
		t.Errorf("got %+v, want two invalid descriptions", out)
	}
}

func TestMetadata2(t *testing.T) {
	h := writev2.FromIntHistogram(0, 1, intHistogram())
	for _, tc := range []struct {
		name   string
		typ    writev2.Metadata_MetricType
		native bool
		want   string
	}{
		{"h_bucket", writev2.Metadata_METRIC_TYPE_HISTOGRAM, false, "h"},
		{"h_count", writev2.Metadata_METRIC_TYPE_HISTOGRAM, false, "h"},
		{"h_count", writev2.Metadata_METRIC_TYPE_HISTOGRAM, true, "h_count"},
		{"_sum", writev2.Metadata_METRIC_TYPE_HISTOGRAM, false, "_sum"},
		{"g_gsum", writev2.Metadata_METRIC_TYPE_GAUGEHISTOGRAM, false, "g"},
		{"s_sum", writev2.Metadata_METRIC_TYPE_SUMMARY, false, "s"},
		{"s", writev2.Metadata_METRIC_TYPE_SUMMARY, false, "s"},
		{"c_total", writev2.Metadata_METRIC_TYPE_COUNTER, false, "c_total"},
		{"a_count", writev2.Metadata_METRIC_TYPE_GAUGE, false, "a_count"},
		{"u", writev2.Metadata_METRIC_TYPE_UNSPECIFIED, false, ""},
	} {
		ts := writev2.TimeSeries{Samples: []writev2.Sample{{Timestamp: 1}}, Metadata: writev2.Metadata{Type: tc.typ}}
		if tc.native {
			ts = writev2.TimeSeries{Histograms: []writev2.Histogram{h}, Metadata: ts.Metadata}
		}
		req := request2(ts, "__name__", tc.name)
		req.Timeseries = append(req.Timeseries, req.Timeseries[0])
		out := decode2(t, newTestDecoder(t), req)
		var got []string
		for _, m := range out.Batch.Metadata {
			got = append(got, m.Family)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s of type %v: got families %q, want %q once", tc.name, tc.typ, got, tc.want)
		}
	}
}

func TestTypeAndUnitLabels(t *testing.T) {
	for _, tc := range []struct {
		on   bool
		typ  writev2.Metadata_MetricType
		unit string
		want string
	}{
		{false, writev2.Metadata_METRIC_TYPE_COUNTER, "s", `{__name__="m", __type__="sent", __unit__="sent"}`},
		{true, writev2.Metadata_METRIC_TYPE_COUNTER, "s", `{__name__="m", __type__="counter", __unit__="s"}`},
		{true, writev2.Metadata_METRIC_TYPE_GAUGE, "", `{__name__="m", __type__="gauge"}`},
		{true, writev2.Metadata_METRIC_TYPE_UNSPECIFIED, "s", `{__name__="m", __unit__="s"}`},
		{true, writev2.Metadata_METRIC_TYPE_UNSPECIFIED, "", `{__name__="m", __type__="sent", __unit__="sent"}`},
	} {
		req := request2(writev2.TimeSeries{Samples: []writev2.Sample{{Timestamp: 1}}, Metadata: writev2.Metadata{Type: tc.typ}},
			"__name__", "m", "__unit__", "sent", "__type__", "sent")
		if tc.unit != "" {
			req.Timeseries[0].Metadata.UnitRef = uint32(len(req.Symbols))
			req.Symbols = append(req.Symbols, tc.unit)
		}
		out := decode2(t, newTestDecoder(t, func(o *Options) { o.TypeAndUnitLabels = tc.on }), req)
		if got := out.Batch.Series[0].Labels.String(); got != tc.want {
			t.Errorf("%+v: got %s", tc, got)
		}
	}
}

// A batch must not change when the buffers it was decoded from are used again.
func TestBatchOwnsItsMemory(t *testing.T) {
	d := newTestDecoder(t)
	req := func(c string) *writev2.Request {
		r := request2(writev2.TimeSeries{
			Samples: []writev2.Sample{{Timestamp: 1}}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE},
		}, "__name__", strings.Repeat(c, 10), "a", strings.Repeat(c, 20))
		r.Timeseries[0].Metadata.HelpRef = 4
		r.Timeseries[0].Exemplars = []writev2.Exemplar{{LabelsRefs: []uint32{3, 4}}}
		return r
	}
	first := decode2(t, d, req("x"))
	before := first.Batch.Series[0].Labels.String() + first.Batch.Series[0].Exemplars[0].Labels.String() + first.Batch.Metadata[0].Help
	for range 10 {
		decode2(t, d, req("y"))
	}
	after := first.Batch.Series[0].Labels.String() + first.Batch.Series[0].Exemplars[0].Labels.String() + first.Batch.Metadata[0].Help
	if before != after || strings.Contains(after, "y") {
		t.Errorf("a later request changed the batch: %q became %q", before, after)
	}
}

func TestBodiesRefused(t *testing.T) {
	good := snappied(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: pairs("__name__", "m"), Samples: []prompb.Sample{{Timestamp: 1}}}}})
	full := errors.New("full")
	for _, tc := range []struct {
		name    string
		body    []byte
		reserve Reserve
		want    Kind
		is      error
	}{
		{name: "empty", body: nil, want: Malformed},
		{name: "not snappy", body: []byte("hello world, hello world"), want: Malformed},
		{name: "cut off", body: good[:len(good)-2], want: Malformed},
		{name: "not protobuf", body: snappy.Encode(nil, []byte("\x0a\xff")), want: Malformed},
		{name: "wrong wire type", body: snappy.Encode(nil, []byte("\x08\x01\x28\x01")), want: Malformed},
		{name: "end of no group", body: snappy.Encode(nil, []byte("\x0c")), want: Malformed},
		{name: "claims too much for snappy", body: []byte("\x80\x80\x08\x00"), want: Malformed},
		{name: "bomb", body: snappy.Encode(nil, make([]byte, 1<<20+1)), want: TooLarge},
		{name: "huge", body: make([]byte, 1<<20+1), want: TooLarge},
		{name: "no memory", body: good, reserve: func(int64) error { return full }, is: full},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newTestDecoder(t, func(o *Options) { o.Limits.MaxBodyBytes = 1 << 20 })
			for version, decode := range []func([]byte, Reserve) (*Decoded, error){d.RemoteWrite1, d.RemoteWrite2} {
				out, err := decode(tc.body, tc.reserve)
				if out != nil || err == nil || KindOf(err) != tc.want || (tc.is != nil && !errors.Is(err, tc.is)) {
					t.Errorf("%d.0: got %v, %v (kind %d), want kind %d", version+1, out, err, KindOf(err), tc.want)
				}
			}
		})
	}
}
