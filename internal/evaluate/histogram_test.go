package evaluate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// native is a series of histograms as it goes on.
type native struct {
	// integer histograms are stored other than those of floats.
	integer, gauge, custom, stale bool
	schema                        int32
	threshold, sum                float64
	zero                          int64
	positive, negative            []int64
}

// observe makes some observations, and now and then a reset or new buckets.
func (n *native) observe(r *rand.Rand, wild bool) {
	if n.stale = r.IntN(40) == 0; n.stale {
		return
	}
	if r.IntN(30) == 0 {
		clear(n.positive)
		clear(n.negative)
		n.zero, n.sum = 0, 0
	}
	if len(n.positive) == 0 || r.IntN(15) == 0 && len(n.positive) < 12 {
		n.positive = append(n.positive, 0)
	}
	if len(n.negative) < 4 && r.IntN(50) == 0 {
		n.negative = append(n.negative, 0)
	}
	if wild && r.IntN(20) == 0 {
		n.schema, n.threshold = int32(r.IntN(3)), []float64{1e-9, 0.01}[r.IntN(2)]
	}
	if wild && r.IntN(30) == 0 {
		n.custom, n.gauge = r.IntN(2) == 0, r.IntN(2) == 0
	}
	add := func(count *int64) {
		if n.gauge {
			*count = r.Int64N(50)
		} else if r.IntN(2) == 0 {
			*count += r.Int64N(20)
		}
	}
	for i := range n.positive {
		add(&n.positive[i])
	}
	for i := range n.negative {
		add(&n.negative[i])
	}
	add(&n.zero)
	n.sum += r.Float64() * 10
}

// at returns the present state, as integers or floats.
func (n *native) at() (*histogram.Histogram, *histogram.FloatHistogram) {
	h := &histogram.Histogram{Schema: n.schema, ZeroThreshold: n.threshold, ZeroCount: uint64(n.zero), Sum: n.sum}
	var count int64
	encode := func(counts []int64, offset int32) (spans []histogram.Span, deltas []int64) {
		was := int64(0)
		for _, c := range counts {
			deltas, was, count = append(deltas, c-was), c, count+c
		}
		if len(counts) > 0 {
			spans = []histogram.Span{{Offset: offset, Length: uint32(len(counts))}}
		}
		return spans, deltas
	}
	h.PositiveSpans, h.PositiveBuckets = encode(n.positive, 1)
	if n.custom {
		h.Schema, h.ZeroThreshold, h.ZeroCount = histogram.CustomBucketsSchema, 0, 0
		h.CustomValues = []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
		h.Count = uint64(count)
	} else {
		h.NegativeSpans, h.NegativeBuckets = encode(n.negative, -2)
		h.Count = uint64(count + n.zero)
	}
	if n.gauge {
		h.CounterResetHint = histogram.GaugeType
	}
	if n.stale {
		h = &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}
	}
	if n.integer {
		return h, nil
	}
	fh := h.ToFloat(nil)
	return nil, fh
}

