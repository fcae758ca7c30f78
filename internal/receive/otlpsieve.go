package receive

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/otlptranslator"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/starling-tsdb/starling/internal/series"
)

const (
	// targetInfo and targetInfoHelp tell the series that the converter makes of a
	// resource's attributes.
	targetInfo     = "target_info"
	targetInfoHelp = "Target metadata"
	// maxTargetInfo bounds the samples of target_info for one resource. Two points of
	// which one has an absurd time would ask for millions.
	maxTargetInfo = 1000
)

// sieve takes out of a request what cannot be converted, or only at a cost without
// bound, so that each bad point refuses itself and not its neighbours.
type sieve struct {
	limits   *Limits
	opts     *Options
	settings prometheusremotewrite.Settings
	// strict also finds what the converter finds itself, but only by giving up.
	strict     bool
	metricName otlptranslator.MetricNamer
	labelName  otlptranslator.LabelNamer
	promoted   map[string]bool

	out *Decoded
	// untargeted takes the resources that get no target_info.
	untargeted pmetric.Metrics
	// first and last bound the times of the present resource's points.
	first, last pcommon.Timestamp
}

func newSieve(l *Limits, o *Options, settings prometheusremotewrite.Settings) *sieve {
	s := &sieve{
		limits:   l,
		opts:     o,
		settings: settings,
		metricName: otlptranslator.MetricNamer{
			WithMetricSuffixes: settings.AddMetricSuffixes,
			UTF8Allowed:        settings.AllowUTF8,
		},
		labelName: otlptranslator.LabelNamer{
			UTF8Allowed: settings.AllowUTF8,
			// Deprecated by the translator, but a setting of Prometheus's.
			UnderscoreLabelSanitization: settings.LabelNameUnderscoreSanitization, //nolint:staticcheck // see above
			PreserveMultipleUnderscores: settings.LabelNamePreserveMultipleUnderscores,
		},
		promoted:   make(map[string]bool),
		out:        new(Decoded),
		untargeted: pmetric.NewMetrics(),
	}
	for _, name := range []string{"service.name", "service.namespace", "service.instance.id"} {
		s.promoted[name] = true
	}
	for _, name := range o.OTLP.PromoteResourceAttributes {
		s.promoted[name] = true
	}
	return s
}

func (s *sieve) reject(item Item, lost series.Written, message func() string) {
	s.out.reject(s.limits.MaxInvalid, item, lost, message)
}

// sift removes what is invalid from md. Resources without target_info move to
// s.untargeted, where a second call finds them.
func (s *sieve) sift(md pmetric.Metrics) {
	s.untargeted.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		_, remove := s.resource(rm, false)
		return remove
	})
	md.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		targeted, remove := s.resource(rm, true)
		if !remove && !targeted {
			rm.MoveTo(s.untargeted.ResourceMetrics().AppendEmpty())
			return true
		}
		return remove
	})
}

// resource sifts a resource. It tells whether to remove all of it, and whether it still
// gets its target_info, if it would have so far.
func (s *sieve) resource(rm pmetric.ResourceMetrics, wasTargeted bool) (targeted, remove bool) {
	targeted = wasTargeted
	attributes := rm.Resource().Attributes()
	flaw := s.attributesFlaw(attributes)
	if flaw != "" {
		// Most attributes go into target_info only. Do without it before refusing points.
		targeted = false
		attributes.RemoveIf(func(name string, _ pcommon.Value) bool { return !s.isPromoted(name) })
		s.reject(MetadataItem, series.Written{}, func() string {
			return targetInfo + " of resource " + s.show(attributes) + " is not stored: resource with " + flaw
		})
		if flaw = s.attributesFlaw(attributes); flaw != "" {
			s.reject(SeriesItem, lostWith(rm), func() string {
				return "resource " + s.show(attributes) + ": " + flaw
			})
			return false, true
		}
	}
	if s.strict {
		attributes.RemoveIf(func(name string, _ pcommon.Value) bool {
			return s.unusable(name, "resource attribute", series.Written{})
		})
	}
	s.first, s.last = math.MaxUint64, 0
	rm.ScopeMetrics().RemoveIf(s.scope)
	if targeted && s.last > s.first && time.Duration(min(s.last-s.first, math.MaxInt64)) > maxTargetInfo*s.opts.LookbackDelta/2 {
		targeted = false
		s.reject(MetadataItem, series.Written{}, func() string {
			return targetInfo + " of resource " + s.show(attributes) + " is not stored: its points lie too far apart"
		})
	}
	return targeted, false
}

func (s *sieve) isPromoted(name string) bool {
	if s.promoted[name] || !s.opts.OTLP.PromoteAllResourceAttributes {
		return s.promoted[name]
	}
	for _, ignored := range s.opts.OTLP.IgnoreResourceAttributes {
		if name == ignored {
			return false
		}
	}
	return true
}

