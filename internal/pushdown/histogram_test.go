package pushdown

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/teststorage"
)

// randomHistogram returns one of some schema between 0 and 3, whose numbers are whole or not.
func randomHistogram(r *rand.Rand, hint histogram.CounterResetHint) *histogram.FloatHistogram {
	number := func() float64 {
		if r.IntN(3) == 0 {
			return r.Float64() * 1000
		}
		return float64(r.IntN(100))
	}
	side := func() (spans []histogram.Span, buckets []float64) {
		for i := range r.IntN(4) {
			length := 1 + r.IntN(3)
			spans = append(spans, histogram.Span{Offset: int32(r.IntN(6) + 1 - min(i, 1)), Length: uint32(length)})
			for range length {
				buckets = append(buckets, number())
			}
		}
		return spans, buckets
	}
	h := &histogram.FloatHistogram{
		CounterResetHint: hint, Schema: int32(r.IntN(4)), ZeroThreshold: 1e-9,
		ZeroCount: number(), Count: number(), Sum: number() - 50,
	}
	h.PositiveSpans, h.PositiveBuckets = side()
	h.NegativeSpans, h.NegativeBuckets = side()
	return h
}

// custom returns a histogram with bounds.
func custom(bounds ...float64) *histogram.FloatHistogram {
	return &histogram.FloatHistogram{
		Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 0.3, CustomValues: bounds,
		PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []float64{3},
	}
}

// checkAlike compares histograms: bit by bit, or but for rounding.
func checkAlike(t *testing.T, name string, got, want *histogram.FloatHistogram, exact bool) {
	t.Helper()
	if got == nil || want == nil || got.CounterResetHint != want.CounterResetHint {
		t.Fatalf("%s: have %+v, want %+v", name, got, want)
	}
	if !exact {
		got, want = rounded(got), rounded(want)
	}
	if !got.Equals(want) {
		t.Fatalf("%s: have %v, want %v", name, got, want)
	}
}

// rounded returns a histogram with numbers of about 10 digits.
func rounded(h *histogram.FloatHistogram) *histogram.FloatHistogram {
	h = h.Copy()
	round := func(f *float64) {
		_, _ = fmt.Sscan(fmt.Sprintf("%.10g", *f+1e-9), f)
	}
	round(&h.Count)
	round(&h.Sum)
	round(&h.ZeroCount)
	for i := range h.PositiveBuckets {
		round(&h.PositiveBuckets[i])
	}
	for i := range h.NegativeBuckets {
		round(&h.NegativeBuckets[i])
	}
	return h
}

// TestHistogramsComeOutAsTheEngines splits the histograms of series of a real storage between
// parts at random.
func TestHistogramsComeOutAsTheEngines(t *testing.T) {
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	for seed := range 100 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		store := teststorage.New(t)
		all := make([]*histogram.FloatHistogram, 1+r.IntN(6))
		app := store.Appender(context.Background())
		for i := range all {
			all[i] = randomHistogram(r, []histogram.CounterResetHint{histogram.UnknownCounterReset, histogram.GaugeType}[r.IntN(4)/3])
			ls := labels.FromStrings(labels.MetricName, "m", "i", fmt.Sprint(100+i))
			if _, err := app.AppendHistogram(0, ls, 0, nil, all[i].Copy()); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		for _, op := range []parser.ItemType{parser.SUM, parser.AVG, parser.COUNT, parser.GROUP} {
			want := askAny(t, engine, store, op.String()+"(m)")
			for _, n := range []int{1, 3} {
				name := fmt.Sprintf("seed %d, %s of %d in %d parts", seed, op, len(all), n)
				f, h, ok := merged(t, r, op, all, n)
				if !ok || f != want.F {
					t.Fatalf("%s: have %v %v, want %v", name, f, ok, want)
				}
				if h != nil || want.H != nil {
					checkAlike(t, name, h, want.H, n == 1)
				}
			}
		}
	}
}

