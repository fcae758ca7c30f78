package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// federate serves GET /federate: the last sample of every selected series, as an
// exposition that another Prometheus scrapes. It answers as Prometheus's handler does,
// which is not exported, except that an error while reading a series is an error.
func (a *API) federate(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		a.answerTextError(w, badData{fmt.Errorf("error parsing form values: %w", err)})
		return
	}
	matcherSets, err := a.opts.Sources.Parser.ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		a.answerTextError(w, badData{err})
		return
	}
	samples, err := a.lastSamples(r.Context(), matcherSets)
	if err != nil {
		a.answerTextError(w, err)
		return
	}
	format := expfmt.NegotiateAccept(r.Header,
		expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText),
		expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
	w.Header().Set("Content-Type", string(format))
	e := exposition{enc: expfmt.NewEncoder(w, format), native: isProtobuf(format)}
	for i := range samples {
		if err := e.add(&samples[i]); err != nil {
			a.brokenFederation(w, r, err)
			return
		}
	}
	if err := e.flush(); err != nil {
		a.brokenFederation(w, r, err)
	}
}

// brokenFederation ends an exposition that cannot go on. What went out already looks
// like a whole one, so the connection must not end well.
func (a *API) brokenFederation(w http.ResponseWriter, r *http.Request, err error) {
	a.logger.Warn("federation broke off", "client", r.RemoteAddr, "err", err)
	a.answerTextError(w, fmt.Errorf("encoding the exposition: %w", err))
}

func isProtobuf(f expfmt.Format) bool {
	switch f.FormatType() {
	case expfmt.TypeProtoDelim, expfmt.TypeProtoText, expfmt.TypeProtoCompact:
		return true
	}
	return false
}

// lastSamples returns the last sample within the lookback delta of every series that
// any of the sets matches, sorted by metric name. Stale series are left out.
func (a *API) lastSamples(ctx context.Context, matcherSets [][]*labels.Matcher) ([]promql.Sample, error) {
	now, lookback := a.opts.Now(), a.opts.Limits.LookbackDelta
	mint, maxt := timestamp.FromTime(now.Add(-lookback)), timestamp.FromTime(now)
	q, err := a.reads.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	defer q.Close()

	sets := make([]storage.SeriesSet, 0, len(matcherSets))
	for _, matchers := range matcherSets {
		sets = append(sets, q.Select(ctx, true, &storage.SelectHints{Start: mint, End: maxt}, matchers...))
	}
	set := storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)

	var samples []promql.Sample
	buffer := storage.NewBuffer(lookback.Milliseconds())
	var it chunkenc.Iterator
	for set.Next() {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("selecting series: %w", err)
		}
		series := set.At()
		it = series.Iterator(it)
		buffer.Reset(it)
		s, ok := lastSample(buffer, maxt)
		if err := it.Err(); err != nil {
			return nil, fmt.Errorf("reading series %s: %w", series.Labels(), err)
		}
		if ok {
			s.Metric = series.Labels()
			samples = append(samples, s)
		}
	}
	set.Warnings() // Notes them: an exposition has no room for warnings.
	if err := set.Err(); err != nil {
		return nil, fmt.Errorf("selecting series: %w", err)
	}
	slices.SortStableFunc(samples, func(a, b promql.Sample) int {
		return strings.Compare(a.Metric.Get(model.MetricNameLabel), b.Metric.Get(model.MetricNameLabel))
	})
	return samples, nil
}

// lastSample returns the last sample of a series at or before maxt, unless it is a
// stale marker. The exposition formats cannot say "stale"; the reader's own staleness
// does.
func lastSample(it *storage.BufferedSeriesIterator, maxt int64) (s promql.Sample, ok bool) {
	switch it.Seek(maxt) {
	case chunkenc.ValFloat:
		s.T, s.F = it.At()
	case chunkenc.ValHistogram, chunkenc.ValFloatHistogram:
		s.T, s.H = it.AtFloatHistogram(nil)
	default:
		before, found := it.PeekBack(1)
		if !found {
			return s, false
		}
		s.T = before.T()
		switch before.Type() {
		case chunkenc.ValFloat:
			s.F = before.F()
		case chunkenc.ValHistogram:
			s.H = before.H().ToFloat(nil)
		case chunkenc.ValFloatHistogram:
			s.H = before.FH()
		default:
			return s, false
		}
	}
	if s.H != nil {
		return s, !value.IsStaleNaN(s.H.Sum)
	}
	return s, !value.IsStaleNaN(s.F)
}

