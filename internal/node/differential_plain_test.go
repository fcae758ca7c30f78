package node

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

// plain is the plain way of taking writes: Prometheus's own decoders, the rules as they are
// documented, and a map. It is what a cluster has to answer and to hold. A node that remembers
// nothing would do as well, but would share what it has in common with the others.
type plain struct {
	mu     sync.Mutex
	series map[string]*keptSeries // by the canonical labels
	// exact is set where nothing goes wrong that could have owners lack something: then it
	// is known which conflicts are noticed, and all exemplars are kept.
	exact bool
	// startTimes is set where stores keep start times.
	startTimes bool
}

type keptSeries struct {
	labels labels.Labels
	// samples are the values that were sent for a time. Of several, each may be answered.
	samples map[int64]map[string]bool
	// exemplars are those that may be kept; true are those that a store keeps for certain, as
	// they came with a sample: it takes none of a series that its head has dropped.
	exemplars map[string]bool
	// exemplarAt is the last one of a time: of several the TSDB may drop all but one.
	exemplarAt map[int64]string
	newest     int64
}

func newPlain(exact, startTimes bool) *plain {
	return &plain{series: map[string]*keptSeries{}, exact: exact, startTimes: startTimes}
}

// plainRequest is a decoded request, of either version.
type plainRequest struct {
	series []plainItem
	// malformed requests are refused as a whole.
	malformed bool
}

// plainItem is a series of a request.
type plainItem struct {
	// invalid counts what is wrong with the series: itself, or some of its histograms.
	invalid   int
	labels    labels.Labels
	samples   []plainSample
	exemplars []exemplar.Exemplar
}

type plainSample struct {
	t      int64
	text   string
	native bool
}

// verdict is what has to be answered to a request.
type verdict struct {
	malformed bool
	// invalid counts the items that are refused. Up to disputed more may be: there are
	// several values for their time.
	invalid, disputed int
	// floats and histograms are the samples that are written, with what is disputed.
	floats, histograms int
	// exemplars are those that may be written, certain those that are if nothing goes wrong.
	exemplars, certain int
}

func plainFloat(v float64) string {
	if value.IsStaleNaN(v) {
		return "stale" // of whichever type the store makes it
	}
	return fmt.Sprintf("%016x", math.Float64bits(v))
}

func plainHistogram(h *histogram.Histogram) string {
	if value.IsStaleNaN(h.Sum) {
		return plainFloat(h.Sum)
	}
	h = h.Copy().Compact(0)
	return fmt.Sprintf("int %t %d %x %d %d %x %v %v %v %v %x", h.CounterResetHint == histogram.GaugeType, h.Schema, math.Float64bits(h.ZeroThreshold),
		h.ZeroCount, h.Count, math.Float64bits(h.Sum), h.PositiveSpans, h.PositiveBuckets, h.NegativeSpans, h.NegativeBuckets, h.CustomValues)
}

func plainFloatHistogram(h *histogram.FloatHistogram) string {
	if value.IsStaleNaN(h.Sum) {
		return plainFloat(h.Sum)
	}
	h = h.Copy().Compact(0)
	return fmt.Sprintf("float %t %d %x %x %x %x %v %x %v %x %x", h.CounterResetHint == histogram.GaugeType, h.Schema, math.Float64bits(h.ZeroThreshold),
		math.Float64bits(h.ZeroCount), math.Float64bits(h.Count), math.Float64bits(h.Sum), h.PositiveSpans, h.PositiveBuckets, h.NegativeSpans, h.NegativeBuckets, h.CustomValues)
}

func plainExemplar(e exemplar.Exemplar) string {
	return fmt.Sprintf("%s %016x %d", e.Labels, math.Float64bits(e.Value), e.Ts)
}

// text is how a sample is compared: bit for bit, but for the empty buckets of histograms and
// their hints, which chunks choose.
func (p *plain) text(st int64, s string) string {
	if p.startTimes {
		return fmt.Sprintf("%s from %d", s, st)
	}
	return s
}

