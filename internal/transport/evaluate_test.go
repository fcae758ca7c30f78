package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

var testGrid = pushdown.Grid{Start: 1000, End: 1600, Step: 100, Lookback: 300_000}

// testFragment returns a fragment of each kind of values.
func testFragment(t *testing.T, op string) *pushdown.Fragment {
	t.Helper()
	f, err := pushdown.Parser{Parser: parser.NewParser(parser.Options{})}.Read(fmt.Sprintf("   %s(rate(m[5m]))  ", op))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// testEvaluation adds up the bytes of the answer.
func testEvaluation(f *pushdown.Fragment, took *int64) Evaluation {
	return Evaluation{
		Selection: Selection{Mint: 3, Maxt: 100, Matchers: everything}, Fragment: f, Grid: testGrid,
		Take: func(n int64) error { *took += n; return nil },
	}
}

// testPartial has so many groups, with samples at some steps, and odd values.
func testPartial(op parser.ItemType, groups int) *pushdown.Partial {
	part := &pushdown.Partial{Samples: 1 << 40, Found: true}
	odd := []float64{1, -0.1, math.Inf(1), math.NaN(), math.Copysign(0, -1), 1e300, 1e-300}
	for i := range groups {
		v := pushdown.NewValues(op, labels.FromStrings("i", fmt.Sprint(i)), testGrid.Len())
		for step := range testGrid.Len() {
			if (step+i)%3 == 0 {
				continue
			}
			v.N[step] = uint64(1 + step*i*1000)
			if v.V != nil {
				v.V[step] = odd[(step+i)%len(odd)]
			}
			if v.C != nil && i%2 == 0 {
				v.C[step] = odd[step]
			}
			if i%5 == 4 && step%2 == 0 && (op == 0 || v.C != nil) {
				setOddHistogram(&v, step, op, odd[(step+i)%len(odd)])
			}
		}
		part.Values = append(part.Values, v)
	}
	return part
}

// setOddHistogram replaces the float at a step.
func setOddHistogram(v *pushdown.Values, step int, op parser.ItemType, odd float64) {
	v.V[step] = 0
	h := &histogram.FloatHistogram{
		CounterResetHint: histogram.GaugeType, Schema: 3, ZeroThreshold: 1e-128, ZeroCount: -1, Count: odd, Sum: -odd,
		PositiveSpans: []histogram.Span{{Offset: -7, Length: 1}, {Offset: 3, Length: 2}}, PositiveBuckets: []float64{odd, 1, -2},
		NegativeSpans: []histogram.Span{{Offset: 1 << 30, Length: 1}}, NegativeBuckets: []float64{odd},
	}
	if step == 2 {
		h = &histogram.FloatHistogram{
			CounterResetHint: histogram.NotCounterReset, Schema: histogram.CustomBucketsSchema, Count: odd,
			CustomValues: []float64{0.1, 5}, PositiveSpans: []histogram.Span{{Offset: 1, Length: 2}}, PositiveBuckets: []float64{odd, 1},
		}
	}
	if op == 0 {
		v.N[step] = 1
	}
	if v.C != nil {
		v.C[step] = 0
	}
	if v.C == nil || v.N[step] < 2 {
		v.SetHistogram(step, pushdown.Histogram{Sum: h})
		return
	}
	c := h.Copy()
	c.ZeroCount, c.Count, c.Sum = 0, 0, 0
	clear(c.PositiveBuckets)
	clear(c.NegativeBuckets)
	if step > 2 {
		c.Sum, c.PositiveBuckets[1] = odd, 1e-17
	}
	v.SetHistogram(step, pushdown.Histogram{Sum: h, C: c})
}

// bits makes what NaN is in comparable.
func bits(p *pushdown.Partial) any {
	var out []any
	for _, v := range p.Values {
		row := []any{v.Labels.String(), v.N, v.V == nil, v.C == nil}
		for _, f := range append(append([]float64{}, v.V...), v.C...) {
			row = append(row, math.Float64bits(f))
		}
		for step := range v.H {
			row = append(row, histogramBits(v.H[step].Sum), histogramBits(v.H[step].C))
		}
		out = append(out, row)
	}
	return []any{out, p.Samples, p.Found}
}

func histogramBits(h *histogram.FloatHistogram) any {
	if h == nil {
		return nil
	}
	row := []any{h.CounterResetHint, h.Schema, h.ZeroThreshold, h.PositiveSpans, h.NegativeSpans, h.CustomValues}
	for _, f := range slices.Concat([]float64{h.ZeroCount, h.Count, h.Sum}, h.PositiveBuckets, h.NegativeBuckets) {
		row = append(row, math.Float64bits(f))
	}
	return row
}

func TestEvaluateTravels(t *testing.T) {
	for _, op := range []string{"", "sum", "avg", "count", "group", "min"} {
		for _, groups := range []int{0, 1, 20_000} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				f := testFragment(t, op)
				r.reader.part = testPartial(f.Op, groups)
				var took int64
				got, err := r.peers.Peer("remote").Evaluate(t.Context(), epoch(1), testEvaluation(f, &took))
				if err != nil {
					t.Fatalf("%q: %v", op, err)
				}
				if !reflect.DeepEqual(bits(got), bits(r.reader.part)) {
					t.Errorf("%q: %d groups came out as others", op, groups)
				}
				if n := got.Bytes(); took < n || took > 2*n {
					t.Errorf("%q: %d groups take %d bytes, and %d were told of", op, groups, n, took)
				}
				if r.reader.grid != testGrid || r.reader.fragment != f.Trimmed() || r.reader.selected.Mint != 3 {
					t.Errorf("%q: asked for %q at %+v", op, r.reader.fragment, r.reader.grid)
				}
			})
		}
	}
}

func TestEvaluateFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer, f := r.peers.Peer("remote"), testFragment(t, "sum")
		evaluate := func() error {
			_, err := peer.Evaluate(t.Context(), epoch(1), testEvaluation(f, new(int64)))
			return err
		}
		r.reader.partErr = fmt.Errorf("series: %w", &pushdown.UnprovenError{Reason: "histograms"})
		if unproven, ok := errors.AsType[*pushdown.UnprovenError](evaluate()); !ok || unproven.Reason != "histograms" {
			t.Errorf("unproven: %v", evaluate())
		}
		r.reader.partErr = status.Error(codes.Unimplemented, "unknown method Evaluate")
		if err := evaluate(); !errors.As(err, new(*pushdown.UnprovenError)) {
			t.Errorf("a node that does not know how: %v", err)
		}
		r.reader.partErr = promql.ErrTooManySamples("query execution")
		if err := evaluate(); !errors.Is(err, r.reader.partErr) {
			t.Errorf("too many samples: %v", err)
		}
		r.reader.partErr = errors.New("disk on fire")
		if err := evaluate(); err == nil || errors.As(err, new(*queryError)) {
			t.Errorf("another error: %v", err)
		}
		r.reader.part, r.reader.partErr = &pushdown.Partial{}, nil
		for _, g := range []pushdown.Grid{{}, {Start: 1, Step: 1}, {End: math.MaxInt64, Step: 1}, {Start: math.MinInt64, End: math.MaxInt64, Step: 1}} {
			e := testEvaluation(f, new(int64))
			e.Grid = g
			if _, err := peer.evaluate(t.Context(), peer.evaluateRequest(epoch(1), &e), &Evaluation{Fragment: f, Grid: testGrid}); err == nil {
				t.Errorf("%+v was accepted", g)
			}
		}
	})
}

// Values of other steps, or without what their counts promise, are refused.
func TestValuesThatDoNotFit(t *testing.T) {
	b := labels.NewScratchBuilder(0)
	sent := valuesToProto(&testPartial(parser.SUM, 1).Values[0])
	if _, err := valuesFromProto(&b, sent, parser.SUM, testGrid.Len()); err != nil {
		t.Fatal(err)
	}
	if _, err := valuesFromProto(&b, sent, parser.SUM, testGrid.Len()+1); err == nil {
		t.Error("other steps")
	}
	sums := sent.Sums
	sent.Sums = sums[1:]
	if _, err := valuesFromProto(&b, sent, parser.SUM, testGrid.Len()); err == nil {
		t.Error("a sum is missing")
	}
	sent.Sums, sent.Errors = sums, sent.Errors[1:]
	if _, err := valuesFromProto(&b, sent, parser.SUM, testGrid.Len()); err == nil {
		t.Error("an error is missing")
	}
}

