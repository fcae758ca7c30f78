package storage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/series"
)

const (
	benchSeries   = 2000
	benchInterval = 15 * time.Second
)

// benchBatch is one scrape of 2000 series at t, in milliseconds.
func benchBatch(handles []*series.Handle, t int64) *series.Batch {
	b := &series.Batch{Series: make([]series.Series, len(handles))}
	samples := make([]series.Sample, len(handles))
	for i, h := range handles {
		samples[i] = series.Sample{T: t, V: rand.Float64()}
		b.Series[i] = series.Series{Labels: h.Labels, Handle: h, Samples: samples[i : i+1]}
	}
	return b
}

func benchHandles(target int) []*series.Handle {
	handles := make([]*series.Handle, benchSeries)
	for i := range handles {
		handles[i] = new(series.Handle)
		handles[i].Labels = labels.FromStrings("__name__", fmt.Sprint("metric_", i%100), "job", "node", "instance", fmt.Sprint("10.0.0.", target, ":9100"),
			"cpu", fmt.Sprint(i/100), "mode", "idle", "region", "eu-central-1", "zone", "a", "cluster", "prod", "namespace", "default", "pod", "web-1")
	}
	return handles
}

// BenchmarkAppend appends scrapes of series that have handles, to the bare TSDB by their
// references and to the store. Parallel runs have 16 senders, each with targets of its own.
// CPU is that of the process, user and system.
func BenchmarkAppend(b *testing.B) {
	for _, senders := range []int{1, 16} {
		b.Run(fmt.Sprintf("bare/senders=%d", senders), func(b *testing.B) {
			o := benchOptions(b, SyncOff)
			if err := o.complete(); err != nil {
				b.Fatal(err)
			}
			db, err := tsdb.Open(o.Dir, o.Logger, prometheus.NewRegistry(), o.tsdbOptions(), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			benchmark(b, senders, func(bt *series.Batch) error {
				app := db.AppenderV2(context.Background())
				for i := range bt.Series {
					sr := &bt.Series[i]
					for _, p := range sr.Samples {
						ref, err := app.Append(promstorage.SeriesRef(sr.Handle.Stored()), sr.Labels, 0, p.T, p.V, nil, nil, promstorage.AOptions{})
						if err != nil {
							return err
						}
						sr.Handle.SetStored(uint64(ref))
					}
				}
				return app.Commit()
			})
		})
		for _, mode := range []SyncMode{SyncOff, SyncCommit} {
			b.Run(fmt.Sprintf("%s/senders=%d", mode, senders), func(b *testing.B) {
				s := mustOpen(b, benchOptions(b, mode), hooks{})
				benchmark(b, senders, func(bt *series.Batch) error {
					out, err := s.Append(context.Background(), bt)
					if err == nil && len(out.Refusals) > 0 {
						err = fmt.Errorf("refused: %+v", out.Refusals[0])
					}
					return err
				})
			})
		}
	}
}

func benchOptions(b *testing.B, mode SyncMode) Options {
	o := testOptions(b.TempDir())
	o.WALSync = mode
	o.MaxFuture = 1000 * time.Hour
	return o
}

func benchmark(b *testing.B, senders int, write func(*series.Batch) error) {
	b.Helper()
	var next atomic.Int64
	b.SetParallelism((senders + 1) / 2) // times GOMAXPROCS, which is 2 where this was measured
	body := func(more func() bool) {
		handles := benchHandles(int(next.Add(1)))
		if err := write(benchBatch(handles, at(0))); err != nil {
			b.Error(err)
			return
		}
		for step := 1; more(); step++ {
			if err := write(benchBatch(handles, at(time.Duration(step)*benchInterval))); err != nil {
				b.Error(err)
				return
			}
		}
	}
	b.ReportAllocs()
	begun := cpuTime(b)
	if senders == 1 {
		n := 0
		body(func() bool { n++; return n <= b.N })
	} else {
		b.RunParallel(func(pb *testing.PB) { body(pb.Next) })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchSeries), "ns/sample")
	b.ReportMetric(float64((cpuTime(b)-begun).Nanoseconds())/float64(b.N*benchSeries), "cpu-ns/sample")
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
