package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

// queryAnswer is what there is to an answer of the query API.
type queryAnswer struct {
	// kind is the type of the result; errKind and err are set instead where there is none.
	kind, errKind, err string
	// points are by labels and time.
	points map[string]map[int64]point
	// sequence are the labels of an instant vector in the order of the answer.
	sequence []string
	// notes are warnings and infos.
	notes []string
}

// point is a float, or the count, the sum and the buckets of a histogram: four numbers each.
// Those with NaN in them are left out: without it, one would be empty or missing, which depends
// on what else is in a chunk. So are infinite ones: NaN may have been added to them, or not, where a
// sum is coarser than its histograms.
type point []float64

func (a *queryAnswer) add(ls string, t int64, p point) {
	if a.points[ls] == nil {
		a.points[ls] = map[int64]point{}
	}
	a.points[ls][t] = p
}

func (a *queryAnswer) len() (n int) {
	for _, points := range a.points {
		n += len(points)
	}
	return n
}

// stamped is a time with a value, as it is in JSON.
type stamped struct {
	t     int64
	point point
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *stamped) UnmarshalJSON(b []byte) error {
	var (
		t     float64
		value json.RawMessage
	)
	if err := json.Unmarshal(b, &[]any{&t, &value}); err != nil {
		return err
	}
	s.t = int64(math.Round(t * 1000))
	if value[0] == '"' {
		return s.add(strings.Trim(string(value), `"`))
	}
	var h struct {
		Count, Sum string
		Buckets    [][4]any
	}
	if err := json.Unmarshal(value, &h); err != nil {
		return err
	}
	texts := []string{h.Count, h.Sum}
	for _, b := range h.Buckets {
		if count, err := strconv.ParseFloat(fmt.Sprint(b[3]), 64); err == nil && isOpen(count) {
			continue
		}
		for _, x := range b {
			texts = append(texts, fmt.Sprint(x))
		}
	}
	return s.add(texts...)
}

func (s *stamped) add(texts ...string) error {
	for _, text := range texts {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return err
		}
		s.point = append(s.point, v)
	}
	return nil
}

// decodeAnswer reads what the query API answers.
func decodeAnswer(body []byte) (*queryAnswer, error) {
	var r struct {
		ErrorType, Error string
		Warnings, Infos  []string
		Data             struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	a := &queryAnswer{kind: r.Data.ResultType, errKind: r.ErrorType, err: r.Error, points: map[string]map[int64]point{}, notes: append(r.Warnings, r.Infos...)}
	switch a.kind {
	case "scalar":
		var s stamped
		err := json.Unmarshal(r.Data.Result, &s)
		a.add("", s.t, s.point)
		return a, err
	case "vector", "matrix":
		var all []struct {
			Metric             map[string]string
			Value, Histogram   *stamped
			Values, Histograms []stamped
		}
		err := json.Unmarshal(r.Data.Result, &all)
		for _, s := range all {
			ls := labels.FromMap(s.Metric).String()
			if _, twice := a.points[ls]; twice {
				return nil, fmt.Errorf("%s is answered twice", ls)
			}
			for _, one := range []*stamped{s.Value, s.Histogram} {
				if one != nil {
					s.Values = append(s.Values, *one)
					a.sequence = append(a.sequence, ls)
				}
			}
			for _, p := range append(s.Values, s.Histograms...) {
				a.add(ls, p.t, p.point)
			}
		}
		return a, err
	}
	return a, nil
}

// answerOf is what the API makes of an engine's result.
func answerOf(text string, r *promql.Result) *queryAnswer {
	warnings, infos := r.Warnings.AsStrings(text, 0, 0)
	a := &queryAnswer{points: map[string]map[int64]point{}, notes: append(warnings, infos...)}
	if r.Err != nil {
		a.errKind, a.err, a.notes = "execution", r.Err.Error(), nil
		return a
	}
	a.kind = string(r.Value.Type())
	switch v := r.Value.(type) {
	case promql.Scalar:
		a.add("", v.T, point{v.V})
	case promql.Vector:
		for _, s := range v {
			a.add(s.Metric.String(), s.T, pointOf(s.F, s.H))
			a.sequence = append(a.sequence, s.Metric.String())
		}
	case promql.Matrix:
		for _, s := range v {
			for _, f := range s.Floats {
				a.add(s.Metric.String(), f.T, point{f.F})
			}
			for _, h := range s.Histograms {
				a.add(s.Metric.String(), h.T, pointOf(0, h.H))
			}
		}
	}
	return a
}

// isOpen tells whether a bucket with that count is left out of a point.
func isOpen(count float64) bool { return math.IsNaN(count) || math.IsInf(count, 0) }

func pointOf(f float64, h *histogram.FloatHistogram) point {
	if h == nil {
		return point{f}
	}
	p := point{h.Count, h.Sum}
	for it := h.AllBucketIterator(); it.Next(); {
		b := it.At()
		if b.Count == 0 || isOpen(b.Count) {
			continue
		}
		bounds := 2.0
		switch {
		case b.LowerInclusive && b.UpperInclusive:
			bounds = 3
		case b.LowerInclusive:
			bounds = 1
		case b.UpperInclusive:
			bounds = 0
		}
		p = append(p, bounds, b.Lower, b.Upper, b.Count)
	}
	return p
}

const tolerance = 1e-9

// near tells whether two numbers are equal but for rounding, or for what there is to spare.
func near(a, b, spare float64) bool {
	switch {
	case math.IsNaN(a) || math.IsNaN(b):
		return math.IsNaN(a) && math.IsNaN(b)
	case math.IsInf(a, 0) || math.IsInf(b, 0):
		return a == b
	default:
		return math.Abs(a-b) <= tolerance*max(math.Abs(a), math.Abs(b))+spare
	}
}

func (p point) near(q point) bool {
	return slices.EqualFunc(p, q, func(a, b float64) bool { return near(a, b, 0) })
}
