package receive

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/otlptranslator"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/starling-tsdb/starling/internal/series"
)

var at = pcommon.NewTimestampFromTime(time.UnixMilli(1_700_000_000_000))

// otlpRequest builds a request with one resource and one scope.
type otlpRequest struct {
	pmetricotlp.ExportRequest
	resource pmetric.ResourceMetrics
	scope    pmetric.ScopeMetrics
}

func newOTLP() *otlpRequest {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "shop")
	rm.Resource().Attributes().PutStr("region", "eu")
	return &otlpRequest{pmetricotlp.NewExportRequestFromMetrics(md), rm, rm.ScopeMetrics().AppendEmpty()}
}

func (r *otlpRequest) metric(name string) pmetric.Metric {
	m := r.scope.Metrics().AppendEmpty()
	m.SetName(name)
	return m
}

// gauge adds a metric with one point for each host.
func (r *otlpRequest) gauge(name string, hosts ...string) pmetric.NumberDataPointSlice {
	ps := r.metric(name).SetEmptyGauge().DataPoints()
	for _, host := range hosts {
		p := ps.AppendEmpty()
		p.SetTimestamp(at)
		p.SetDoubleValue(1)
		p.Attributes().PutStr("host", host)
	}
	return ps
}

func names(d *Decoded) []string {
	var out []string
	for _, s := range d.Batch.Series {
		if name := s.Labels.Get(labels.MetricName); name != targetInfo {
			out = append(out, fmt.Sprintf("%s/%s", name, s.Labels.Get("host")))
		}
	}
	return out
}

func TestOTLPKinds(t *testing.T) {
	r := newOTLP()
	r.gauge("temp", "a")
	sum := r.metric("requests").SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p := sum.DataPoints().AppendEmpty()
	p.SetTimestamp(at)
	p.SetStartTimestamp(at - 1e9)
	p.SetIntValue(7)
	e := p.Exemplars().AppendEmpty()
	e.SetDoubleValue(2)
	e.SetTraceID([16]byte{1})
	stale := sum.DataPoints().AppendEmpty()
	stale.SetTimestamp(at + 1e9)
	stale.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
	h := r.metric("latency").SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	hp := h.DataPoints().AppendEmpty()
	hp.SetTimestamp(at)
	hp.SetCount(3)
	hp.SetSum(4)
	hp.ExplicitBounds().FromRaw([]float64{1})
	hp.BucketCounts().FromRaw([]uint64{1, 2})
	x := r.metric("size").SetEmptyExponentialHistogram()
	x.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	xp := x.DataPoints().AppendEmpty()
	xp.SetTimestamp(at)
	xp.SetCount(3)
	xp.Positive().BucketCounts().FromRaw([]uint64{1, 2})
	q := r.metric("q").SetEmptySummary().DataPoints().AppendEmpty()
	q.SetTimestamp(at)
	qv := q.QuantileValues().AppendEmpty()
	qv.SetQuantile(0.5)
	qv.SetValue(9)

	out := decodeOTLP(t, newTestDecoder(t), r)
	got := map[string]series.Sample{}
	for _, s := range out.Batch.Series {
		got[s.Labels.String()] = s.Samples[0]
		if s.Labels.Get(labels.MetricName) == "requests_total" {
			if len(s.Samples) != 2 || math.Float64bits(s.Samples[1].V) != value.StaleNaN {
				t.Errorf("requests_total has samples %+v, want a value and a stale marker", s.Samples)
			}
			if len(s.Exemplars) != 1 || s.Exemplars[0].Labels.Get("trace_id") == "" {
				t.Errorf("requests_total has exemplars %+v", s.Exemplars)
			}
		}
	}
	for ls, v := range map[string]float64{
		`{__name__="temp", host="a", job="shop"}`:            1,
		`{__name__="requests_total", job="shop"}`:            7,
		`{__name__="latency_bucket", job="shop", le="1"}`:    1,
		`{__name__="latency_bucket", job="shop", le="+Inf"}`: 3,
		`{__name__="latency_count", job="shop"}`:             3,
		`{__name__="latency_sum", job="shop"}`:               4,
		`{__name__="q", job="shop", quantile="0.5"}`:         9,
		`{__name__="target_info", job="shop", region="eu"}`:  1,
	} {
		if s, ok := got[ls]; !ok || s.V != v || s.T != at.AsTime().UnixMilli() {
			t.Errorf("%s: got %+v, %v, want %v", ls, s, ok, v)
		}
	}
	if s := got[`{__name__="requests_total", job="shop"}`]; s.ST != at.AsTime().UnixMilli()-1000 {
		t.Errorf("start timestamp %d", s.ST)
	}
	if s := got[`{__name__="size", job="shop"}`]; s.H == nil || s.H.Count != 3 {
		t.Errorf("size: got %+v, want a native histogram", s)
	}
	if !slices.ContainsFunc(out.Batch.Metadata, func(m series.Metadata) bool {
		return m.Family == "requests_total" && m.Type == model.MetricTypeCounter
	}) {
		t.Errorf("no metadata of requests_total in %+v", out.Batch.Metadata)
	}
	if len(out.Invalid) != 0 {
		t.Errorf("invalid: %+v", out.Invalid)
	}
}