// canonical returns the labels of a series, false if they are invalid.
func canonical(pairs [][2]string) (labels.Labels, bool) {
	if len(pairs) > 128 {
		return labels.EmptyLabels(), false
	}
	byName := map[string]string{}
	for _, p := range pairs {
		if _, twice := byName[p[0]]; twice || p[0] == "" || !utf8.ValidString(p[0]) || !utf8.ValidString(p[1]) {
			return labels.EmptyLabels(), false
		}
		byName[p[0]] = p[1]
	}
	for name, text := range byName {
		if text == "" {
			delete(byName, name)
		}
	}
	return labels.FromMap(byName), true
}

// byReference returns the pairs that references name, false if there are none such.
func byReference(refs []uint32, symbols []string) (pairs [][2]string, ok bool) {
	for i := 0; i < len(refs); i += 2 {
		if i+1 >= len(refs) || int(refs[i]) >= len(symbols) || int(refs[i+1]) >= len(symbols) {
			return nil, false
		}
		pairs = append(pairs, [2]string{symbols[refs[i]], symbols[refs[i+1]]})
	}
	return pairs, true
}

// hasField tells whether a message has one of these fields.
func hasField(msg []byte, fields ...protowire.Number) bool {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return false
		}
		for _, f := range fields {
			if num == f {
				return true
			}
		}
		m := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if m < 0 {
			return false
		}
		msg = msg[n+m:]
	}
	return false
}

func (p *plain) decode(body []byte, version int) plainRequest {
	msg, err := snappy.Decode(nil, body)
	if err != nil {
		return plainRequest{malformed: true}
	}
	if version == 1 {
		return p.decode1(msg)
	}
	return p.decode2(msg)
}

func (p *plain) decode1(msg []byte) (out plainRequest) {
	var req prompb.WriteRequest
	// A body of the other version is not taken for an empty one.
	if req.Unmarshal(msg) != nil || hasField(msg, 4, 5) {
		return plainRequest{malformed: true}
	}
	for _, ts := range req.Timeseries {
		var it plainItem
		var ok bool
		if it.labels, ok = canonical(pairsOf(ts.Labels)); !ok || it.labels.Get(labels.MetricName) == "" {
			it.invalid++
			out.series = append(out.series, it)
			continue
		}
		for _, s := range ts.Samples {
			it.samples = append(it.samples, plainSample{s.Timestamp, p.text(0, plainFloat(s.Value)), false})
		}
		for _, h := range ts.Histograms {
			if h.IsFloatHistogram() {
				it.native(p, 0, h.Timestamp, nil, h.ToFloatHistogram())
			} else {
				it.native(p, 0, h.Timestamp, h.ToIntHistogram(), nil)
			}
		}
		for _, e := range ts.Exemplars {
			it.exemplar(pairsOf(e.Labels), e.Value, e.Timestamp)
		}
		out.series = append(out.series, it)
	}
	return out
}

func pairsOf(ls []prompb.Label) (pairs [][2]string) {
	for _, l := range ls {
		pairs = append(pairs, [2]string{l.Name, l.Value})
	}
	return pairs
}

func (p *plain) decode2(msg []byte) (out plainRequest) {
	var req writev2.Request
	if req.Unmarshal(msg) != nil || hasField(msg, 1, 3) || len(req.Symbols) > 0 && req.Symbols[0] != "" {
		return plainRequest{malformed: true}
	}
	for _, ts := range req.Timeseries {
		var it plainItem
		pairs, ok := byReference(ts.LabelsRefs, req.Symbols)
		if ok {
			it.labels, ok = canonical(pairs)
		}
		n := len(req.Symbols)
		empty := len(ts.Samples)+len(ts.Histograms)+len(ts.Exemplars) == 0
		if !ok || it.labels.Get(labels.MetricName) == "" || int(ts.Metadata.HelpRef) >= n || int(ts.Metadata.UnitRef) >= n || empty {
			it.invalid++
			out.series = append(out.series, it)
			continue
		}
		for _, s := range ts.Samples {
			it.samples = append(it.samples, plainSample{s.Timestamp, p.text(s.StartTimestamp, plainFloat(s.Value)), false})
		}
		for _, h := range ts.Histograms {
			if h.IsFloatHistogram() {
				it.native(p, h.StartTimestamp, h.Timestamp, nil, h.ToFloatHistogram())
			} else {
				it.native(p, h.StartTimestamp, h.Timestamp, h.ToIntHistogram(), nil)
			}
		}
		for _, e := range ts.Exemplars {
			if pairs, ok := byReference(e.LabelsRefs, req.Symbols); ok {
				it.exemplar(pairs, e.Value, e.Timestamp)
			}
		}
		out.series = append(out.series, it)
	}
	return out
}

