package bench

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/storage"
)

// BenchmarkSync compares --storage.wal-sync=commit with off on a whole node, as its clients
// see it: eight senders write all series over HTTP, in turn to a node of either kind, so that
// what else the machine does meets both. One operation is a scrape for each. The figures are
// medians: samples per second with either, and the ratio of scrapes that followed each
// other.
//
//	go test -run '^$' -bench Sync -benchtime 100x ./bench
func BenchmarkSync(b *testing.B) {
	const senders = 8
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	address := func(mode storage.SyncMode) string {
		return startNodes(b, 1, func(c *config.Config) { c.Storage.WALSync = string(mode) })[0]
	}
	nodes := []string{address(storage.SyncOff), address(storage.SyncCommit)}
	start := time.Now().Add(-time.Hour)
	scrape := func(node string, bodies [][]byte) float64 {
		queue := make(chan []byte, len(bodies))
		for _, body := range bodies {
			queue <- body
		}
		close(queue)
		begun := time.Now()
		var wg sync.WaitGroup
		for range senders {
			wg.Go(func() {
				for body := range queue {
					send(b, client, node, body)
				}
			})
		}
		wg.Wait()
		return series / time.Since(begun).Seconds()
	}
	// Four scrapes at a time, so that the senders are busy for longer than they start.
	bodies := func(n int) (list [][]byte) {
		for i := range 4 {
			list = append(list, requests(b, 4*n+i, start.Add(time.Duration(4*n+i)*step/1000))...)
		}
		return list
	}
	for _, node := range nodes {
		scrape(node, bodies(0))
	}
	var rates [2][]float64
	var ratios []float64
	for i := range b.N {
		list := bodies(i + 1)
		for j := range nodes {
			k := (i + j) % 2 // who is first changes
			rates[k] = append(rates[k], 4*scrape(nodes[k], list))
		}
		ratios = append(ratios, 100*rates[1][i]/rates[0][i])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ratios), "commit-%-of-off")
	b.ReportMetric(median(rates[0]), "off-samples/s")
	b.ReportMetric(median(rates[1]), "commit-samples/s")
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