// merged returns what histograms that are split between so many parts come to.
func merged(t *testing.T, r *rand.Rand, op parser.ItemType, all []*histogram.FloatHistogram, n int) (float64, *histogram.FloatHistogram, bool) {
	t.Helper()
	parts := make([]*Partial, n)
	for i := range parts {
		parts[i] = &Partial{Values: []Values{NewValues(op, labels.EmptyLabels(), 1)}}
	}
	for _, h := range all {
		if err := parts[r.IntN(n)].Values[0].AddHistogram(op, 0, h); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := (&Fragment{Op: op}).Merge(Grid{Step: 1}, parts, always)
	if err != nil {
		t.Fatal(err)
	}
	first, firstH, _ := whole.Values[0].At(op, 0)
	f, h, ok := whole.Values[0].At(op, 0)
	if f != first || (h == nil) != (firstH == nil) || h != nil && !h.Equals(firstH) {
		t.Fatalf("%s: what comes out is changed by asking for it", op)
	}
	return f, h, ok
}

func TestHistogramsAreNotChanged(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	a, b := randomHistogram(r, 0), randomHistogram(r, 0)
	wereA, wereB := a.Copy(), b.Copy()
	v := NewValues(parser.SUM, labels.EmptyLabels(), 1)
	if err := errors.Join(v.AddHistogram(parser.SUM, 0, a), v.AddHistogram(parser.SUM, 0, b)); err != nil {
		t.Fatal(err)
	}
	if !a.Equals(wereA) || !b.Equals(wereB) {
		t.Error("histograms that were added are others now")
	}
}

func TestHistogramsThatAreNotProven(t *testing.T) {
	plain := &histogram.FloatHistogram{Count: 1, Sum: 1, ZeroCount: 1, ZeroThreshold: 0.5}
	with := func(change func(h *histogram.FloatHistogram)) *histogram.FloatHistogram {
		h := plain.Copy()
		change(h)
		return h
	}
	huge := with(func(h *histogram.FloatHistogram) { h.Sum = math.MaxFloat64 })
	reset := with(func(h *histogram.FloatHistogram) { h.CounterResetHint = histogram.CounterReset })
	for _, c := range []struct {
		name string
		op   parser.ItemType
		of   []any
		want error
	}{
		{"a float before", parser.SUM, []any{1., plain}, errMixed},
		{"a float after", parser.AVG, []any{plain, 1.}, errMixed},
		{"a float after, of one series", 0, []any{plain, 1.}, errMixed},
		{"a least", parser.MIN, []any{plain}, errIgnored},
		{"a greatest", parser.MAX, []any{plain}, errIgnored},
		{"two of one series", 0, []any{plain, plain}, errDuplicate},
		{"a reset", 0, []any{reset}, errReset},
		{"zero buckets", parser.SUM, []any{plain, with(func(h *histogram.FloatHistogram) { h.ZeroThreshold = 0.25 })}, errZero},
		{"a zero bucket that is endless", 0, []any{with(func(h *histogram.FloatHistogram) { h.ZeroThreshold = math.Inf(1) })}, errZero},
		{"a zero bucket that is none", 0, []any{with(func(h *histogram.FloatHistogram) { h.ZeroThreshold = math.NaN() })}, errZero},
		{"schemas", parser.SUM, []any{with(func(h *histogram.FloatHistogram) { h.ZeroThreshold = 0 }), custom(1)}, errBuckets},
		{"bounds", parser.SUM, []any{custom(1), custom(1, 2)}, errBuckets},
		{"an average", parser.AVG, []any{huge, huge}, errOverflow},
	} {
		add := func(v *Values, sample any) error {
			if h, ok := sample.(*histogram.FloatHistogram); ok {
				return v.AddHistogram(c.op, 0, h)
			}
			return v.Add(c.op, 0, sample.(float64))
		}
		one := NewValues(c.op, labels.EmptyLabels(), 1)
		var err error
		var parts []*Partial
		for _, sample := range c.of {
			if err == nil {
				err = add(&one, sample)
			}
			other := NewValues(c.op, labels.EmptyLabels(), 1)
			if add(&other, sample) == nil {
				parts = append(parts, &Partial{Values: []Values{other}})
			}
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: have %v, want %v", c.name, err, c.want)
		}
		if len(parts) < 2 {
			continue
		}
		if _, err := (&Fragment{Op: c.op}).Merge(Grid{Step: 1}, parts, always); !errors.Is(err, c.want) {
			t.Errorf("%s, merged: have %v, want %v", c.name, err, c.want)
		}
	}
}

// TestFloatsAndHistogramsAtDifferentSteps of one group do not meet.
func TestFloatsAndHistogramsAtDifferentSteps(t *testing.T) {
	a, b := NewValues(parser.SUM, labels.EmptyLabels(), 2), NewValues(parser.SUM, labels.EmptyLabels(), 2)
	if err := errors.Join(a.Add(parser.SUM, 0, 1), a.AddHistogram(parser.SUM, 1, custom(1)), b.Add(parser.SUM, 0, 2), b.AddHistogram(parser.SUM, 1, custom(1))); err != nil {
		t.Fatal(err)
	}
	whole, err := (&Fragment{Op: parser.SUM}).Merge(Grid{End: 1, Step: 1}, []*Partial{{Values: []Values{a}}, {Values: []Values{b}}}, always)
	if err != nil {
		t.Fatal(err)
	}
	if f, h, ok := whole.Values[0].At(parser.SUM, 0); !ok || h != nil || f != 3 {
		t.Errorf("floats: have %v %v %v", f, h, ok)
	}
	if _, h, ok := whole.Values[0].At(parser.SUM, 1); !ok || h == nil || h.Count != 6 {
		t.Errorf("histograms: have %v %v", h, ok)
	}
}