// An answer that is longer than it may be is not received any further.
func TestEvaluateStopsWhenTooMuchComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		f := testFragment(t, "sum")
		r.reader.part = testPartial(f.Op, 200_000)
		whole := r.reader.part.Bytes()
		errFull := errors.New("full")
		var took, most int64
		e := testEvaluation(f, nil)
		e.Take = func(n int64) error {
			if took > whole/10 {
				t.Error("it goes on")
			}
			took, most = took+n, max(most, n)
			if took > whole/10 {
				return errFull
			}
			return nil
		}
		if _, err := r.peers.Peer("remote").Evaluate(t.Context(), epoch(1), e); !errors.Is(err, errFull) {
			t.Errorf("have %v", err)
		}
		if took > whole/10+most || most > 3*frameBytes {
			t.Errorf("%d bytes came, at most %d at once, where %d were allowed", took, most, whole/10)
		}
	})
}

// Who evaluates for a peer hears that it waits no more: at once, and by its deadline without it.
func TestEvaluateEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ended := make(chan time.Time, 1)
		r.reader.evaluating = func(ctx context.Context) {
			<-ctx.Done()
			ended <- time.Now()
		}
		for name, end := range map[string]func() (context.Context, context.CancelFunc){
			"canceled": func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			},
			"out of time": func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), time.Second) },
		} {
			ctx, cancel := end()
			start := time.Now()
			_, err := r.peers.Peer("remote").Evaluate(ctx, epoch(1), testEvaluation(testFragment(t, "sum"), new(int64)))
			if took := time.Since(start); err == nil || took > time.Second+100*time.Millisecond {
				t.Errorf("%s: the peer that asks hears %v after %v", name, err, took)
			}
			if took := (<-ended).Sub(start); took > time.Second+100*time.Millisecond {
				t.Errorf("%s: the peer that is asked goes on until %v", name, took)
			}
			cancel()
		}
	})
}

// Histograms that arithmetic might not end for, or panic, are refused.
func TestHistogramsThatAreMalformed(t *testing.T) {
	for name, spoil := range map[string]func(p *peerpb.Values, h *peerpb.FloatHistogram){
		"no step":               func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.Step = uint32(testGrid.Len()) },
		"no samples":            func(p *peerpb.Values, h *peerpb.FloatHistogram) { p.Counts[h.Step] = 0 },
		"twice":                 func(p *peerpb.Values, h *peerpb.FloatHistogram) { p.Histograms = append(p.Histograms, h) },
		"a hint of resets":      func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.CounterResetHint = 1 },
		"no schema":             func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.Schema = 99 },
		"zero threshold":        func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.ZeroThreshold = math.NaN() },
		"half a span":           func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.PositiveSpans = h.PositiveSpans[1:] },
		"a long span":           func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.PositiveSpans[1] += 1 << 32 },
		"too few buckets":       func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.NegativeBuckets = nil },
		"bounds":                func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.CustomValues = []float64{1} },
		"too few errors":        func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.Errors = []float64{1} },
		"errors of one":         func(p *peerpb.Values, h *peerpb.FloatHistogram) { p.Counts[h.Step], h.Errors = 1, []float64{1} },
		"too few custom values": func(_ *peerpb.Values, h *peerpb.FloatHistogram) { h.Schema, h.ZeroThreshold = -53, 0 },
	} {
		v := testPartial(parser.SUM, 5).Values[4]
		p := valuesToProto(&v)
		if _, err := valuesFromProto(new(labels.ScratchBuilder), p, parser.SUM, testGrid.Len()); err != nil || len(p.Histograms) == 0 {
			t.Fatal(p, err)
		}
		spoil(p, p.Histograms[0])
		if _, err := valuesFromProto(new(labels.ScratchBuilder), p, parser.SUM, testGrid.Len()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	v := testPartial(0, 5).Values[4]
	if _, err := valuesFromProto(new(labels.ScratchBuilder), valuesToProto(&v), parser.COUNT, testGrid.Len()); err == nil {
		t.Error("histograms of a count were accepted")
	}
}
