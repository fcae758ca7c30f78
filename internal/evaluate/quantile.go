package evaluate

import (
	"math"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser/posrange"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

var (
	errNoBucket  = &pushdown.UnprovenError{Reason: "a quantile of series that are no buckets"}
	errMonotonic = &pushdown.UnprovenError{Reason: "buckets that hold less than smaller ones"}
	errQuantile  = &pushdown.UnprovenError{Reason: "a quantile that the engine warns of"}
	errBoth      = &pushdown.UnprovenError{Reason: "a classic and a native histogram of the same labels"}
)

// takeQuantiles replaces what series gave by the quantile of the histograms that they make up.
func takeQuantiles(q float64, p *pushdown.Partial, steps int) error {
	all := classics{byLabels: map[string]*classic{}}
	var quantiles []pushdown.Values
	for i := range p.Values {
		v := &p.Values[i]
		if v.H == nil {
			if err := all.add(v); err != nil {
				return err
			}
			continue
		}
		out, err := nativeQuantile(q, v)
		if err != nil {
			return err
		}
		quantiles = append(quantiles, out)
	}
	for i := range quantiles {
		if all.byLabels[string(quantiles[i].Labels.Bytes(nil))] != nil {
			return errBoth
		}
	}
	for _, c := range all.histograms {
		out, err := c.quantile(q, steps)
		if err != nil {
			return err
		}
		quantiles = append(quantiles, out)
	}
	p.Values = quantiles
	return nil
}

// nativeQuantile takes the quantile of the histograms of a series.
func nativeQuantile(q float64, v *pushdown.Values) (pushdown.Values, error) {
	out := pushdown.NewValues(0, v.Labels, len(v.N))
	for step, n := range v.N {
		if n == 0 {
			continue
		}
		_, h, _ := v.At(0, step)
		if h == nil {
			return out, errNoBucket
		}
		quantile, warnings := promql.HistogramQuantile(q, h, "", posrange.PositionRange{})
		if len(warnings) > 0 {
			return out, errQuantile
		}
		out.N[step], out.V[step] = 1, quantile
	}
	return out, nil
}

// classics are classic histograms, in the order in which they were met.
type classics struct {
	histograms []*classic
	// byLabels has them by labels.Labels.Bytes, without that of the bucket.
	byLabels map[string]*classic
	key      []byte
}

// classic is a histogram of one series for each bucket.
type classic struct {
	labels  labels.Labels
	buckets []bucket
}

type bucket struct {
	bound  float64
	values *pushdown.Values
}

// add adds a bucket to its histogram.
func (c *classics) add(v *pushdown.Values) error {
	bound, err := strconv.ParseFloat(v.Labels.Get(labels.BucketLabel), 64)
	if err != nil || math.IsNaN(bound) {
		return errNoBucket
	}
	c.key = v.Labels.BytesWithoutLabels(c.key, labels.BucketLabel)
	h := c.byLabels[string(c.key)]
	if h == nil {
		h = &classic{labels: labels.NewBuilder(v.Labels).Del(labels.BucketLabel).Labels()}
		c.byLabels[string(c.key)] = h
		c.histograms = append(c.histograms, h)
	}
	h.buckets = append(h.buckets, bucket{bound, v})
	return nil
}

// quantile takes the quantile at each step at which there are buckets.
func (c *classic) quantile(q float64, steps int) (pushdown.Values, error) {
	out := pushdown.NewValues(0, c.labels, steps)
	var present promql.Buckets
	for step := range steps {
		present = present[:0]
		for _, b := range c.buckets {
			if b.values.N[step] > 0 {
				present = append(present, promql.Bucket{UpperBound: b.bound, Count: b.values.V[step]})
			}
		}
		if len(present) == 0 {
			continue
		}
		quantile, forced, _, _, _, _ := promql.BucketQuantile(q, present)
		if forced {
			return out, errMonotonic
		}
		out.N[step], out.V[step] = 1, quantile
	}
	return out, nil
}