// native adds a histogram, unless it is invalid.
func (it *plainItem) native(p *plain, st, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) {
	var err error
	var text string
	if h != nil {
		err, text = h.Validate(), plainHistogram(h)
	} else {
		err, text = fh.Validate(), plainFloatHistogram(fh)
	}
	if err != nil {
		it.invalid++
		return
	}
	it.samples = append(it.samples, plainSample{t, p.text(st, text), true})
}

// exemplar adds an exemplar, unless it is invalid: that changes no answer.
func (it *plainItem) exemplar(pairs [][2]string, v float64, t int64) {
	ls, ok := canonical(pairs)
	size := 0
	ls.Range(func(l labels.Label) { size += utf8.RuneCountInString(l.Name) + utf8.RuneCountInString(l.Value) })
	if ok && size <= exemplar.ExemplarMaxLabelSetLength {
		it.exemplars = append(it.exemplars, exemplar.Exemplar{Labels: ls, Value: v, Ts: t, HasTs: true})
	}
}

// storable tells whether samples of a time are taken. Requests keep away from where that
// depends on what a node has got so far.
func storable(t int64, now time.Time) bool {
	return t > now.Add(-time.Hour).UnixMilli() && t < now.Add(5*time.Minute).UnixMilli()
}

// take stores a request that was answered, by the first attempt or a later one, and returns
// what the answer has to be.
func (p *plain) take(body []byte, version int, first bool) (v verdict) {
	req := p.decode(body, version)
	if req.malformed {
		return verdict{malformed: true}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	// A conflict is noticed with what was stored before the request.
	newest, sampled := map[*keptSeries]int64{}, map[*keptSeries]bool{}
	for i := range req.series {
		it := &req.series[i]
		v.invalid += it.invalid
		for _, sample := range it.samples {
			if !storable(sample.t, now) {
				v.invalid++
				continue
			}
			s := p.keep(it.labels)
			if !sampled[s] {
				newest[s], sampled[s] = s.newest, true
			}
			recent := sample.t > now.Add(-time.Minute).UnixMilli()
			p.sample(&v, s, sample, first && recent && newest[s] == sample.t)
		}
	}
	for i := range req.series {
		it := &req.series[i]
		for _, e := range it.exemplars {
			if !storable(e.Ts, now) {
				continue
			}
			s := p.keep(it.labels)
			v.exemplars++
			text := plainExemplar(e)
			if other, ok := s.exemplarAt[e.Ts]; sampled[s] && (!ok || other == text) {
				s.exemplars[text] = true
				v.certain++
			} else if !s.exemplars[text] {
				s.exemplars[text] = false
			}
			s.exemplarAt[e.Ts] = text
		}
	}
	return v
}

// keep returns the series with those labels, a new one if need be.
func (p *plain) keep(ls labels.Labels) *keptSeries {
	key := ls.String()
	s := p.series[key]
	if s == nil {
		s = &keptSeries{labels: ls, samples: map[int64]map[string]bool{}, exemplars: map[string]bool{}, exemplarAt: map[int64]string{}}
		p.series[key] = s
	}
	return s
}

func (p *plain) sample(v *verdict, s *keptSeries, sample plainSample, atNewest bool) {
	values := s.samples[sample.t]
	if p.exact && atNewest && len(values) == 1 && !values[sample.text] && s.ownedBySender() {
		v.invalid++
		return
	}
	if values == nil {
		values = map[string]bool{}
		s.samples[sample.t] = values
	}
	values[sample.text] = true
	s.newest = max(s.newest, sample.t)
	if len(values) > 1 {
		v.disputed++
	}
	if sample.native {
		v.histograms++
	} else {
		v.floats++
	}
}

// ownedBySender tells whether one sender only sends a series, so that it is known which of its
// samples is the newest.
func (s *keptSeries) ownedBySender() bool {
	return strings.HasPrefix(s.labels.Get(labels.MetricName), ownMetric)
}
