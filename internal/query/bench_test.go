package query

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

const benchSeries, benchSamples = 10_000, 100

// fill writes the benchmark's series, without the samples that lacks names.
func fill(b *testing.B, db *tsdb.DB, lacks func(series, sample int) bool) {
	b.Helper()
	for i := range benchSamples {
		app := db.AppenderV2(b.Context())
		for s := range benchSeries {
			if lacks(s, i) {
				continue
			}
			ls := labels.FromStrings(labels.MetricName, "m", "job", "bench", "instance", fmt.Sprintf("host-%05d:9100", s))
			if _, err := app.Append(0, ls, 0, int64(i)*15_000, float64(i*s), nil, nil, storage.AppendV2Options{}); err != nil {
				b.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSelect reads all samples of 10,000 series: from one TSDB, from three that
// hold the same, and from three that lack different samples.
func BenchmarkSelect(b *testing.B) {
	all := func(int, int) bool { return false }
	var dbs []*tsdb.DB
	for range 3 {
		db := openDB(b)
		fill(b, db, all)
		dbs = append(dbs, db)
	}
	b.Run("one TSDB", func(b *testing.B) { benchSelect(b, dbs[0]) })
	b.Run("fanout over one", func(b *testing.B) { benchSelect(b, New(Options{View: fixed(1, sources(dbs[:1])...)})) })
	b.Run("fanout over three equal", func(b *testing.B) { benchSelect(b, New(Options{View: fixed(2, sources(dbs)...)})) })

	for i := range 2 {
		dbs[i] = openDB(b)
		fill(b, dbs[i], func(series, sample int) bool { return (series+sample)%50 == i })
	}
	b.Run("fanout over three different", func(b *testing.B) { benchSelect(b, New(Options{View: fixed(2, sources(dbs)...)})) })
}

func benchSelect(b *testing.B, q storage.Queryable) {
	b.ReportAllocs()
	for b.Loop() {
		querier, err := q.Querier(0, benchSamples*15_000)
		if err != nil {
			b.Fatal(err)
		}
		set := querier.Select(b.Context(), true, nil, labels.MustNewMatcher(labels.MatchEqual, labels.MetricName, "m"))
		var it chunkenc.Iterator
		n := 0
		for set.Next() {
			it = set.At().Iterator(it)
			for it.Next() != chunkenc.ValNone {
				n++
			}
		}
		if set.Err() != nil || n != benchSeries*benchSamples {
			b.Fatalf("got %d samples, %v", n, set.Err())
		}
		querier.Close()
	}
}
