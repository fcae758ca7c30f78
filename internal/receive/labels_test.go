package receive

import (
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/series"
)

func manyLabels(n int) []string {
	kv := []string{"__name__", "m"}
	for i := range n - 1 {
		kv = append(kv, "l"+strconv.Itoa(i), "v")
	}
	return kv
}

// TestLabels has one row per rule; each is sent in both versions of Remote Write,
// between two good series that must arrive.
func TestLabels(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   []string
		// want is the canonical form, "" for invalid.
		want string
		// flaw is part of the message, which must name the series by named.
		flaw, named string
	}{
		{name: "sorted", in: []string{"__name__", "m", "a", "1", "b", "2"}, want: `{__name__="m", a="1", b="2"}`},
		{name: "unsorted", in: []string{"b", "2", "a", "1", "__name__", "m"}, want: `{__name__="m", a="1", b="2"}`},
		{name: "empty value", in: []string{"__name__", "m", "a", ""}, want: `{__name__="m"}`},
		{name: "UTF-8 name", in: []string{"__name__", "größe.m", "mit leer", "é"}, want: `{__name__="größe.m", "mit leer"="é"}`},
		{name: "at the limit", in: manyLabels(10), want: "{" + strings.Join([]string{
			`__name__="m"`, `l0="v"`, `l1="v"`, `l2="v"`, `l3="v"`, `l4="v"`, `l5="v"`, `l6="v"`, `l7="v"`, `l8="v"`,
		}, ", ") + "}"},
		{name: "no name", in: []string{"a", "1"}, flaw: "no metric name", named: `{a="1"}`},
		{name: "no labels", in: nil, flaw: "no metric name", named: `{}`},
		{name: "empty metric name", in: []string{"__name__", "", "a", "1"}, flaw: "no metric name", named: `{a="1"}`},
		{name: "empty label name", in: []string{"__name__", "m", "", "1"}, flaw: "empty label name", named: `{__name__="m", ""="1"}`},
		{name: "empty label name and value", in: []string{"__name__", "m", "", ""}, flaw: "empty label name", named: `__name__="m"`},
		{name: "duplicate", in: []string{"__name__", "m", "a", "1", "a", "1"}, flaw: `label name "a" is used more than once`, named: `a="1"`},
		{name: "duplicate, apart", in: []string{"a", "1", "__name__", "m", "a", "2"}, flaw: `label name "a" is used more than once`, named: `__name__="m"`},
		{name: "duplicate, one empty", in: []string{"__name__", "m", "a", "1", "a", ""}, flaw: `label name "a" is used more than once`, named: `__name__="m"`},
		{name: "name not UTF-8", in: []string{"__name__", "m", "a\xff", "1"}, flaw: `label name "a\xff" is not valid UTF-8`, named: `__name__="m"`},
		{name: "value not UTF-8", in: []string{"__name__", "m", "a", "\xc3\x28"}, flaw: `the value "\xc3(" of label "a" is not valid UTF-8`, named: `__name__="m"`},
		{name: "metric name not UTF-8", in: []string{"__name__", "\xff"}, flaw: "not valid UTF-8", named: `{__name__="\xff"}`},
		{name: "too many", in: manyLabels(11), flaw: "more than 10 labels", named: `__name__="m"`},
		{name: "long name", in: []string{"__name__", "m", strings.Repeat("n", 33), "v"}, flaw: "33 bytes, the limit is 32", named: `__name__="m"`},
		{name: "long value", in: []string{"__name__", "m", "n", strings.Repeat("v", 65)}, flaw: "65 bytes, the limit is 64", named: `__name__="m"`},
		{name: "large in all", in: []string{
			"__name__", "m", "a", strings.Repeat("v", 60), "b", strings.Repeat("v", 60), "c", strings.Repeat("v", 60), "d", strings.Repeat("v", 60),
		}, flaw: "labels of 253 bytes in all, the limit is 200", named: `__name__="m"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newTestDecoder(t, func(o *Options) {
				o.Limits = Limits{MaxLabels: 10, MaxLabelNameLength: 32, MaxLabelValueLength: 64, MaxSeriesLabelBytes: 200}
			})
			st := writev2.NewSymbolTable()
			var req1 prompb.WriteRequest
			var req2 writev2.Request
			for i, kv := range [][]string{{"__name__", "before"}, tc.in, {"__name__", "after"}} {
				req1.Timeseries = append(req1.Timeseries, prompb.TimeSeries{
					Labels: pairs(kv...), Samples: []prompb.Sample{{Value: float64(i), Timestamp: 1}},
				})
				ts := writev2.TimeSeries{Samples: []writev2.Sample{{Value: float64(i), Timestamp: 1}}}
				for _, s := range kv {
					ts.LabelsRefs = append(ts.LabelsRefs, st.Symbolize(s))
				}
				req2.Timeseries = append(req2.Timeseries, ts)
			}
			req2.Symbols = st.Symbols()

			for version, out := range []*Decoded{decode1(t, d, req1.Timeseries...), decode2(t, d, &req2)} {
				var got []string
				for _, s := range out.Batch.Series {
					got = append(got, s.Labels.String())
				}
				want := []string{`{__name__="before"}`, `{__name__="after"}`}
				if tc.want != "" {
					want = []string{want[0], tc.want, want[1]}
				}
				if strings.Join(got, "\n") != strings.Join(want, "\n") {
					t.Errorf("%d.0: got %q, want %q", version+1, got, want)
				}
				if tc.want != "" {
					if len(out.Invalid) > 0 {
						t.Errorf("%d.0: invalid: %+v", version+1, out.Invalid)
					}
					continue
				}
				if len(out.Invalid) != 1 || out.InvalidSeries != 1 || out.Lost != (series.Written{Samples: 1}) {
					t.Fatalf("%d.0: got %+v, want one invalid series with one sample", version+1, out)
				}
				if m := out.Invalid[0].Message; !strings.Contains(m, tc.flaw) || !strings.Contains(m, tc.named) {
					t.Errorf("%d.0: message %q, want it to contain %q and %q", version+1, m, tc.flaw, tc.named)
				}
			}
		})
	}
}

// A message has a bounded length whatever it names.
func TestMessageIsShort(t *testing.T) {
	kv := []string{"a", strings.Repeat("\xff", 20<<10)}
	for i := range 100 {
		kv = append(kv, strings.Repeat("é", 300)+strconv.Itoa(i), strings.Repeat("\x00", 300))
	}
	out := decode1(t, newTestDecoder(t, func(o *Options) { o.Limits.MaxSeriesLabelBytes = 1 << 20 }),
		prompb.TimeSeries{Labels: pairs(kv...)})
	if m := out.Invalid[0].Message; len(m) > 1000 {
		t.Errorf("message of %d bytes", len(m))
	}
}

func TestInvalidAreCountedBeyondTheList(t *testing.T) {
	ts := make([]prompb.TimeSeries, 100)
	for i := range ts {
		ts[i].Samples = make([]prompb.Sample, 3)
	}
	out := decode1(t, newTestDecoder(t, func(o *Options) { o.Limits.MaxInvalid = 5 }), ts...)
	if len(out.Invalid) != 5 || out.InvalidSeries != 100 || out.Lost.Samples != 300 {
		t.Errorf("got %d listed, %d counted, %d samples lost, want 5, 100, 300", len(out.Invalid), out.InvalidSeries, out.Lost.Samples)
	}
}
