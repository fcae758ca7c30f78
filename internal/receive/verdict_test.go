package receive

import (
	"math"
	"reflect"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/series"
)

// The verdict of a Prometheus is taken on a body that it decoded and encoded anew: its
// generated decoder also takes bytes that are no valid protobuf, which are refused here.

// withoutLimits leaves the limits that Prometheus does not have out of the comparison.
func withoutLimits(o *Options) {
	o.Limits = Limits{
		MaxLabels: math.MaxInt32, MaxLabelNameLength: math.MaxInt32, MaxLabelValueLength: math.MaxInt32,
		MaxSeriesLabelBytes: math.MaxInt32,
	}
}

// dropUnknown removes what Prometheus's decoder kept of fields that it does not know: it
// does not look whether their bytes are valid.
func dropUnknown(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			dropUnknown(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			dropUnknown(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "XXX_unrecognized" {
				v.Field(i).SetZero()
			} else {
				dropUnknown(v.Field(i))
			}
		}
	}
}

// goodLabels is the check of Prometheus's receiver.
func goodLabels(ls labels.Labels) bool {
	_, duplicate := ls.HasDuplicateLabelNames()
	return ls.Has(labels.MetricName) && ls.IsValid(model.UTF8Validation) && !duplicate
}

// compareWrite1 fails if the verdict on a body, or on a series in it, is not that of
// Prometheus.
func compareWrite1(t *testing.T, d *Decoder, msg []byte) {
	t.Helper()
	var req prompb.WriteRequest
	if req.Unmarshal(msg) != nil {
		return
	}
	dropUnknown(reflect.ValueOf(&req))
	again, err := req.Marshal() // now: the reduction of a histogram changes it
	if err != nil {
		t.Fatal(err)
	}
	var want series.Written
	b := labels.NewScratchBuilder(0)
	for i := range req.Timeseries {
		ts := &req.Timeseries[i]
		if !goodLabels(ts.ToLabels(&b, nil)) {
			want.Samples += len(ts.Samples)
			want.Histograms += len(ts.Histograms)
			continue
		}
		for _, h := range ts.Histograms {
			s := series.Sample{H: h.ToIntHistogram(), FH: floatHistogram(h)}
			if normalizeHistogram(&s) != nil {
				want.Histograms++
			}
		}
	}
	out, err := d.RemoteWrite1(snappy.Encode(nil, again), nil)
	if err != nil {
		t.Fatalf("refused what Prometheus takes: %v", err)
	}
	compareLost(t, out, want)
}

// compareWrite2 is compareWrite1 for 2.0.
func compareWrite2(t *testing.T, d *Decoder, msg []byte) {
	t.Helper()
	var req writev2.Request
	if req.Unmarshal(msg) != nil || len(req.Symbols) > 0 && req.Symbols[0] != "" {
		return // Prometheus does not look whether the first symbol is empty
	}
	dropUnknown(reflect.ValueOf(&req))
	again, err := req.Marshal() // now: the reduction of a histogram changes it
	if err != nil {
		t.Fatal(err)
	}
	var want series.Written
	b := labels.NewScratchBuilder(0)
	for i := range req.Timeseries {
		ts := &req.Timeseries[i]
		ls, err := ts.ToLabels(&b, req.Symbols)
		if err == nil {
			_, err = ts.ToMetadata(req.Symbols)
		}
		if err != nil || !goodLabels(ls) {
			want.Samples += len(ts.Samples)
			want.Histograms += len(ts.Histograms)
			continue
		}
		for _, h := range ts.Histograms {
			s := series.Sample{H: h.ToIntHistogram()}
			if s.H == nil {
				s.FH = h.ToFloatHistogram()
			}
			if normalizeHistogram(&s) != nil {
				want.Histograms++
			}
		}
	}
	out, err := d.RemoteWrite2(snappy.Encode(nil, again), nil)
	if err != nil {
		t.Fatalf("refused what Prometheus takes: %v", err)
	}
	compareLost(t, out, want)
}

func compareLost(t *testing.T, out *Decoded, want series.Written) {
	t.Helper()
	if out.Lost.Samples != want.Samples || out.Lost.Histograms != want.Histograms {
		t.Fatalf("%d samples and %d histograms are invalid here, %d and %d in Prometheus: %v",
			out.Lost.Samples, out.Lost.Histograms, want.Samples, want.Histograms, out.Invalid)
	}
}

// FuzzLabels: whatever order labels come in, they are the same series or invalid alike.
func FuzzLabels(f *testing.F) {
	f.Add([]byte("__name__\x00up\x00job\x00a"), uint64(1))
	f.Add([]byte("b\x00\x00a\x001\x00__name__\x00m\x00le\x00+Inf"), uint64(2))
	f.Add([]byte("a\x001\x00a\x002\x00__name__\x00\xff"), uint64(3))
	f.Add([]byte("\x00\x00\xc3\x28\x00v\x00\xc3\xa4\x00v"), uint64(4))
	limits := Limits{MaxLabels: 8, MaxLabelNameLength: 16, MaxLabelValueLength: 16, MaxSeriesLabelBytes: 64}.withDefaults()
	f.Fuzz(func(t *testing.T, text []byte, order uint64) {
		sent := splitPairs(text)
		var first, second labelSet
		for _, p := range sent {
			first.add(p.name, p.value, limits.MaxLabels)
		}
		for i := len(sent); i > 0; i-- { // takes one after the other from anywhere
			at := int(order % uint64(i))
			order /= uint64(i)
			second.add(sent[at].name, sent[at].value, limits.MaxLabels)
			sent = append(sent[:at:at], sent[at+1:]...)
		}
		flaw, other := first.seriesFlaw(&limits), second.seriesFlaw(&limits)
		if (flaw == "") != (other == "") {
			t.Fatalf("in one order %q, in another %q", flaw, other)
		}
		if flaw != "" {
			return
		}
		ls := first.build()
		checkLabels(t, ls)
		if !labels.Equal(ls, second.build()) {
			t.Fatalf("in one order %s, in another %s", ls, second.build())
		}
	})
}

// splitPairs cuts text at zero bytes into names and values.
func splitPairs(text []byte) []pair {
	var out []pair
	start, name := 0, []byte(nil)
	for i, n := 0, 0; i <= len(text); i++ {
		if i < len(text) && text[i] != 0 {
			continue
		}
		if n++; n%2 == 1 {
			name = text[start:i]
		} else {
			out = append(out, pair{name, text[start:i]})
		}
		start = i + 1
	}
	return out
}
