package receive

import (
	"fmt"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/starling-tsdb/starling/internal/series"
)

// attributesFlaw bounds attributes before the converter, whose effort grows with the
// square of their number where names collide.
func (s *sieve) attributesFlaw(m pcommon.Map) string {
	if m.Len() > s.limits.MaxLabels {
		return fmt.Sprintf("%d attributes, the limit is %d", m.Len(), s.limits.MaxLabels)
	}
	size := 0
	for name, value := range m.All() {
		size += len(name)
		if value.Type() == pcommon.ValueTypeStr {
			size += len(value.Str())
		} else {
			size += len(value.AsString())
		}
	}
	if size > s.limits.MaxSeriesLabelBytes {
		return fmt.Sprintf("attributes of %d bytes in all, the limit is %d", size, s.limits.MaxSeriesLabelBytes)
	}
	return ""
}

// nameFlaw finds an attribute whose name cannot become a label's.
func (s *sieve) nameFlaw(m pcommon.Map, prefix string) string {
	for name := range m.All() {
		if _, err := s.labelName.Build(prefix + name); err != nil {
			return "attribute " + quoted([]byte(name)) + " cannot be a label"
		}
	}
	return ""
}

// unusable rejects an attribute whose name cannot become a label's.
func (s *sieve) unusable(name, what string, lost series.Written) bool {
	if _, err := s.labelName.Build(name); err == nil {
		return false
	}
	s.reject(SeriesItem, lost, func() string {
		return what + " " + quoted([]byte(name)) + " cannot be a label"
	})
	return true
}

// show writes attributes for a message, shortened and quoted.
func (s *sieve) show(m pcommon.Map) string {
	var ls labelSet
	for name, value := range m.All() {
		if ls.add([]byte(name), []byte(value.AsString()), s.limits.MaxLabels); ls.flaw != "" {
			break
		}
	}
	return ls.String()
}

// lostWith counts the points of a resource.
func lostWith(rm pmetric.ResourceMetrics) series.Written {
	var lost series.Written
	for _, sm := range rm.ScopeMetrics().All() {
		for _, m := range sm.Metrics().All() {
			add(&lost, lostWithMetric(m))
		}
	}
	return lost
}

// lostWithMetric counts the points of a metric and their exemplars. A histogram of
// explicit buckets counts as one sample, however many series it would become.
func lostWithMetric(m pmetric.Metric) series.Written {
	var lost series.Written
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, p := range m.Gauge().DataPoints().All() {
			add(&lost, series.Written{Samples: 1, Exemplars: p.Exemplars().Len()})
		}
	case pmetric.MetricTypeSum:
		for _, p := range m.Sum().DataPoints().All() {
			add(&lost, series.Written{Samples: 1, Exemplars: p.Exemplars().Len()})
		}
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			add(&lost, series.Written{Samples: 1, Exemplars: p.Exemplars().Len()})
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			add(&lost, series.Written{Histograms: 1, Exemplars: p.Exemplars().Len()})
		}
	case pmetric.MetricTypeSummary:
		lost.Samples = m.Summary().DataPoints().Len()
	}
	return lost
}

func add(sum *series.Written, w series.Written) {
	sum.Samples += w.Samples
	sum.Histograms += w.Histograms
	sum.Exemplars += w.Exemplars
}
