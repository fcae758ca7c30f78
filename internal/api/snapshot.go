package api

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/promql"
)

// tolerance is how far numbers may be apart, in relation to the greater: sums that are added in
// another order are rounded otherwise.
const tolerance = 1e-9

// snapshot is what a query gave, in memory of its own. Of a string it has nothing: no query with
// fragments gives one.
type snapshot struct {
	// points are ordered by time, and have the labels of their series as key.
	points map[string][]point
	// notes are warnings and infos.
	notes []string
}

// point is a float or, if there is one, a histogram.
type point struct {
	t int64
	f float64
	h *histogram.FloatHistogram
}

// snapshotOf copies the result of a query, which is no error.
func snapshotOf(query string, res *promql.Result) *snapshot {
	s := &snapshot{points: map[string][]point{}}
	warnings, infos := res.Warnings.AsStrings(query, 0, 0)
	s.notes = append(warnings, infos...)
	switch v := res.Value.(type) {
	case promql.Vector:
		for i := range v {
			p := point{t: v[i].T, f: v[i].F}
			if v[i].H != nil {
				p.h = v[i].H.Copy()
			}
			s.points[v[i].Metric.String()] = []point{p}
		}
	case promql.Matrix:
		for i := range v {
			s.points[v[i].Metric.String()] = pointsOf(&v[i])
		}
	case promql.Scalar:
		s.points[""] = []point{{t: v.T, f: v.V}}
	}
	return s
}

func pointsOf(s *promql.Series) []point {
	points := make([]point, 0, len(s.Floats)+len(s.Histograms))
	for _, p := range s.Floats {
		points = append(points, point{t: p.T, f: p.F})
	}
	for _, p := range s.Histograms {
		points = append(points, point{t: p.T, h: p.H.Copy()})
	}
	if len(s.Histograms) > 0 {
		slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.t, b.t) })
	}
	return points
}

// comparison is what comes of comparing a snapshot with one from before and one from after it.
type comparison struct {
	// difference describes the first thing that is the same before and after, but not in the
	// snapshot; "" for none.
	difference string
	// equal counts points that are as before or as after, and open what changed and is neither.
	equal, open int
}

// add compares one thing, and tells whether it is as before or as after. describe is called for
// a difference.
func (c *comparison) add(isBefore, isAfter, same bool, describe func() string) bool {
	switch {
	case isBefore || isAfter:
		return true
	case !same:
		c.open++
	case c.difference == "":
		c.difference = describe()
	}
	return false
}

// compare compares a snapshot with what came before and after. If series are ranked, it may be
// others that have the values.
func (s *snapshot) compare(before, after *snapshot, ranked bool) comparison {
	var c comparison
	s.compareNotes(&c, before, after)
	points := c
	s.comparePoints(&points, before, after)
	if points.difference != "" && ranked {
		s.compareValues(&c, before, after)
		return c
	}
	return points
}

// compareNotes wants the notes that both have, and none that neither has.
func (s *snapshot) compareNotes(c *comparison, before, after *snapshot) {
	for _, note := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(s.notes, before.notes)))) {
		got, want, later := slices.Contains(s.notes, note), slices.Contains(before.notes, note), slices.Contains(after.notes, note)
		c.add(got == want, got == later, want == later, func() string {
			return fmt.Sprintf("the note %q: %t in parts, %t as a whole", note, got, want)
		})
	}
}

func (s *snapshot) comparePoints(c *comparison, before, after *snapshot) {
	for _, ls := range keys(s.points, before.points) {
		for _, t := range times(s.points[ls], before.points[ls]) {
			got, want, later := at(s.points[ls], t), at(before.points[ls], t), at(after.points[ls], t)
			if c.add(got.near(want), got.near(later), want.near(later), func() string {
				return fmt.Sprintf("%s at %s: %s in parts, %s as a whole", ls, timeText(t), got, want)
			}) {
				c.equal++
			}
		}
	}
}

// compareValues compares the values of each step, whatever series they belong to.
func (s *snapshot) compareValues(c *comparison, before, after *snapshot) {
	steps, stepsBefore, stepsAfter := s.byTime(), before.byTime(), after.byTime()
	alike := func(a, b []float64) bool { return slices.EqualFunc(a, b, near) }
	for _, t := range keys(steps, stepsBefore) {
		got, want, later := steps[t], stepsBefore[t], stepsAfter[t]
		if c.add(alike(got, want), alike(got, later), alike(want, later), func() string {
			return fmt.Sprintf("values at %s: %v in parts, %v as a whole", timeText(t), got, want)
		}) {
			c.equal++
		}
	}
}

func timeText(t int64) string { return time.UnixMilli(t).UTC().Format(time.RFC3339Nano) }

// byTime returns the sorted values of each step, the sums of histograms.
func (s *snapshot) byTime() map[int64][]float64 {
	steps := map[int64][]float64{}
	for _, points := range s.points {
		for _, p := range points {
			v := p.f
			if p.h != nil {
				v = p.h.Sum
			}
			steps[p.t] = append(steps[p.t], v)
		}
	}
	for _, values := range steps {
		slices.Sort(values)
	}
	return steps
}

// keys returns the keys of two maps in order.
func keys[K cmp.Ordered, V any](a, b map[K]V) []K {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(all)
	return slices.Compact(all)
}

// times returns the times of two series in order.
func times(a, b []point) []int64 {
	all := make([]int64, 0, len(a)+len(b))
	for _, points := range [][]point{a, b} {
		for _, p := range points {
			all = append(all, p.t)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// at returns the point at a time, nil if there is none.
func at(points []point, t int64) *point {
	i, found := slices.BinarySearchFunc(points, t, func(p point, t int64) int { return cmp.Compare(p.t, t) })
	if !found {
		return nil
	}
	return &points[i]
}

// String implements fmt.Stringer.
func (p *point) String() string {
	switch {
	case p == nil:
		return "nothing"
	case p.h != nil:
		return p.h.String()
	}
	return fmt.Sprint(p.f)
}

func (p *point) near(q *point) bool {
	switch {
	case p == nil || q == nil:
		return p == q
	case p.h == nil || q.h == nil:
		return p.h == q.h && near(p.f, q.f)
	}
	return p.h.Equals(q.h) || nearHistograms(p.h, q.h)
}

// near tells whether two numbers differ by rounding at most.
func near(a, b float64) bool {
	return a == b || math.IsNaN(a) && math.IsNaN(b) ||
		!math.IsInf(a, 0) && !math.IsInf(b, 0) && math.Abs(a-b) <= tolerance*max(math.Abs(a), math.Abs(b))
}

// nearHistograms tells whether two histograms have buckets with the same bounds, and counts that
// differ by rounding at most.
func nearHistograms(a, b *histogram.FloatHistogram) bool {
	if !near(a.Count, b.Count) || !near(a.Sum, b.Sum) {
		return false
	}
	buckets := func(h *histogram.FloatHistogram) (all []histogram.Bucket[float64]) {
		for it := h.AllBucketIterator(); it.Next(); {
			if bucket := it.At(); bucket.Count != 0 {
				all = append(all, bucket)
			}
		}
		return all
	}
	return slices.EqualFunc(buckets(a), buckets(b), func(a, b histogram.Bucket[float64]) bool {
		return a.Lower == b.Lower && a.Upper == b.Upper && near(a.Count, b.Count)
	})
}
