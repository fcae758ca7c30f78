package query

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/util/annotations"
)

// Metadata returns what the nodes know of one metric family, or of all if metric is
// empty: at most limit families, the first by name, and limitPerMetric entries of each.
// A negative limit and a limitPerMetric below 1 are none. The annotations say if
// the answer is partial.
func (f *Fanout) Metadata(ctx context.Context, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, annotations.Annotations, error) {
	g, err := gather(ctx, f, f.newBudget(), "metadata", func(ctx context.Context, n Node, _ *share) (map[string][]metadata.Metadata, error) {
		return n.Source.Metadata(ctx, metric, limit, limitPerMetric)
	})
	if err != nil {
		return nil, nil, err
	}
	return mergeMetadata(g.answers, limit, limitPerMetric), g.warnings, nil
}

func mergeMetadata(answers []map[string][]metadata.Metadata, limit, limitPerMetric int) map[string][]metadata.Metadata {
	merged := map[string][]metadata.Metadata{}
	for _, a := range answers {
		for family, entries := range a {
			merged[family] = append(merged[family], entries...)
		}
	}
	for family, entries := range merged {
		slices.SortFunc(entries, func(a, b metadata.Metadata) int {
			return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Help, b.Help))
		})
		entries = slices.Compact(entries)
		if limitPerMetric > 0 && len(entries) > limitPerMetric {
			entries = entries[:limitPerMetric]
		}
		merged[family] = entries
	}
	if limit >= 0 && len(merged) > limit {
		families := make([]string, 0, len(merged))
		for family := range merged {
			families = append(families, family)
		}
		slices.Sort(families)
		for _, family := range families[limit:] {
			delete(merged, family)
		}
	}
	return merged
}

// Stats returns the statistics of the heads of all nodes, metrics counted by label. The
// annotations say if the answer is partial.
//
// What counts series, or bytes of their labels, is the sum over the nodes divided by the
// copies of each series: exact when all copies are there. Nodes that did not answer are
// taken for the average of the others. What counts distinct values or pairs is the
// greatest that any node has, since most nodes know the same ones: the true number is not
// smaller. An entry that is not in the top list of every node is underestimated; to make
// that rare, nodes are asked for twice as many entries as are wanted.
func (f *Fanout) Stats(ctx context.Context, label string, limit int) (*tsdb.Stats, annotations.Annotations, error) {
	g, err := gather(ctx, f, f.newBudget(), "stats", func(ctx context.Context, n Node, _ *share) (*tsdb.Stats, error) {
		return n.Source.Stats(ctx, label, 2*limit)
	})
	if err != nil {
		return nil, nil, err
	}
	share := sharing{nodes: uint64(len(g.view.Nodes)), answered: uint64(len(g.answers)), copies: uint64(max(g.view.Copies, 1))}
	return mergeStats(g.answers, share, limit), g.warnings, nil
}

// sharing is how series are spread over the nodes that answered.
type sharing struct {
	nodes, answered, copies uint64
}

// distinct estimates how many series make up a sum over the nodes that answered. It
// rounds to the nearest.
func (s sharing) distinct(sum uint64) uint64 {
	d := s.answered * s.copies
	return (sum*s.nodes + d/2) / d
}

func mergeStats(answers []*tsdb.Stats, share sharing, limit int) *tsdb.Stats {
	merged := &tsdb.Stats{
		MinTime:           math.MaxInt64,
		MaxTime:           math.MinInt64,
		IndexPostingStats: &index.PostingsStats{},
	}
	var metrics, labels, values, pairs [][]index.Stat
	for _, a := range answers {
		// The bounds of an empty head are the other way round, and do no harm.
		merged.MinTime = min(merged.MinTime, a.MinTime)
		merged.MaxTime = max(merged.MaxTime, a.MaxTime)
		merged.NumSeries += a.NumSeries
		if p := a.IndexPostingStats; p != nil {
			merged.IndexPostingStats.NumLabelPairs = max(merged.IndexPostingStats.NumLabelPairs, p.NumLabelPairs)
			metrics = append(metrics, p.CardinalityMetricsStats)
			labels = append(labels, p.CardinalityLabelStats)
			values = append(values, p.LabelValueStats)
			pairs = append(pairs, p.LabelValuePairsStats)
		}
	}
	merged.NumSeries = share.distinct(merged.NumSeries)
	merged.IndexPostingStats.CardinalityMetricsStats = mergeTop(metrics, limit, share.sum)
	merged.IndexPostingStats.CardinalityLabelStats = mergeTop(labels, limit, greatest)
	merged.IndexPostingStats.LabelValueStats = mergeTop(values, limit, share.sum)
	merged.IndexPostingStats.LabelValuePairsStats = mergeTop(pairs, limit, share.sum)
	return merged
}

func (s sharing) sum(counts []uint64) uint64 {
	var sum uint64
	for _, c := range counts {
		sum += c
	}
	return s.distinct(sum)
}

func greatest(counts []uint64) uint64 { return slices.Max(counts) }

// mergeTop merges lists of the largest counts, by name.
func mergeTop(lists [][]index.Stat, limit int, merge func([]uint64) uint64) []index.Stat {
	counts := map[string][]uint64{}
	for _, list := range lists {
		for _, s := range list {
			counts[s.Name] = append(counts[s.Name], s.Count)
		}
	}
	top := make([]index.Stat, 0, len(counts))
	for name, c := range counts {
		top = append(top, index.Stat{Name: name, Count: merge(c)})
	}
	slices.SortFunc(top, func(a, b index.Stat) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	return top[:min(len(top), max(limit, 0))]
}
