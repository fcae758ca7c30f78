// Package bench measures what the write path costs, as a ratio to what the storage engine
// alone costs in the same run: absolute times say more about the machine than about the
// program.
//
//	go test -run '^$' -bench Write ./bench
//
// Clients, nodes and network share one process here, so the client's part is in the
// figures of the nodes.
package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/freeport"
	"github.com/starling-tsdb/starling/internal/node"
)

const (
	series  = 20_000
	perSend = 2000
	step    = 15 * time.Second
)

// seriesLabels has about ten labels and 250 bytes a series.
func seriesLabels(i int) labels.Labels {
	return labels.FromStrings(
		labels.MetricName, fmt.Sprintf("http_request_duration_seconds_%03d", i%100),
		"cluster", "production-europe", "namespace", "payments", "job", fmt.Sprintf("service-%03d", i/100%50),
		"instance", fmt.Sprintf("10.4.%d.%d:9100", i/250%250, i%250), "pod", fmt.Sprintf("service-7f9c6d5b8-%05d", i),
		"method", "GET", "handler", "/api/v1/orders", "code", "200", "replica", strconv.Itoa(i%3),
	)
}

func value(i, scrape int) float64 { return float64(i + scrape*(i%7)) }

// BenchmarkWrite counts one sample as one operation.
func BenchmarkWrite(b *testing.B) {
	floor := 0.0
	b.Run("tsdb", func(b *testing.B) { floor = benchmarkTSDB(b) })
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) { benchmarkNodes(b, nodes, floor) })
	}
}

// cpu is what the process has used so far, user and system.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// scrapes is how often all series have to be sent for b.N samples at least.
func scrapes(b *testing.B) int { return (b.N + series - 1) / series }

// report returns the CPU time of one sample in nanoseconds, and tells its ratio to the
// floor for that many copies.
func report(b *testing.B, used time.Duration, floor float64, copies int) float64 {
	b.Helper()
	perSample := float64(used.Nanoseconds()) / float64(scrapes(b)*series)
	b.ReportMetric(perSample, "cpu-ns/sample")
	if floor > 0 {
		b.ReportMetric(perSample/(floor*float64(copies)), "x-floor")
	}
	return perSample
}

// benchmarkTSDB is the floor: appends by series reference, in batches, with the log on.
func benchmarkTSDB(b *testing.B) float64 {
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = time.Hour.Milliseconds()
	db, err := tsdb.Open(b.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	refs := make([]storage.SeriesRef, series)
	start := time.Now().Add(-time.Hour)
	scrape := func(n int) {
		for from := 0; from < series; from += perSend {
			app := db.Appender(context.Background())
			for i := from; i < from+perSend; i++ {
				ls := labels.EmptyLabels()
				if refs[i] == 0 {
					ls = seriesLabels(i)
				}
				ref, err := app.Append(refs[i], ls, start.Add(time.Duration(n)*step/1000).UnixMilli(), value(i, n))
				if err != nil {
					b.Fatal(err)
				}
				refs[i] = ref
			}
			if err := app.Commit(); err != nil {
				b.Fatal(err)
			}
		}
	}
	scrape(0)
	before := cpu(b)
	b.ResetTimer()
	for n := range scrapes(b) {
		scrape(n + 1)
	}
	b.StopTimer()
	return report(b, cpu(b)-before, 0, 1)
}

func benchmarkNodes(b *testing.B, nodes int, floor float64) {
	addresses := startNodes(b, nodes, nil)
	client := &http.Client{}
	start := time.Now().Add(-time.Hour)
	// Bodies are made beforehand, one scrape at a time, with the clock stopped.
	scrape := func(n int) (used time.Duration) {
		bodies := requests(b, n, start.Add(time.Duration(n)*step/1000))
		before := cpu(b)
		b.StartTimer()
		for i, body := range bodies {
			send(b, client, addresses[i%len(addresses)], body)
		}
		b.StopTimer()
		return cpu(b) - before
	}
	scrape(0)
	b.ResetTimer()
	var used time.Duration
	for n := range scrapes(b) {
		used += scrape(n + 1)
	}
	report(b, used, floor, min(nodes, 3))
}

// send writes one body. Any goroutine may call it.
func send(b *testing.B, client *http.Client, address string, body []byte) {
	resp, err := client.Post("http://"+address+"/api/v1/write", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNoContent {
		b.Errorf("%s: %s", resp.Status, text)
	}
}

// requests are the bodies of one scrape of all series.
func requests(b *testing.B, n int, at time.Time) [][]byte {
	b.Helper()
	var bodies [][]byte
	for from := 0; from < series; from += perSend {
		var req prompb.WriteRequest
		for i := from; i < from+perSend; i++ {
			req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
				Labels:  prompb.FromLabels(seriesLabels(i), nil),
				Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: value(i, n)}},
			})
		}
		body, err := req.Marshal()
		if err != nil {
			b.Fatal(err)
		}
		bodies = append(bodies, snappy.Encode(nil, body))
	}
	return bodies
}

// startNodes runs a cluster on loopback and returns its HTTP addresses. change may be nil.
func startNodes(b *testing.B, nodes int, change func(*config.Config)) []string {
	b.Helper()
	gossip, err := freeport.Addresses(nodes)
	if err != nil {
		b.Fatal(err)
	}
	var addresses []string
	for i := range nodes {
		c := config.Default()
		c.Storage.Path = filepath.Join(b.TempDir(), strconv.Itoa(i))
		c.Web.ListenAddress, c.Cluster.RPCAddress, c.Cluster.GossipAddress = "127.0.0.1:0", "127.0.0.1:0", gossip[i]
		if change != nil {
			change(&c)
		}
		if nodes > 1 {
			c.Cluster.Join, c.Cluster.BootstrapExpect = gossip, nodes
		}
		n, err := node.New(node.Options{Config: c, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		b.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				b.Error(err)
			}
		})
		addresses = append(addresses, n.HTTPAddress())
	}
	for _, a := range addresses {
		awaitReady(b, a)
	}
	return addresses
}

func awaitReady(b *testing.B, address string) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	b.Fatalf("%s is not ready after a minute", address)
}
