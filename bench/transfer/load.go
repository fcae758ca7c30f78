//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/starling-tsdb/starling/internal/faults/load"
)

// What the load does: requests begin at fixed times, whether or not earlier ones are
// answered, so that a node that is slow is not asked less.
const (
	writesPerSecond = 10
	writeSeries     = 200 // one sample each
	recentPerSecond = 4
	oldPerSecond    = 2

	requestTimeout = 30 * time.Second
)

// kind is a kind of request.
type kind string

const (
	write  kind = "write of 200 samples"
	recent kind = "query of the last minute"
	old    kind = "query of an hour of the blocks"
)

var kinds = []kind{write, recent, old}

// latencies are those of one phase.
type latencies struct {
	took   map[kind][]time.Duration
	failed map[kind]int
	// first is why the first one failed.
	first error
}

func newLatencies() *latencies {
	return &latencies{took: map[kind][]time.Duration{}, failed: map[kind]int{}}
}

// quantile of what was answered, 0 if nothing was.
func (l *latencies) quantile(k kind, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(l.took[k]))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// clients are a light load for some nodes, in turn.
type clients struct {
	client *load.Client
	nodes  []*node
	data   *data
	wg     sync.WaitGroup

	mu    sync.Mutex
	phase *latencies
}

// use begins the load; it ends with ctx.
func use(ctx context.Context, nodes []*node, d *data) *clients {
	c := &clients{client: load.NewClient(load.Papers{}), nodes: nodes, data: d, phase: newLatencies()}
	for k, perSecond := range map[kind]int{write: writesPerSecond, recent: recentPerSecond, old: oldPerSecond} {
		c.wg.Go(func() { c.repeat(ctx, k, time.Second/time.Duration(perSecond)) })
	}
	return c
}

// next begins another phase, and returns the one that ends: requests count where they end.
func (c *clients) next() *latencies {
	c.mu.Lock()
	defer c.mu.Unlock()
	ended := c.phase
	c.phase = newLatencies()
	return ended
}

func (c *clients) repeat(ctx context.Context, k kind, every time.Duration) {
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for n := 0; ; n++ {
		select {
		case <-ticks.C:
			c.wg.Go(func() { c.request(ctx, k, n) })
		case <-ctx.Done():
			return
		}
	}
}

func (c *clients) request(ctx context.Context, k kind, n int) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	base := "http://" + c.nodes[n%len(c.nodes)].http
	start := time.Now()
	var r load.Reply
	var err error
	if k == write {
		var body []byte
		if body, err = writeBody(n, start); err == nil {
			start = time.Now()
			r, err = c.client.Do(limited, http.MethodPost, base+"/api/v1/write", http.Header{"Content-Type": {"application/x-protobuf"}}, body)
		}
	} else {
		r, err = c.client.Get(limited, base+c.question(k, start))
	}
	took := time.Since(start)
	if err == nil && r.Status/100 != 2 {
		err = fmt.Errorf("%s answered %d: %s", k, r.Status, load.Excerpt(r.Body))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.phase.took[k] = append(c.phase.took[k], took)
	case ctx.Err() == nil:
		c.phase.failed[k]++
		if c.phase.first == nil {
			c.phase.first = err
		}
	}
}

// question is the path of a query.
func (c *clients) question(k kind, now time.Time) string {
	if k == recent {
		return "/api/v1/query?" + url.Values{"query": {"sum by (group) (rate(transfer_load_total[1m]))"}}.Encode()
	}
	// A metric and an hour at random, so that nobody has the answer at hand.
	end := c.data.last.Add(-time.Duration(rand.Int64N(int64(blockSpan - 2*time.Hour))))
	return "/api/v1/query_range?" + url.Values{
		"query": {fmt.Sprintf("sum by (job) (rate(%s[5m]))", metricName(rand.IntN(metrics)))},
		"start": {strconv.FormatInt(end.Add(-time.Hour).Unix(), 10)}, "end": {strconv.FormatInt(end.Unix(), 10)}, "step": {"60"},
	}.Encode()
}

// writeBody makes the n-th write: each series gets a sample a second.
func writeBody(n int, now time.Time) ([]byte, error) {
	var req prompb.WriteRequest
	for i := range writeSeries {
		id := n%writesPerSecond*writeSeries + i
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels: []prompb.Label{
				{Name: "__name__", Value: "transfer_load_total"},
				{Name: "group", Value: strconv.Itoa(id % 10)}, {Name: "series", Value: strconv.Itoa(id)},
			},
			Samples: []prompb.Sample{{Timestamp: now.UnixMilli(), Value: float64(n)}},
		})
	}
	raw, err := req.Marshal()
	return snappy.Encode(nil, raw), err
}