// fillHistograms adds series of counters h, gauges hg, counters with bounds hc, hm, that are a
// bit of all, and hf, that are floats now and then. It tells whether all of a series lies in one place. Nothing is deleted: iterators
// say of the first sample behind what is deleted that no reset came before, if there was one in
// what is deleted, too. Chunks, with which all answers begin, do not.
func fillHistograms(t *testing.T, r *rand.Rand, db *tsdb.DB) (inOne bool) {
	t.Helper()
	for _, name := range []string{"h", "hg", "hc", "hm", "hf"} {
		for i := range 6 {
			n := &native{integer: r.IntN(2) == 0, gauge: name == "hg", custom: name == "hc", schema: int32(r.IntN(3)), threshold: 1e-9}
			ls := labels.FromStrings(labels.MetricName, name, "instance", fmt.Sprint(i), "job", fmt.Sprint(r.IntN(3)))
			app := db.Appender(context.Background())
			native := true
			for _, p := range points(r) {
				if name == "hf" && r.IntN(30) == 0 {
					native = !native
				}
				n.observe(r, name == "hm")
				h, fh := n.at()
				var err error
				if native {
					_, err = app.AppendHistogram(0, ls, p.T, h, fh)
				} else {
					_, err = app.Append(0, ls, p.T, float64(r.IntN(100)))
				}
				if err != nil {
					t.Fatal(ls, err)
				}
			}
			if err := app.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r.IntN(3) > 0 {
		return true
	}
	if err := db.CompactHead(tsdb.NewRangeHead(db.Head(), first, first+200*interval)); err != nil {
		t.Fatal(err)
	}
	return false
}

// nativeText returns a random text of what is evaluated series by series, for histograms.
func nativeText(r *rand.Rand) string {
	text := pick(r, []string{"h", "h", "hg", "hc", "hm", "hf", "hf", `h{job="1"}`, `hm{instance="2"}`}) + "%s" + pick(r, []string{"", "", " offset 7s", " offset -2m"})
	if r.IntN(4) == 0 {
		text = fmt.Sprintf(text, "")
	} else {
		text = pick(r, []string{
			"rate", "rate", "increase", "delta", "sum_over_time", "avg_over_time", "last_over_time", "first_over_time",
			"count_over_time", "present_over_time", "irate", "idelta", "resets", "changes", "max_over_time", "deriv",
		}) + "(" + fmt.Sprintf(text, pick(r, []string{"[31s]", "[1m]", "[5m]", "[20m]"})) + ")"
	}
	for range r.IntN(3) {
		text = fmt.Sprintf(pick(r, []string{"(%s) * 3", "(%s) / 4", "0.1 * (%s)", "-(%s)", "+(%s)", "(%s) / 0", "(%s) * -1", "(%s) > 3", "abs(%s)"}), text)
	}
	return text
}

func TestSeriesOfHistogramsGiveWhatTheEngineGives(t *testing.T) {
	databases, trials := 30, 150
	if testing.Short() {
		databases = 4
	}
	evaluated, refused, gave := 0, map[string]int{}, map[string]int{}
	for seed := range databases {
		r := rand.New(rand.NewPCG(uint64(seed), 4))
		db := openDB(t)
		inOne := fillHistograms(t, r, db)
		for range trials {
			tr := trial{aggregation: nativeAggregation(r), operand: nativeText(r), owners: uint64(1 + r.IntN(3))}
			f, err := fragment(tr.text())
			if err != nil {
				t.Fatal(err)
			}
			tr.options = Options{Fragment: f, Grid: randomGrid(r), MaxSamples: 1e9, Workers: 1 + r.IntN(2)}
			reason, histograms := tr.compareHistograms(t, db, inOne)
			if reason != "" {
				refused[reason]++
				continue
			}
			evaluated++
			if f.Call != nil && histograms {
				gave[f.Call.Func.Name]++
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d evaluated; histograms by %v; refused: %v", evaluated, gave, refused)
	if evaluated < databases*trials/3 {
		t.Errorf("only %d were evaluated", evaluated)
	}
	for _, name := range []string{"rate", "increase", "delta", "sum_over_time", "avg_over_time", "last_over_time"} {
		if gave[name] == 0 && !testing.Short() {
			t.Errorf("%s gave no histograms", name)
		}
	}
}

func nativeAggregation(r *rand.Rand) string {
	op := pick(r, []string{"", "sum", "sum", "avg", "count", "group", "max"})
	if op == "" {
		return ""
	}
	return op + pick(r, []string{"", " by (job)", " by (instance)", " without (instance)"})
}

// compareHistograms is compare with histograms. It returns why they are not evaluated in parts,
// if they are not, and whether some came out. Chunks that follow those of another place have other
// hints than iterators give them: one of two that mean the same.
func (tr trial) compareHistograms(t *testing.T, db *tsdb.DB, inOne bool) (reason string, histograms bool) {
	t.Helper()
	o := tr.options
	parts := make([]*pushdown.Partial, tr.owners)
	var unproven *pushdown.UnprovenError
	var err error
	for i := range parts {
		if parts[i], err = Series(context.Background(), splitOf(selected(t, db, o), uint64(i), tr.owners, o.Fragment), o); errors.As(err, &unproven) {
			return unproven.Reason, false
		} else if err != nil {
			t.Fatalf("%v: %v", tr, err)
		}
	}
	whole, err := o.Fragment.Merge(o.Grid, parts, always)
	if errors.As(err, &unproven) {
		return unproven.Reason, false
	} else if err != nil {
		t.Fatalf("%v: %v", tr, err)
	}
	q := execute(t, untrimmed{db}, tr.text(), o.Grid)
	defer q.Close()
	warnings := q.result.Warnings
	if doubt := o.Fragment.Doubt(); doubt != nil {
		if _, doubted := warnings[doubt.Error()]; doubted != whole.Found {
			t.Errorf("%v: the engine warns: %v; Found is %v", tr, warnings, whole.Found)
		}
		delete(warnings, doubt.Error())
	}
	if len(warnings) > 0 {
		t.Fatalf("%v: the engine warns: %v", tr, warnings)
	}
	if samples := q.Stats().Samples.TotalSamples; samples != whole.Samples {
		t.Errorf("%v: looked at %d samples, want %d", tr, whole.Samples, samples)
	}
	want := samplesOf(q.result.Value)
	for _, v := range whole.Values {
		for step := range o.Grid.Len() {
			key := sampleKey{v.Labels.String(), o.Grid.Start + int64(step)*o.Grid.Step}
			got, h, ok := v.At(o.Fragment.Op, step)
			w, wanted := want[key]
			delete(want, key)
			switch {
			case ok != wanted || (h == nil) != (w.H == nil):
				t.Fatalf("%v: %v: have %v %v %v, want %v %v", tr, key, got, h, ok, w, wanted)
			case h != nil:
				histograms = true
				if diff := tr.differ(h, w.H, inOne); diff != "" {
					t.Fatalf("%v: %v: %s: have %+v, want %+v", tr, key, diff, h, w.H)
				}
			case ok && math.Float64bits(got) != math.Float64bits(w.F) && (tr.exact() || !near(got, w.F)):
				t.Fatalf("%v: %v: have %v, want %v", tr, key, got, w.F)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("%v: %d samples are missing", tr, len(want))
	}
	return "", histograms
}

type sampleKey struct {
	series string
	t      int64
}

// samplesOf returns all samples of an answer.
func samplesOf(v parser.Value) map[sampleKey]promql.Sample {
	all := map[sampleKey]promql.Sample{}
	switch v := v.(type) {
	case promql.Matrix:
		for _, s := range v {
			for _, p := range s.Floats {
				all[sampleKey{s.Metric.String(), p.T}] = promql.Sample{F: p.F}
			}
			for _, p := range s.Histograms {
				all[sampleKey{s.Metric.String(), p.T}] = promql.Sample{H: p.H}
			}
		}
	case promql.Vector:
		for _, s := range v {
			all[sampleKey{s.Metric.String(), s.T}] = s
		}
	}
	return all
}

// exact tells whether rounding may not differ.
func (tr trial) exact() bool {
	f := tr.options.Fragment
	return f.Op != parser.SUM && f.Op != parser.AVG || tr.owners == 1 && len(f.Maps) == 0
}

// differ tells how a histogram differs from that of the engine.
func (tr trial) differ(got, want *histogram.FloatHistogram, inOne bool) string {
	gauge := func(h *histogram.FloatHistogram) bool { return h.CounterResetHint == histogram.GaugeType }
	if gauge(got) != gauge(want) || inOne && got.CounterResetHint != want.CounterResetHint {
		return "hint"
	}
	switch {
	case tr.exact():
		if !got.Equals(want) || len(got.PositiveSpans) != len(want.PositiveSpans) || len(got.NegativeSpans) != len(want.NegativeSpans) {
			return "bits"
		}
		return ""
	case got.Schema != want.Schema || got.ZeroThreshold != want.ZeroThreshold || !histogram.CustomBucketBoundsMatch(got.CustomValues, want.CustomValues):
		return "layout"
	case !near(got.Count, want.Count) || !near(got.Sum, want.Sum) || !near(got.ZeroCount, want.ZeroCount):
		return "numbers"
	}
	counts := map[[2]float64]float64{}
	for it := want.AllBucketIterator(); it.Next(); {
		b := it.At()
		counts[[2]float64{b.Lower, b.Upper}] = b.Count
	}
	for it := got.AllBucketIterator(); it.Next(); {
		b := it.At()
		if !near(b.Count, counts[[2]float64{b.Lower, b.Upper}]) {
			return "bucket " + b.String()
		}
		delete(counts, [2]float64{b.Lower, b.Upper})
	}
	for _, c := range counts {
		if !near(c, 0) {
			return "no bucket"
		}
	}
	return ""
}

func near(a, b float64) bool {
	return a == b || math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) <= 1e-12*math.Abs(b)+1e-9
}

// TestHistogramsCountByTheirSize against MaxSamples: those of the series, and the steps of the
// group with what rounding takes.
func TestHistogramsCountByTheirSize(t *testing.T) {
	c := chunk(t, chunkenc.EncHistogram, first, 100, 0)
	it := c.Chunk.Iterator(nil)
	it.Next()
	_, h := it.AtFloatHistogram(nil)
	each := int(weight(h))
	if each < 2 {
		t.Fatal("a histogram counts as a float")
	}
	o := options(t, "sum(m)")
	for _, lack := range []int{0, 1} {
		const present = 100 + 19
		o.MaxSamples = 401 + 100*each + 2*present*each - lack
		var tooMany promql.ErrTooManySamples
		p, err := Series(t.Context(), &list{series: []storage.ChunkSeries{entry(named(0), c)}}, o)
		if errors.As(err, &tooMany) != (lack > 0) {
			t.Errorf("without %d: have %v", lack, err)
		}
		if err == nil && p.Samples != int64(present*each) {
			t.Errorf("looked at %d samples, want %d", p.Samples, present*each)
		}
	}
}