// scope tells whether to remove all of a scope, and sifts it.
func (s *sieve) scope(sm pmetric.ScopeMetrics) bool {
	flaw := ""
	if s.settings.PromoteScopeMetadata {
		flaw = s.attributesFlaw(sm.Scope().Attributes())
		if n := len(sm.Scope().Name()) + len(sm.Scope().Version()) + len(sm.SchemaUrl()); flaw == "" && n > s.limits.MaxSeriesLabelBytes {
			flaw = fmt.Sprintf("name, version and schema of %d bytes, the limit is %d", n, s.limits.MaxSeriesLabelBytes)
		}
		if flaw == "" && s.strict {
			flaw = s.nameFlaw(sm.Scope().Attributes(), "otel_scope_")
		}
	}
	if flaw != "" {
		var lost series.Written
		for _, m := range sm.Metrics().All() {
			add(&lost, lostWithMetric(m))
		}
		s.reject(SeriesItem, lost, func() string {
			return "scope " + quoted([]byte(sm.Scope().Name())) + ": " + flaw
		})
		return true
	}
	sm.Metrics().RemoveIf(s.metric)
	return false
}

// metric tells whether to remove all of a metric, and sifts its points.
func (s *sieve) metric(m pmetric.Metric) bool {
	if flaw := s.metricFlaw(m); flaw != "" {
		s.reject(SeriesItem, lostWithMetric(m), func() string {
			return "metric " + quoted([]byte(m.Name())) + ": " + flaw
		})
		return true
	}
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(func(p pmetric.NumberDataPoint) bool { return s.number(m, p) })
	case pmetric.MetricTypeSum:
		m.Sum().DataPoints().RemoveIf(func(p pmetric.NumberDataPoint) bool { return s.number(m, p) })
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(p pmetric.HistogramDataPoint) bool {
			s.exemplars(m, p.Exemplars())
			return s.point(m, p, "", series.Written{Samples: 1, Exemplars: p.Exemplars().Len()})
		})
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().DataPoints().RemoveIf(func(p pmetric.ExponentialHistogramDataPoint) bool {
			s.exemplars(m, p.Exemplars())
			flaw := ""
			if p.Scale() < histogram.ExponentialSchemaMin {
				flaw = fmt.Sprintf("scale %d, the least is %d", p.Scale(), histogram.ExponentialSchemaMin)
			}
			return s.point(m, p, flaw, series.Written{Histograms: 1, Exemplars: p.Exemplars().Len()})
		})
	case pmetric.MetricTypeSummary:
		m.Summary().DataPoints().RemoveIf(func(p pmetric.SummaryDataPoint) bool {
			return s.point(m, p, "", series.Written{Samples: 1})
		})
	}
	return false
}

func (s *sieve) metricFlaw(m pmetric.Metric) string {
	temporality := pmetric.AggregationTemporalityCumulative
	switch m.Type() {
	case pmetric.MetricTypeEmpty:
		return "no data, or of a type unknown here"
	case pmetric.MetricTypeSum:
		temporality = m.Sum().AggregationTemporality()
	case pmetric.MetricTypeHistogram:
		temporality = m.Histogram().AggregationTemporality()
	case pmetric.MetricTypeExponentialHistogram:
		temporality = m.ExponentialHistogram().AggregationTemporality()
	}
	switch {
	case temporality == pmetric.AggregationTemporalityCumulative:
	case temporality == pmetric.AggregationTemporalityDelta && s.settings.AllowDeltaTemporality:
	default:
		return "temporality " + temporality.String() + " is not stored, only cumulative"
	}
	if s.strict {
		if _, err := s.metricName.Build(prometheusremotewrite.TranslatorMetricFromOtelMetric(m)); err != nil {
			return err.Error()
		}
	}
	return ""
}

func (s *sieve) number(m pmetric.Metric, p pmetric.NumberDataPoint) bool {
	s.exemplars(m, p.Exemplars())
	flaw := ""
	if p.ValueType() == pmetric.NumberDataPointValueTypeEmpty && !p.Flags().NoRecordedValue() {
		// The converter would make it a zero, which nobody sent.
		flaw = "no value"
	}
	return s.point(m, p, flaw, series.Written{Samples: 1, Exemplars: p.Exemplars().Len()})
}

// point tells whether to remove a point of whatever type.
func (s *sieve) point(m pmetric.Metric, p interface {
	Attributes() pcommon.Map
	Timestamp() pcommon.Timestamp
}, flaw string, lost series.Written,
) bool {
	if flaw == "" && p.Timestamp() == 0 {
		flaw = "no time"
	}
	if flaw == "" {
		flaw = s.attributesFlaw(p.Attributes())
	}
	if flaw == "" && s.strict {
		flaw = s.nameFlaw(p.Attributes(), "")
	}
	if flaw == "" {
		s.first, s.last = min(s.first, p.Timestamp()), max(s.last, p.Timestamp())
		return false
	}
	s.reject(SeriesItem, lost, func() string {
		return "point " + s.show(p.Attributes()) + " of metric " + quoted([]byte(m.Name())) + ": " + flaw
	})
	return true
}

// exemplars removes those without a value, for which the converter refuses the point.
func (s *sieve) exemplars(m pmetric.Metric, es pmetric.ExemplarSlice) {
	es.RemoveIf(func(e pmetric.Exemplar) bool {
		if e.ValueType() != pmetric.ExemplarValueTypeEmpty {
			return false
		}
		s.reject(ExemplarItem, series.Written{Exemplars: 1}, func() string {
			return "exemplar of metric " + quoted([]byte(m.Name())) + ": no value"
		})
		return true
	})
}