// TestOTLPBadPointRefusesItself has one row for each thing that Prometheus's converter
// gives up at; the good points around it must all arrive.
func TestOTLPBadPointRefusesItself(t *testing.T) {
	for _, tc := range []struct {
		name string
		// spoil adds or changes something in a request that has a good gauge already.
		spoil func(r *otlpRequest, middle pmetric.NumberDataPoint)
		// middle tells whether the good gauge's second point is lost by it.
		middle bool
		want   string
		lost   series.Written
	}{
		{"no value", func(_ *otlpRequest, p pmetric.NumberDataPoint) {
			q := pmetric.NewNumberDataPoint()
			q.SetTimestamp(at)
			q.CopyTo(p)
		}, true, "no value", series.Written{Samples: 1}},
		{"no time", func(_ *otlpRequest, p pmetric.NumberDataPoint) { p.SetTimestamp(0) }, true, "no time", series.Written{Samples: 1}},
		{"unusable name", func(_ *otlpRequest, p pmetric.NumberDataPoint) {
			p.Attributes().PutStr("", "x")
		}, true, `attribute "" cannot be a label`, series.Written{Samples: 1}},
		{"many attributes", func(_ *otlpRequest, p pmetric.NumberDataPoint) {
			for i := range 200 {
				p.Attributes().PutStr(fmt.Sprint("a", i), "x")
			}
		}, true, "201 attributes, the limit is 128", series.Written{Samples: 1}},
		{"long value", func(_ *otlpRequest, p pmetric.NumberDataPoint) {
			p.Attributes().PutStr("a", strings.Repeat("x", 40<<10))
		}, true, "40960 bytes, the limit is 32768", series.Written{Samples: 1}},
		{"not UTF-8", func(_ *otlpRequest, p pmetric.NumberDataPoint) {
			p.Attributes().PutStr("a", "\xff")
		}, true, "not valid UTF-8", series.Written{Samples: 1}},
		{"delta", func(r *otlpRequest, _ pmetric.NumberDataPoint) {
			s := r.metric("d").SetEmptySum()
			s.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
			s.DataPoints().AppendEmpty().SetTimestamp(at)
			s.DataPoints().AppendEmpty().Exemplars().AppendEmpty()
		}, false, "Delta", series.Written{Samples: 2, Exemplars: 1}},
		{"no data", func(r *otlpRequest, _ pmetric.NumberDataPoint) { r.metric("n") }, false, `metric "n": no data`, series.Written{}},
		{"unusable metric name", func(r *otlpRequest, _ pmetric.NumberDataPoint) { r.gauge("", "x", "y") }, false, `metric "": `, series.Written{Samples: 2}},
		{"coarse scale", func(r *otlpRequest, _ pmetric.NumberDataPoint) {
			x := r.metric("x").SetEmptyExponentialHistogram()
			x.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := x.DataPoints().AppendEmpty()
			p.SetTimestamp(at)
			p.SetScale(-5)
		}, false, "scale -5", series.Written{Histograms: 1}},
		{"histogram count", func(r *otlpRequest, _ pmetric.NumberDataPoint) {
			x := r.metric("x").SetEmptyExponentialHistogram()
			x.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			p := x.DataPoints().AppendEmpty()
			p.SetTimestamp(at)
			p.SetCount(5)
		}, false, "observations", series.Written{Histograms: 1}},
		{"resource attribute", func(r *otlpRequest, _ pmetric.NumberDataPoint) {
			r.resource.Resource().Attributes().PutStr("", "x")
		}, false, `resource attribute "" cannot be a label`, series.Written{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newOTLP()
			points := r.gauge("temp", "a", "b", "c")
			tc.spoil(r, points.At(1))
			r.gauge("after", "z")
			out := decodeOTLP(t, newTestDecoder(t), r)
			want := []string{"temp/a", "temp/b", "temp/c", "after/z"}
			if tc.middle {
				want = slices.Delete(want, 1, 2)
			}
			if got := names(out); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if out.InvalidSeries != 1 || !strings.Contains(out.Invalid[0].Message, tc.want) || out.Lost != tc.lost {
				t.Errorf("got %+v, lost %+v, want one with %q, lost %+v", out.Invalid, out.Lost, tc.want, tc.lost)
			}
		})
	}
}

