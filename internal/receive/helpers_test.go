package receive

import (
	"bytes"
	"compress/gzip"
	"context"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/series"
)

func newTestDecoder(t testing.TB, change ...func(*Options)) *Decoder {
	t.Helper()
	o := Options{OTLP: config.DefaultOTLPConfig}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

type marshaler interface{ Marshal() ([]byte, error) }

func snappied(t testing.TB, m marshaler) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, b)
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func decode1(t testing.TB, d *Decoder, ts ...prompb.TimeSeries) *Decoded {
	t.Helper()
	out, err := d.RemoteWrite1(snappied(t, &prompb.WriteRequest{Timeseries: ts}), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkCanonical(t, out)
	return out
}

func decode2(t testing.TB, d *Decoder, req *writev2.Request) *Decoded {
	t.Helper()
	out, err := d.RemoteWrite2(snappied(t, req), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkCanonical(t, out)
	return out
}

func decodeOTLP(t testing.TB, d *Decoder, m interface{ MarshalProto() ([]byte, error) }) *Decoded {
	t.Helper()
	b, err := m.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.OTLP(context.Background(), b, OTLPProto, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	checkCanonical(t, out)
	return out
}

// pairs makes labels of alternating names and values, in the given order.
func pairs(kv ...string) []prompb.Label {
	var ls []prompb.Label
	for p := range slices.Chunk(kv, 2) {
		ls = append(ls, prompb.Label{Name: p[0], Value: p[1]})
	}
	return ls
}

// request2 makes a 2.0 request with a series of the given labels, samples as given.
func request2(ts writev2.TimeSeries, kv ...string) *writev2.Request {
	st := writev2.NewSymbolTable()
	for _, s := range kv {
		ts.LabelsRefs = append(ts.LabelsRefs, st.Symbolize(s))
	}
	return &writev2.Request{Symbols: st.Symbols(), Timeseries: []writev2.TimeSeries{ts}}
}

// checkCanonical fails the test if a batch breaks a promise of this package.
func checkCanonical(t testing.TB, d *Decoded) {
	t.Helper()
	for i := range d.Batch.Series {
		s := &d.Batch.Series[i]
		checkLabels(t, s.Labels)
		if !s.Labels.Has(labels.MetricName) {
			t.Errorf("%s has no metric name", s.Labels)
		}
		if len(s.Samples)+len(s.Exemplars) == 0 {
			t.Errorf("%s holds nothing", s.Labels)
		}
		for _, e := range s.Exemplars {
			checkLabels(t, e.Labels)
		}
		for _, v := range s.Samples {
			if v.H != nil && v.FH != nil {
				t.Errorf("%s has a sample that is two histograms", s.Labels)
			}
			if err := normalizeHistogram(&v); err != nil {
				t.Errorf("%s has an invalid histogram: %v", s.Labels, err)
			}
		}
	}
	for _, m := range d.Batch.Metadata {
		if m.Family == "" || !utf8.ValidString(m.Family+m.Help+m.Unit) {
			t.Errorf("metadata %+v", m)
		}
	}
	if n := d.InvalidSeries + d.InvalidExemplars + d.InvalidMetadata; len(d.Invalid) > n || (n > 0 && len(d.Invalid) == 0) {
		t.Errorf("%d invalid items listed of %d", len(d.Invalid), n)
	}
	for _, i := range d.Invalid {
		if !utf8.ValidString(i.Message) || strings.ContainsAny(i.Message, "\n\r\x00") || len(i.Message) > 1000 {
			t.Errorf("message cannot be logged: %q", i.Message)
		}
	}
}

func checkLabels(t testing.TB, ls labels.Labels) {
	t.Helper()
	last := ""
	ls.Range(func(l labels.Label) {
		if l.Name <= last || l.Value == "" || !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value) {
			t.Errorf("labels %q are not canonical", ls.String())
		}
		last = l.Name
	})
}

// total counts what is in a batch.
func total(b *series.Batch) series.Written {
	var w series.Written
	for i := range b.Series {
		for j := range b.Series[i].Samples {
			if b.Series[i].Samples[j].IsHistogram() {
				w.Histograms++
			} else {
				w.Samples++
			}
		}
		w.Exemplars += len(b.Series[i].Exemplars)
	}
	return w
}
