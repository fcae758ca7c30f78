package node

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/storage"
)

// generation is the label by which the scripts' many `clear`s share one cluster.
const generation = "__generation__"

// Prometheus's own PromQL scripts against clusters of three and of five nodes: samples go in
// through the coordinator of one node, over the network to their owners, and come back through
// another's. It runs in real time: the scripts start subtests, which a bubble forbids.
func TestPrometheusScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("256 storages, one after the other")
	}
	for _, names := range [][]string{{"a", "b", "c"}, {"a", "b", "c", "d", "e"}} {
		t.Run(fmt.Sprint(len(names), " nodes"), func(t *testing.T) {
			t.Parallel()
			runScripts(t, names)
		})
	}
}

func runScripts(t *testing.T, names []string) {
	f := newFlock(t)
	f.linger, f.nearbyWork = 0, -1
	f.net.SetLatency(0)
	f.tune = func(o *storage.Options) {
		// The scripts write samples of 1970, in any order, up to years ahead.
		o.OutOfOrderWindow = 90 * 365 * 24 * time.Hour
		o.MinBlockDuration = 24 * time.Hour
		o.MaxFuture = math.MaxInt64 / 2
		o.RetentionTime = 99 * 365 * 24 * time.Hour
		o.WALSync = storage.SyncOff
		o.Features = []string{"st-storage", "xor2-encoding", "histograms-st-encoding"}
	}
	members := f.fresh(names...)
	engine := &comparedEngine{
		Engine: promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery), t: t,
		evaluator: &scriptEvaluator{parser: pushdown.Parser{Parser: parser.NewParser(promqltest.TestParserOpts)}},
	}
	engine.whole, engine.inParts = engine.open(nil), engine.open(engine.evaluator)
	clears := 0
	promqltest.RunBuiltinTestsWithStorage(t, engine, func(testing.TB) promstorage.Storage {
		clears++
		engine.evaluator.storage = &scriptStorage{
			t: t, generation: strconv.Itoa(clears), writer: members[clears%len(members)], reader: members[(clears+1)%len(members)],
		}
		return engine.evaluator.storage
	})
	t.Logf("%d generations; %d fragments evaluated in parts, %d not", clears, engine.evaluator.parts, engine.evaluator.unproven)
	if engine.evaluator.parts < 500 {
		t.Error("hardly anything was evaluated in parts")
	}
}

// scriptStorage is what promqltest sees of the cluster between two clears.
type scriptStorage struct {
	promstorage.Appendable // the older interface, which the scripts do not use
	t                      *testing.T
	generation             string
	writer, reader         *member
}

func (s *scriptStorage) StartTime() (int64, error) { return 0, nil }
func (s *scriptStorage) Close() error              { return nil }

func (s *scriptStorage) Querier(mint, maxt int64) (promstorage.Querier, error) {
	q, err := s.reader.reads.Querier(mint, maxt)
	return &scriptQuerier{Querier: q, generation: s.generation}, err
}

func (s *scriptStorage) ChunkQuerier(mint, maxt int64) (promstorage.ChunkQuerier, error) {
	return s.reader.reads.ChunkQuerier(mint, maxt)
}

func (s *scriptStorage) AppenderV2(ctx context.Context) promstorage.AppenderV2 {
	return &scriptAppender{ctx: ctx, storage: s, index: map[string]int{}}
}

// scriptQuerier shows one generation, without its label.
type scriptQuerier struct {
	promstorage.Querier
	generation string
}

func (q *scriptQuerier) Select(ctx context.Context, sorted bool, hints *promstorage.SelectHints, ms ...*labels.Matcher) promstorage.SeriesSet {
	own := labels.MustNewMatcher(labels.MatchEqual, generation, q.generation)
	return plainSet{q.Querier.Select(ctx, sorted, hints, append([]*labels.Matcher{own}, ms...)...)}
}

type plainSet struct{ promstorage.SeriesSet }

func (s plainSet) At() promstorage.Series { return plainSeries{s.SeriesSet.At()} }

type plainSeries struct{ promstorage.Series }

func (s plainSeries) Labels() labels.Labels {
	return labels.NewBuilder(s.Series.Labels()).Del(generation).Labels()
}

// scriptAppender collects a batch and has the cluster write it.
type scriptAppender struct {
	ctx     context.Context
	storage *scriptStorage
	batch   series.Batch
	index   map[string]int // into batch.Series, by labels
}

func (a *scriptAppender) Append(_ promstorage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ promstorage.AOptions) (promstorage.SeriesRef, error) {
	sample := series.Sample{ST: st, T: t, V: v}
	if h != nil {
		sample.H = h.Copy()
	}
	if fh != nil {
		sample.FH = fh.Copy()
	}
	i, ok := a.index[ls.String()]
	if !ok {
		i = len(a.batch.Series)
		a.index[ls.String()] = i
		a.batch.Series = append(a.batch.Series, series.Series{
			Labels: labels.NewBuilder(ls).Set(generation, a.storage.generation).Labels(),
		})
	}
	a.batch.Series[i].Samples = append(a.batch.Series[i].Samples, sample)
	return 0, nil
}

func (a *scriptAppender) Commit() error {
	res, err := a.storage.writer.writes.Write(a.ctx, &a.batch)
	if err == nil && len(res.Refused) > 0 {
		a.storage.t.Errorf("refused: %+v", res.Refused[0])
	}
	return err
}

func (a *scriptAppender) Rollback() error { return nil }
