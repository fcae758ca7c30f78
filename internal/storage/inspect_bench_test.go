package storage

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/series"
)

// BenchmarkInspect compares the look for damage with the opening of the TSDB that follows,
// whose replay it delays: 20,000 series of 30 samples each, nothing damaged.
func BenchmarkInspect(b *testing.B) {
	o := testOptions(filepath.Join(b.TempDir(), "data"))
	s := mustOpen(b, o, hooks{})
	for i := range 30 {
		batch := &series.Batch{}
		for j := range 20_000 {
			ls := name(fmt.Sprint("metric_of_some_length_", j))
			batch.Series = append(batch.Series, floats(ls, float64(at(time.Duration(i)*15*time.Second)), float64(i*j)*1.1))
		}
		mustAppend(b, s, batch)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	topts := s.opts.tsdbOptions()
	var inspect, open time.Duration
	for b.Loop() {
		start := time.Now()
		if err := s.damage.Inspect(s.opts.inspectOptions()); err != nil {
			b.Fatal(err)
		}
		inspect += time.Since(start)
		start = time.Now()
		db, err := tsdb.Open(o.Dir, nil, nil, topts, nil)
		if err != nil {
			b.Fatal(err)
		}
		open += time.Since(start)
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(inspect.Seconds()*1000/float64(b.N), "ms/inspect")
	b.ReportMetric(open.Seconds()*1000/float64(b.N), "ms/open")
	b.ReportMetric(100*inspect.Seconds()/open.Seconds(), "%ofopen")
}