// exposition gathers consecutive samples of one name and kind into a family. A name
// with several kinds makes several families, which no standard allows but Prometheus
// reads.
type exposition struct {
	enc expfmt.Encoder
	// native tells whether the format can hold native histograms.
	native bool
	family *dto.MetricFamily
}

// add appends a sample. Samples without a name are left out, and native histograms that
// the format has no place for; those with custom buckets become classic ones.
func (e *exposition) add(s *promql.Sample) error {
	name := s.Metric.Get(model.MetricNameLabel)
	if name == "" || (s.H != nil && !s.H.UsesCustomBuckets() && !e.native) {
		return nil
	}
	kind := familyType(s.H)
	if e.family == nil || e.family.GetName() != name || e.family.GetType() != kind {
		if err := e.flush(); err != nil {
			return err
		}
		e.family = &dto.MetricFamily{Name: &name, Type: &kind}
	}
	e.family.Metric = append(e.family.Metric, metricOf(s))
	return nil
}

// flush sends the family that was gathered, if any.
func (e *exposition) flush() error {
	if e.family == nil {
		return nil
	}
	family := e.family
	e.family = nil
	return e.enc.Encode(family)
}

func familyType(h *histogram.FloatHistogram) dto.MetricType {
	switch {
	case h == nil:
		return dto.MetricType_UNTYPED
	case h.CounterResetHint == histogram.GaugeType:
		return dto.MetricType_GAUGE_HISTOGRAM
	}
	return dto.MetricType_HISTOGRAM
}

// metricOf turns a sample into a metric. A metric without an instance gets an empty
// one, so that whoever scrapes it with honor_labels does not add its own.
func metricOf(s *promql.Sample) *dto.Metric {
	m := &dto.Metric{TimestampMs: &s.T}
	hasInstance := false
	s.Metric.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel || l.Value == "" {
			return
		}
		hasInstance = hasInstance || l.Name == model.InstanceLabel
		m.Label = append(m.Label, &dto.LabelPair{Name: &l.Name, Value: &l.Value})
	})
	if !hasInstance {
		m.Label = append(m.Label, &dto.LabelPair{Name: ptr[string](model.InstanceLabel), Value: ptr("")})
	}
	switch {
	case s.H == nil:
		m.Untyped = &dto.Untyped{Value: &s.F}
	case s.H.UsesCustomBuckets():
		m.Histogram = classicHistogram(s.H)
	default:
		m.Histogram = nativeHistogram(s.H)
	}
	return m
}

func ptr[T any](v T) *T { return &v }

func nativeHistogram(h *histogram.FloatHistogram) *dto.Histogram {
	return &dto.Histogram{
		SampleCountFloat: &h.Count,
		SampleSum:        &h.Sum,
		Schema:           &h.Schema,
		ZeroThreshold:    &h.ZeroThreshold,
		ZeroCountFloat:   &h.ZeroCount,
		PositiveSpan:     bucketSpans(h.PositiveSpans),
		PositiveCount:    h.PositiveBuckets,
		NegativeSpan:     bucketSpans(h.NegativeSpans),
		NegativeCount:    h.NegativeBuckets,
	}
}

func bucketSpans(spans []histogram.Span) []*dto.BucketSpan {
	var out []*dto.BucketSpan
	for _, s := range spans {
		out = append(out, &dto.BucketSpan{Offset: &s.Offset, Length: &s.Length})
	}
	return out
}

// classicHistogram counts custom buckets up. The bucket without an upper bound is left
// to the encoder, which adds it where the format needs it.
func classicHistogram(h *histogram.FloatHistogram) *dto.Histogram {
	counts := make([]float64, len(h.CustomValues)+1)
	for it := h.PositiveBucketIterator(); it.Next(); {
		if b := it.At(); int(b.Index) < len(counts) {
			counts[b.Index] = b.Count
		}
	}
	out := &dto.Histogram{SampleCountFloat: &h.Count, SampleSum: &h.Sum}
	var cumulative float64
	for i, bound := range h.CustomValues {
		cumulative += counts[i]
		out.Bucket = append(out.Bucket, &dto.Bucket{UpperBound: ptr(bound), CumulativeCountFloat: ptr(cumulative)})
	}
	return out
}
