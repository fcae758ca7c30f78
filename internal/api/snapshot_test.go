package api

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"
)

// floats returns a result with a series for each label value, of samples a second apart.
func floats(values map[string][]float64, notes ...string) *promql.Result {
	res := &promql.Result{}
	var m promql.Matrix
	for job, vs := range values {
		s := promql.Series{Metric: labels.FromStrings("job", job)}
		for i, v := range vs {
			s.Floats = append(s.Floats, promql.FPoint{T: int64(i) * 1000, F: v})
		}
		m = append(m, s)
	}
	for _, note := range notes {
		res.Warnings.Add(errors.New(note))
	}
	res.Value = m
	return res
}

func histograms(change func(*histogram.FloatHistogram)) *promql.Result {
	h := tsdbutil.GenerateTestFloatHistogram(3)
	if change != nil {
		change(h)
	}
	return &promql.Result{Value: promql.Vector{{T: 1000, H: h, Metric: labels.FromStrings("job", "a")}}}
}

// TestCompare compares results with what does not change, and with what does.
func TestCompare(t *testing.T) {
	one := map[string][]float64{"a": {1, 2}}
	for _, tt := range []struct {
		name               string
		got, before, after *promql.Result
		ranked             bool
		// difference is a part of it, "" for none.
		difference  string
		equal, open int
	}{
		{name: "equal", got: floats(one, "n"), before: floats(one, "n"), equal: 2},
		{name: "nothing", got: floats(nil), before: floats(nil)},
		{name: "rounding", got: floats(map[string][]float64{"a": {1 + 1e-12, 2}}), before: floats(one), equal: 2},
		{name: "more than rounding", got: floats(map[string][]float64{"a": {1 + 1e-8, 2}}), before: floats(one), equal: 1, difference: `{job="a"} at 1970-01-01T00:00:00Z: 1.00000001 in parts, 1 as a whole`},
		{name: "no numbers", got: floats(map[string][]float64{"a": {math.NaN(), math.Inf(1)}}), before: floats(map[string][]float64{"a": {math.NaN(), math.Inf(1)}}), equal: 2},
		{name: "infinities", got: floats(map[string][]float64{"a": {math.Inf(-1), 1}}), before: floats(map[string][]float64{"a": {math.Inf(1), math.NaN()}}), difference: "-Inf in parts, +Inf as a whole"},
		{name: "a sample too many", got: floats(one), before: floats(map[string][]float64{"a": {1}}), equal: 1, difference: "at 1970-01-01T00:00:01Z: 2 in parts, nothing as a whole"},
		{name: "a sample too few", got: floats(map[string][]float64{"a": {1}}), before: floats(one), equal: 1, difference: "nothing in parts, 2 as a whole"},
		{name: "another series", got: floats(map[string][]float64{"b": {1, 2}}), before: floats(one), difference: `{job="a"} at 1970-01-01T00:00:00Z: nothing in parts`},
		{name: "a note too many", got: floats(one, "n"), before: floats(one), equal: 2, difference: `the note "n": true in parts, false as a whole`},
		{name: "a note too few", got: floats(one), before: floats(one, "n"), equal: 2, difference: `the note "n": false in parts`},
		{name: "a note that comes", got: floats(one), before: floats(one), after: floats(one, "n"), equal: 2},

		{name: "as before", got: floats(one), before: floats(one), after: floats(map[string][]float64{"a": {3, 4}}), equal: 2},
		{name: "as after", got: floats(one), before: floats(nil), after: floats(one), equal: 2},
		{name: "between", got: floats(one), before: floats(map[string][]float64{"a": {0, 2}}), after: floats(map[string][]float64{"a": {3, 2}}), equal: 1, open: 1},
		{name: "another one, and between", got: floats(one), before: floats(map[string][]float64{"a": {0, 5}}), after: floats(map[string][]float64{"a": {3, 5}}), open: 1, difference: "2 in parts, 5 as a whole"},

		{name: "other ranks", ranked: true, got: floats(map[string][]float64{"a": {1}, "b": {1, 2}}), before: floats(map[string][]float64{"a": {1, 2}, "c": {1}}), equal: 2},
		{name: "other values of ranks", ranked: true, got: floats(map[string][]float64{"a": {1}, "b": {3, 2}}), before: floats(map[string][]float64{"a": {1, 2}, "c": {1}}), equal: 1, difference: "[1 3] in parts, [1 1] as a whole"},

		{name: "histograms", got: histograms(nil), before: histograms(nil), equal: 1},
		{name: "rounded histograms", got: histograms(func(h *histogram.FloatHistogram) { h.Sum += 1e-12; h.PositiveBuckets[1] += 1e-13 }), before: histograms(nil), equal: 1},
		{name: "another bucket", got: histograms(func(h *histogram.FloatHistogram) { h.PositiveBuckets[1]++ }), before: histograms(nil), difference: "as a whole"},
		{name: "another bound", got: histograms(func(h *histogram.FloatHistogram) { h.PositiveSpans[0].Offset++ }), before: histograms(nil), difference: "as a whole"},
		{name: "a float for a histogram", got: &promql.Result{Value: promql.Vector{{T: 1000, F: 1, Metric: labels.FromStrings("job", "a")}}}, before: histograms(nil), difference: "1 in parts, {count"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.after == nil {
				tt.after = tt.before
			}
			snap := func(res *promql.Result) *snapshot { return snapshotOf("q", res) }
			c := snap(tt.got).compare(snap(tt.before), snap(tt.after), tt.ranked)
			if !strings.Contains(c.difference, tt.difference) || (c.difference == "") != (tt.difference == "") || c.equal != tt.equal || c.open != tt.open {
				t.Errorf("got %+v, want %q, equal %d, open %d", c, tt.difference, tt.equal, tt.open)
			}
		})
	}
}

// TestSnapshotIsItsOwn checks that nothing of the engine's memory is kept, which others write to
// once the query is closed.
func TestSnapshotIsItsOwn(t *testing.T) {
	h := tsdbutil.GenerateTestFloatHistogram(3)
	series := promql.Series{Floats: []promql.FPoint{{T: 1, F: 1}}, Histograms: []promql.HPoint{{T: 0, H: h}}}
	s := snapshotOf("q", &promql.Result{Value: promql.Matrix{series}, Warnings: annotations.Annotations{}})
	series.Floats[0].F, h.Sum = 2, 100
	points := s.points["{}"]
	if len(points) != 2 || points[0].h == nil || points[0].h.Sum == 100 || points[1].f != 1 {
		t.Errorf("got %v", points)
	}
}