func TestOTLPExemplarWithoutValue(t *testing.T) {
	r := newOTLP()
	s := r.metric("c").SetEmptySum()
	s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p := s.DataPoints().AppendEmpty()
	p.SetTimestamp(at)
	p.SetIntValue(1)
	p.Exemplars().AppendEmpty()
	p.Exemplars().AppendEmpty().SetIntValue(3)
	out := decodeOTLP(t, newTestDecoder(t), r)
	if out.InvalidSeries != 0 || out.InvalidExemplars != 1 || out.Lost != (series.Written{Exemplars: 1}) || total(&out.Batch) != (series.Written{Samples: 2, Exemplars: 1}) {
		t.Errorf("got %+v", out)
	}
}

// Two points far apart must not make millions of samples of target_info, nor lose
// anything else.
func TestOTLPTargetInfoIsBounded(t *testing.T) {
	r := newOTLP()
	r.gauge("m", "a", "b").At(0).SetTimestamp(1)
	out := decodeOTLP(t, newTestDecoder(t), r)
	if got := total(&out.Batch); got.Samples != 2 || out.InvalidMetadata != 1 || out.InvalidSeries != 0 {
		t.Errorf("got %+v of %+v", got, out)
	}
	r = newOTLP()
	r.gauge("m", "a", "b").At(0).SetTimestamp(at - 3600*1e9)
	out = decodeOTLP(t, newTestDecoder(t), r)
	if got := total(&out.Batch); got.Samples != 2+25 || len(out.Invalid) != 0 {
		t.Errorf("an hour apart: got %+v of %+v, want target_info every 2.5 minutes", got, out)
	}
}

// A resource with too much to say still has its points stored.
func TestOTLPLargeResource(t *testing.T) {
	r := newOTLP()
	r.resource.Resource().Attributes().PutStr("process.command_line", strings.Repeat("x", 100<<10))
	r.gauge("m", "a")
	out := decodeOTLP(t, newTestDecoder(t), r)
	if got := names(out); !slices.Equal(got, []string{"m/a"}) || out.InvalidSeries != 0 || out.InvalidMetadata != 1 {
		t.Errorf("got %q of %+v", got, out)
	}
	if job := out.Batch.Series[0].Labels.Get("job"); job != "shop" {
		t.Errorf("job %q", job)
	}

	r.resource.Resource().Attributes().PutStr("service.name", strings.Repeat("x", 100<<10))
	r.gauge("n", "a", "b")
	out = decodeOTLP(t, newTestDecoder(t), r)
	if out.InvalidSeries != 1 || out.Lost.Samples != 3 || len(out.Batch.Series) != 0 {
		t.Errorf("got %+v, want the resource refused with its three points", out)
	}
}

