package transport

import (
	"errors"
	"fmt"
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

var errSymbolRange = errors.New("symbol reference out of range")

// requestBytes is about how large an append request may grow before the rest of a batch
// goes into another one. A single series is never cut.
const requestBytes = 8 << 20

// appendRequest is a part of a batch as it travels. first is the number of its first
// series in the batch.
type appendRequest struct {
	*peerpb.AppendRequest
	first int
}

// batchToProto encodes a batch, in one request or more, without changing or keeping it,
// except that strings are shared.
func batchToProto(b *series.Batch) ([]appendRequest, error) {
	var requests []appendRequest
	e := newEncoder(len(b.Series))
	cut := func(next int) {
		requests = append(requests, appendRequest{AppendRequest: e.request(), first: e.first})
		e = newEncoder(len(b.Series) - next)
		e.first = next
	}
	for i := range b.Series {
		if e.size > requestBytes {
			cut(i)
		}
		if err := e.series(&b.Series[i]); err != nil {
			return nil, fmt.Errorf("encoding histogram of series %s: %w", b.Series[i].Labels, err)
		}
	}
	for _, m := range b.Metadata {
		if e.size > requestBytes {
			cut(len(b.Series))
		}
		e.metadata(m)
	}
	cut(len(b.Series))
	return requests, nil
}

// encoder builds one append request.
type encoder struct {
	symbols symbolTable
	req     *peerpb.AppendRequest
	first   int
	// size is about the encoded size of what was added, but for the symbols.
	size int
}

func newEncoder(series int) *encoder {
	return &encoder{
		symbols: symbolTable{index: make(map[string]uint32, series+16)},
		req:     &peerpb.AppendRequest{Series: make([]*peerpb.Series, 0, series)},
	}
}

func (e *encoder) request() *peerpb.AppendRequest {
	e.req.Symbols = e.symbols.strings
	return e.req
}

func (e *encoder) series(s *series.Series) error {
	before := e.symbols.bytes
	ps := &peerpb.Series{
		Labels:  e.symbols.labels(s.Labels),
		Samples: make([]*peerpb.Sample, len(s.Samples)),
	}
	for j := range s.Samples {
		p, err := sampleToProto(&s.Samples[j])
		if err != nil {
			return err
		}
		ps.Samples[j] = p
		e.size += 24 + len(p.Histogram)
	}
	for _, x := range s.Exemplars {
		refs := e.symbols.labels(x.Labels)
		ps.Exemplars = append(ps.Exemplars, &peerpb.Exemplar{
			Labels: refs, FloatBits: math.Float64bits(x.Value), TimestampMs: x.Ts, HasTimestamp: x.HasTs,
		})
		e.size += 24 + 4*len(refs)
	}
	e.size += 8 + 4*len(ps.Labels) + e.symbols.bytes - before
	e.req.Series = append(e.req.Series, ps)
	return nil
}

func (e *encoder) metadata(m series.Metadata) {
	before := e.symbols.bytes
	e.req.Metadata = append(e.req.Metadata, &peerpb.FamilyRefs{
		Family: e.symbols.ref(m.Family), Type: e.symbols.ref(string(m.Type)),
		Unit: e.symbols.ref(m.Unit), Help: e.symbols.ref(m.Help),
	})
	e.size += 24 + e.symbols.bytes - before
}

func sampleToProto(s *series.Sample) (*peerpb.Sample, error) {
	p := &peerpb.Sample{TimestampMs: s.T, StartTimestampMs: s.ST}
	var h writev2.Histogram
	switch {
	case s.FH != nil:
		h = writev2.FromFloatHistogram(s.ST, s.T, s.FH)
	case s.H != nil:
		h = writev2.FromIntHistogram(s.ST, s.T, s.H)
	default:
		p.FloatBits = math.Float64bits(s.V)
		return p, nil
	}
	var err error
	p.Histogram, err = h.Marshal()
	return p, err
}

// batchFromProto decodes a batch; the error names what a well-behaved peer never sends.
func batchFromProto(req *peerpb.AppendRequest) (*series.Batch, error) {
	b := &series.Batch{Series: make([]series.Series, len(req.Series))}
	builder := labels.NewScratchBuilder(16)
	for i, ps := range req.Series {
		ls, err := labelsFromSymbols(&builder, ps.Labels, req.Symbols)
		if err != nil {
			return nil, fmt.Errorf("series %d: %w", i, err)
		}
		s := series.Series{Labels: ls, Samples: make([]series.Sample, len(ps.Samples))}
		for j, p := range ps.Samples {
			if s.Samples[j], err = sampleFromProto(p); err != nil {
				return nil, fmt.Errorf("series %s: sample %d: %w", ls, j, err)
			}
		}
		for _, e := range ps.Exemplars {
			els, err := labelsFromSymbols(&builder, e.Labels, req.Symbols)
			if err != nil {
				return nil, fmt.Errorf("series %s: exemplar: %w", ls, err)
			}
			s.Exemplars = append(s.Exemplars, exemplar.Exemplar{
				Labels: els, Value: math.Float64frombits(e.FloatBits), Ts: e.TimestampMs, HasTs: e.HasTimestamp,
			})
		}
		b.Series[i] = s
	}
	for _, m := range req.Metadata {
		for _, ref := range []uint32{m.Family, m.Type, m.Unit, m.Help} {
			if int(ref) >= len(req.Symbols) {
				return nil, fmt.Errorf("metadata: %w", errSymbolRange)
			}
		}
		b.Metadata = append(b.Metadata, series.Metadata{Family: req.Symbols[m.Family], Metadata: metadata.Metadata{
			Type: model.MetricType(req.Symbols[m.Type]), Unit: req.Symbols[m.Unit], Help: req.Symbols[m.Help],
		}})
	}
	return b, nil
}

func sampleFromProto(p *peerpb.Sample) (series.Sample, error) {
	s := series.Sample{ST: p.StartTimestampMs, T: p.TimestampMs}
	if len(p.Histogram) == 0 {
		s.V = math.Float64frombits(p.FloatBits)
		return s, nil
	}
	var h writev2.Histogram
	if err := h.Unmarshal(p.Histogram); err != nil {
		return s, err
	}
	if h.IsFloatHistogram() {
		s.FH = h.ToFloatHistogram()
	} else {
		s.H = h.ToIntHistogram()
	}
	return s, nil
}

func outcomeToProto(o series.Outcome) *peerpb.AppendResponse {
	resp := &peerpb.AppendResponse{}
	for _, r := range o.Refusals {
		// A coordinator judges a limit and an invalid sample alike; the message tells them apart.
		reason := peerpb.Refusal_REASON_INVALID
		if r.Reason == series.Conflict {
			reason = peerpb.Refusal_REASON_CONFLICT
		}
		resp.Refusals = append(resp.Refusals, &peerpb.Refusal{
			Series: uint32(r.Series), Item: uint32(r.Item), Exemplar: r.Exemplar, Reason: reason, Message: r.Message,
		})
	}
	return resp
}

// outcomeFromProto adds the refusals of a request to an outcome, and checks their indexes
// against what was sent.
func outcomeFromProto(resp *peerpb.AppendResponse, req appendRequest, o *series.Outcome) error {
	for _, r := range resp.Refusals {
		if int(r.Series) >= len(req.Series) {
			return fmt.Errorf("refusal of series %d of %d", r.Series, len(req.Series))
		}
		items := len(req.Series[r.Series].Samples)
		if r.Exemplar {
			items = len(req.Series[r.Series].Exemplars)
		}
		if int(r.Item) >= items {
			return fmt.Errorf("refusal of item %d of %d in series %d", r.Item, items, r.Series)
		}
		reason := series.Invalid
		if r.Reason == peerpb.Refusal_REASON_CONFLICT {
			reason = series.Conflict
		}
		o.Refusals = append(o.Refusals, series.Refusal{
			Series: req.first + int(r.Series), Item: int(r.Item), Exemplar: r.Exemplar, Reason: reason, Message: r.Message,
		})
	}
	return nil
}

func metadataFromProto(m *peerpb.FamilyMetadata) metadata.Metadata {
	return metadata.Metadata{Type: model.MetricType(m.Type), Unit: m.Unit, Help: m.Help}
}

// symbolTable numbers the distinct strings of one request.
type symbolTable struct {
	strings []string
	index   map[string]uint32
	bytes   int // of all strings
}

func (t *symbolTable) ref(s string) uint32 {
	if i, ok := t.index[s]; ok {
		return i
	}
	i := uint32(len(t.strings))
	t.index[s] = i
	t.strings = append(t.strings, s)
	t.bytes += len(s) + 4
	return i
}

func (t *symbolTable) labels(ls labels.Labels) []uint32 {
	refs := make([]uint32, 0, 2*ls.Len())
	ls.Range(func(l labels.Label) {
		refs = append(refs, t.ref(l.Name), t.ref(l.Value))
	})
	return refs
}

func labelsFromSymbols(b *labels.ScratchBuilder, refs []uint32, symbols []string) (labels.Labels, error) {
	if len(refs)%2 != 0 {
		return labels.EmptyLabels(), fmt.Errorf("%d label references, not pairs", len(refs))
	}
	b.Reset()
	for i := 0; i < len(refs); i += 2 {
		if int(refs[i]) >= len(symbols) || int(refs[i+1]) >= len(symbols) {
			return labels.EmptyLabels(), errSymbolRange
		}
		b.Add(symbols[refs[i]], symbols[refs[i+1]])
	}
	return b.Labels(), nil
}

func labelsToPairs(ls labels.Labels) []string {
	pairs := make([]string, 0, 2*ls.Len())
	ls.Range(func(l labels.Label) { pairs = append(pairs, l.Name, l.Value) })
	return pairs
}

func labelsFromPairs(b *labels.ScratchBuilder, pairs []string) (labels.Labels, error) {
	if len(pairs)%2 != 0 {
		return labels.EmptyLabels(), fmt.Errorf("%d label strings, not pairs", len(pairs))
	}
	b.Reset()
	for i := 0; i < len(pairs); i += 2 {
		b.Add(pairs[i], pairs[i+1])
	}
	return b.Labels(), nil
}

func matchersToProto(ms []*labels.Matcher) []*peerpb.Matcher {
	out := make([]*peerpb.Matcher, len(ms))
	for i, m := range ms {
		out[i] = &peerpb.Matcher{Type: peerpb.Matcher_Type(m.Type), Name: []byte(m.Name), Value: []byte(m.Value)}
	}
	return out
}

func matchersFromProto(ms []*peerpb.Matcher) ([]*labels.Matcher, error) {
	out := make([]*labels.Matcher, len(ms))
	for i, m := range ms {
		if m.Type < peerpb.Matcher_TYPE_EQUAL || m.Type > peerpb.Matcher_TYPE_NOT_REGEXP {
			return nil, fmt.Errorf("matcher type %d is not known", m.Type)
		}
		var err error
		if out[i], err = labels.NewMatcher(labels.MatchType(m.Type), string(m.Name), string(m.Value)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func hintsToProto(h *storage.SelectHints) *peerpb.Hints {
	if h == nil {
		return nil
	}
	var grouping [][]byte
	for _, g := range h.Grouping {
		grouping = append(grouping, []byte(g))
	}
	return &peerpb.Hints{
		StartMs: h.Start, EndMs: h.End, Limit: int64(h.Limit), StepMs: h.Step, Func: h.Func, Grouping: grouping,
		By: h.By, RangeMs: h.Range, ShardCount: h.ShardCount, ShardIndex: h.ShardIndex, DisableTrimming: h.DisableTrimming,
	}
}

func hintsFromProto(h *peerpb.Hints) *storage.SelectHints {
	if h == nil {
		return nil
	}
	var grouping []string
	for _, g := range h.Grouping {
		grouping = append(grouping, string(g))
	}
	return &storage.SelectHints{
		Start: h.StartMs, End: h.EndMs, Limit: int(h.Limit), Step: h.StepMs, Func: h.Func, Grouping: grouping,
		By: h.By, Range: h.RangeMs, ShardCount: h.ShardCount, ShardIndex: h.ShardIndex, DisableTrimming: h.DisableTrimming,
	}
}

func statsToProto(s *tsdb.Stats) *peerpb.StatsResponse {
	resp := &peerpb.StatsResponse{NumSeries: s.NumSeries, MinTimeMs: s.MinTime, MaxTimeMs: s.MaxTime}
	if p := s.IndexPostingStats; p != nil {
		resp.NumLabelPairs = uint64(p.NumLabelPairs)
		resp.SeriesByMetric = countsToProto(p.CardinalityMetricsStats)
		resp.ValuesByLabel = countsToProto(p.CardinalityLabelStats)
		resp.MemoryByLabel = countsToProto(p.LabelValueStats)
		resp.SeriesByLabelPair = countsToProto(p.LabelValuePairsStats)
	}
	return resp
}

func statsFromProto(s *peerpb.StatsResponse) *tsdb.Stats {
	return &tsdb.Stats{
		NumSeries: s.NumSeries, MinTime: s.MinTimeMs, MaxTime: s.MaxTimeMs,
		IndexPostingStats: &index.PostingsStats{
			CardinalityMetricsStats: countsFromProto(s.SeriesByMetric),
			CardinalityLabelStats:   countsFromProto(s.ValuesByLabel),
			LabelValueStats:         countsFromProto(s.MemoryByLabel),
			LabelValuePairsStats:    countsFromProto(s.SeriesByLabelPair),
			NumLabelPairs:           int(s.NumLabelPairs),
		},
	}
}

func countsToProto(stats []index.Stat) []*peerpb.StatsResponse_Count {
	out := make([]*peerpb.StatsResponse_Count, len(stats))
	for i, s := range stats {
		out[i] = &peerpb.StatsResponse_Count{Name: s.Name, Count: s.Count}
	}
	return out
}

func countsFromProto(counts []*peerpb.StatsResponse_Count) []index.Stat {
	out := make([]index.Stat, len(counts))
	for i, c := range counts {
		out[i] = index.Stat{Name: c.Name, Count: c.Count}
	}
	return out
}
