package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// openDB opens a TSDB that takes samples of any age in any order.
func openDB(tb testing.TB) *tsdb.DB {
	tb.Helper()
	opts := tsdb.DefaultOptions()
	opts.MinBlockDuration = 1 << 40
	opts.MaxBlockDuration = 1 << 40
	opts.RetentionDuration = 0
	opts.OutOfOrderTimeWindow = 1 << 40
	opts.EnableExemplarStorage = true
	opts.MaxExemplars = 1000
	opts.EnableSharding = true
	opts.EnableSTStorage = true
	opts.FloatChunkEncoding = chunkenc.EncXOR2
	opts.EnableHistogramSTEncoding = true
	db, err := tsdb.Open(tb.TempDir(), nil, nil, opts, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	db.DisableCompactions()
	return db
}

// write appends one sample.
func write(tb testing.TB, db *tsdb.DB, ls labels.Labels, s series.Sample) {
	tb.Helper()
	app := db.AppenderV2(tb.Context())
	if _, err := app.Append(0, ls, s.ST, s.T, s.V, s.H, s.FH, storage.AppendV2Options{}); err != nil {
		tb.Fatalf("appending %s at %d: %v", ls, s.T, err)
	}
	if err := app.Commit(); err != nil {
		tb.Fatal(err)
	}
}

// dbSource is a node whose data is a TSDB. It looks like a local store: what it hands
// out is gone when the set is closed.
type dbSource struct {
	failing
	*tsdb.DB
}

type closingSet struct {
	storage.ChunkSeriesSet
	querier storage.ChunkQuerier
}

func (s closingSet) Close() error { return s.querier.Close() }

func (s dbSource) State(context.Context) (proof.State, error) { return proof.State{}, nil }

func (s dbSource) Select(ctx context.Context, req SelectRequest) storage.ChunkSeriesSet {
	q, err := s.ChunkQuerier(req.Mint, req.Maxt)
	if err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	return closingSet{q.Select(ctx, true, req.Hints, req.Matchers...), q}
}

func (s dbSource) Labels(ctx context.Context, q series.LabelQuery, take func(int64) error) (all []string, err error) {
	querier, err := s.Querier(q.Mint, q.Maxt)
	if err != nil {
		return nil, err
	}
	defer querier.Close()
	if q.Name == "" {
		all, _, err = querier.LabelNames(ctx, nil, slices.Clone(q.Matchers)...)
	} else {
		all, _, err = querier.LabelValues(ctx, q.Name, nil, slices.Clone(q.Matchers)...)
	}
	if q.Limit > 0 {
		all = all[:min(q.Limit, len(all))]
	}
	for _, v := range all {
		err = errors.Join(err, take(int64(len(v))+series.StringOverhead))
	}
	return all, err
}

func (s dbSource) Exemplars(ctx context.Context, start, end int64, ms [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	q, err := s.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	return q.Select(start, end, ms...)
}

func (dbSource) Metadata(context.Context, string, int, int) (map[string][]metadata.Metadata, error) {
	return nil, nil
}

func (s dbSource) Stats(_ context.Context, label string, limit int) (*tsdb.Stats, error) {
	return s.Head().Stats(label, limit), nil
}

// nodesOf makes nodes of sources, named n0, n1 and so on.
func nodesOf(sources ...Source) []Node {
	nodes := make([]Node, len(sources))
	for i, s := range sources {
		nodes[i] = Node{ID: table.NodeID(fmt.Sprintf("n%d", i)), Slot: i, Source: s}
	}
	return nodes
}

// fixed returns the same view always.
func fixed(quorum int, sources ...Source) func() (View, error) {
	v := View{Epoch: 1, Quorum: quorum, Copies: len(sources), Nodes: nodesOf(sources...)}
	return func() (View, error) { return v, nil }
}

// drain reads all samples of an iterator.
func drain(tb testing.TB, it chunkenc.Iterator) []series.Sample {
	tb.Helper()
	var out []series.Sample
	for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
		out = append(out, current(it, typ))
	}
	if err := it.Err(); err != nil {
		tb.Fatal(err)
	}
	return out
}

func current(it chunkenc.Iterator, typ chunkenc.ValueType) series.Sample {
	s := series.Sample{T: it.AtT(), ST: it.AtST()}
	switch typ {
	case chunkenc.ValHistogram:
		_, s.H = it.AtHistogram(nil)
	case chunkenc.ValFloatHistogram:
		_, s.FH = it.AtFloatHistogram(nil)
	default:
		_, s.V = it.At()
	}
	return s
}

// equalSamples fails the test unless both are the same timestamps and values. Stale
// markers are all the same: a TSDB stores them with the type of the sample before.
func equalSamples(tb testing.TB, what string, got, want []series.Sample) {
	tb.Helper()
	for i := range min(len(got), len(want)) {
		stale := isStale(got[i]) && isStale(want[i])
		if got[i].T != want[i].T || !stale && merge.Compare(&got[i], &want[i]) != 0 {
			tb.Fatalf("%s: sample %d: got %s, want %s", what, i, show(got[i]), show(want[i]))
		}
	}
	if len(got) != len(want) {
		tb.Fatalf("%s: got %d samples, want %d", what, len(got), len(want))
	}
}

func isStale(s series.Sample) bool {
	switch {
	case s.H != nil:
		return value.IsStaleNaN(s.H.Sum)
	case s.FH != nil:
		return value.IsStaleNaN(s.FH.Sum)
	}
	return value.IsStaleNaN(s.V)
}

func show(s series.Sample) string {
	return fmt.Sprintf("{t=%d st=%d v=%v h=%v fh=%v}", s.T, s.ST, s.V, s.H, s.FH)
}

// selectAll reads all series and samples of a querier, by labels.
func selectAll(tb testing.TB, q storage.Queryable, mint, maxt int64, ms ...*labels.Matcher) ([]labels.Labels, map[string][]series.Sample) {
	tb.Helper()
	querier, err := q.Querier(mint, maxt)
	if err != nil {
		tb.Fatal(err)
	}
	defer querier.Close()
	set := querier.Select(tb.Context(), true, nil, ms...)
	var order []labels.Labels
	samples := map[string][]series.Sample{}
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		it = s.Iterator(it)
		order = append(order, s.Labels())
		samples[s.Labels().String()] = drain(tb, it)
	}
	if err := set.Err(); err != nil {
		tb.Fatal(err)
	}
	return order, samples
}

func everything() *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchRegexp, labels.MetricName, ".+")
}
