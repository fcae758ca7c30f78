package transport

import (
	"fmt"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

func metadataFromProto(m *peerpb.FamilyMetadata) metadata.Metadata {
	return metadata.Metadata{Type: model.MetricType(m.Type), Unit: m.Unit, Help: m.Help}
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