func TestOTLPSettings(t *testing.T) {
	build := func() *otlpRequest {
		r := newOTLP()
		r.scope.Scope().SetName("lib")
		m := r.gauge("room.temp", "a")
		m.At(0).Attributes().PutStr("a.b", "x")
		r.scope.Metrics().At(0).SetUnit("s")
		return r
	}
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"default", func(*Options) {}, `{__name__="room_temp_seconds", a_b="x", host="a", job="shop"}`},
		{"UTF-8", func(o *Options) { o.OTLP.TranslationStrategy = otlptranslator.NoTranslation }, `{__name__="room.temp", "a.b"="x", host="a", job="shop"}`},
		{"promoted", func(o *Options) { o.OTLP.PromoteResourceAttributes = []string{"region"} }, `{__name__="room_temp_seconds", a_b="x", host="a", job="shop", region="eu"}`},
		{"all promoted", func(o *Options) {
			o.OTLP.PromoteAllResourceAttributes = true
			o.OTLP.IgnoreResourceAttributes = []string{"service.name"}
		}, `{__name__="room_temp_seconds", a_b="x", host="a", job="shop", region="eu"}`},
		{"scope", func(o *Options) { o.OTLP.PromoteScopeMetadata = true }, `{__name__="room_temp_seconds", a_b="x", host="a", job="shop", otel_scope_name="lib"}`},
		{"type and unit", func(o *Options) { o.TypeAndUnitLabels = true }, `{__name__="room_temp_seconds", __type__="gauge", __unit__="seconds", a_b="x", host="a", job="shop"}`},
	} {
		out := decodeOTLP(t, newTestDecoder(t, tc.change), build())
		if got := out.Batch.Series[0].Labels.String(); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
	r := newOTLP()
	s := r.metric("d").SetEmptySum()
	s.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	p := s.DataPoints().AppendEmpty()
	p.SetTimestamp(at)
	p.SetIntValue(5)
	if out := decodeOTLP(t, newTestDecoder(t, func(o *Options) { o.NativeDelta = true }), r); out.InvalidSeries != 0 || len(names(out)) != 1 {
		t.Errorf("native delta: got %+v", out)
	}
}

func TestOTLPEncodings(t *testing.T) {
	r := newOTLP()
	r.gauge("m", "a")
	proto, err := r.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	json, err := r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, contentType, encoding string
		body                        []byte
		want                        Kind
	}{
		{"proto", OTLPProto, "", proto, 0},
		{"json", OTLPJSON, "", json, 0},
		{"json with charset", "application/json; charset=utf-8", "identity", json, 0},
		{"gzip", OTLPProto, "gzip", gzipped(t, proto), 0},
		{"gzip json", OTLPJSON, "GZIP", gzipped(t, json), 0},
		{"empty", OTLPProto, "", nil, 0},
		{"no type", "", "", proto, Unsupported},
		{"text", "text/plain", "", proto, Unsupported},
		{"zstd", OTLPProto, "zstd", proto, Unsupported},
		{"not gzip", OTLPProto, "gzip", proto, Malformed},
		{"gzip cut off", OTLPProto, "gzip", gzipped(t, proto)[:20], Malformed},
		{"not proto", OTLPProto, "", []byte("\x0a\xff"), Malformed},
		{"not json", OTLPJSON, "", []byte(`{"resourceMetrics":`), Malformed},
		{"json as proto", OTLPProto, "", json, Malformed},
	} {
		out, err := newTestDecoder(t).OTLP(context.Background(), tc.body, tc.contentType, tc.encoding, nil)
		if KindOf(err) != tc.want || (err == nil) != (tc.want == 0) {
			t.Errorf("%s: got %v, want kind %d", tc.name, err, tc.want)
		}
		if err == nil && len(tc.body) > 0 && len(names(out)) != 1 {
			t.Errorf("%s: got %+v", tc.name, out)
		}
	}
}

func TestOTLPCancelled(t *testing.T) {
	r := newOTLP()
	for i := range 1000 {
		r.gauge(fmt.Sprint("m", i), "a")
	}
	b, err := r.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := newTestDecoder(t).OTLP(ctx, b, OTLPProto, "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that of the context", err)
	}
}
