package drive

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/workload"
)

// Questions are queries that are asked beside a load: of one metric each, a hundredth of the
// series, over the five minutes before the newest complete scrape.
type Questions struct {
	load *Load
	wg   sync.WaitGroup
	stop context.CancelFunc

	mu     sync.Mutex
	took   []time.Duration
	failed int
	why    error
}

// Ask begins to ask the targets in turn, so many times a second, whether earlier queries are
// answered or not. Stop ends it.
func (l *Load) Ask(ctx context.Context, perSecond float64) *Questions {
	q := &Questions{load: l}
	ctx, q.stop = context.WithCancel(ctx)
	if perSecond <= 0 {
		return q
	}
	q.wg.Go(func() {
		ticks := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
		defer ticks.Stop()
		for n := 0; ; n++ {
			select {
			case <-ticks.C:
				q.wg.Go(func() { q.ask(ctx, n) })
			case <-ctx.Done():
				return
			}
		}
	})
	return q
}

// Stop ends asking, and returns how long queries took and how many failed, and why the first
// of these did.
func (q *Questions) Stop() (took []time.Duration, failed int, why error) {
	q.stop()
	q.wg.Wait()
	return q.took, q.failed, q.why
}

func (q *Questions) ask(ctx context.Context, n int) {
	o := q.load.opts
	at := o.Shape.Time(max(0, q.load.steps.complete()-1))
	query := url.Values{
		"query": {fmt.Sprintf("sum by (job) (rate(%s[5m]))", workload.Metric(n%o.Shape.Metrics()))},
		"time":  {strconv.FormatFloat(float64(at)/1000, 'f', 3, 64)},
	}
	start := time.Now()
	err := get(ctx, o.Targets[n%len(o.Targets)]+"/api/v1/query?"+query.Encode())
	took := time.Since(start)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err == nil:
		q.took = append(q.took, took)
	case ctx.Err() == nil:
		q.failed++
		if q.why == nil {
			q.why = err
		}
	}
}

// get reads an answer of status 200 to its end.
func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %d: %s", url, resp.StatusCode, b[:min(len(b), 200)])
	}
	return err
}
