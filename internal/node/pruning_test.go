package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/config"
)

// seriesList is a storage.ChunkSeriesSet over a list.
type seriesList struct {
	promstorage.ChunkSeriesSet
	list []promstorage.ChunkSeries
	at   int
}

// Next implements storage.ChunkSeriesSet.
func (l *seriesList) Next() bool { l.at++; return l.at <= len(l.list) }

// At implements storage.ChunkSeriesSet.
func (l *seriesList) At() promstorage.ChunkSeries { return l.list[l.at-1] }

// oneSample is a series with one sample.
func oneSample(t *testing.T, ls labels.Labels, at int64, v float64) promstorage.ChunkSeries {
	t.Helper()
	c := chunkenc.NewXORChunk()
	app, err := c.Appender()
	if err != nil {
		t.Fatal(err)
	}
	app.Append(0, at, v)
	return &promstorage.ChunkSeriesEntry{Lset: ls, ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
		return promstorage.NewListChunkSeriesIterator(chunks.Meta{MinTime: at, MaxTime: at, Chunk: c})
	}}
}

// Former owners delete what has moved away, some time after everybody knows so, and keep what
// they own.
func TestFormerOwnersDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		first := f.start("n0", ip(1), nil)
		f.ready(first)
		start := time.Now().Add(-72 * time.Hour).Truncate(2 * time.Hour)
		samples := map[string]string{}
		old := &seriesList{ChunkSeriesSet: promstorage.EmptyChunkSeriesSet()}
		for i := range 50 {
			metric := fmt.Sprintf("m%02d", i)
			ls := labels.FromStrings(labels.MetricName, metric, "i", "0")
			at := start.Add(time.Duration(i) * time.Minute).UnixMilli()
			old.list = append(old.list, oneSample(t, ls, at, 1))
			samples[held1(metric, "0", at, 1)] = metric
		}
		first.write("now", 1)
		if n, err := first.store.ImportBlock(t.Context(), start.UnixMilli(), start.Add(2*time.Hour).UnixMilli(), old); err != nil || n != len(samples) {
			t.Fatalf("%d samples, %v", n, err)
		}
		for i := 1; i < 5; i++ {
			f.start(fmt.Sprintf("n%d", i), ip(i+1), func(c *config.Cluster) { c.Join = seeds(1) })
		}
		f.settled(5)
		surplus := func(m *member) (surplus int) {
			held := m.holds()
			owner := m.placed.Load().reading.owner(m.cluster.Self())
			for sample, metric := range samples {
				key := keyOf(labels.FromStrings(labels.MetricName, metric, "i", "0"))
				if held[sample] && !owner.owns(key) {
					surplus++
				}
			}
			return surplus
		}
		if surplus(first) == 0 {
			t.Error("the former owner has deleted at once")
		}
		f.eventually(pruneGrace+5*time.Minute, "what has moved away is deleted", func() error {
			if n := surplus(first); n > 0 {
				return fmt.Errorf("%d samples too many", n)
			}
			return nil
		})
		for _, m := range f.nodes {
			if lacks := m.lacks(samples); len(lacks) > 0 || surplus(m) > 0 {
				t.Errorf("%s lacks %v, and has %d too many", m.name, lacks, surplus(m))
			}
		}
	})
}
