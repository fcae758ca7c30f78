package node

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
)

// BenchmarkHeaviestQuery has a node answer nearly as many values as --query.max-samples allows,
// which is two million here, and reports by how much the heap grows meanwhile at its peak, garbage
// included, for each of those samples. That is the heap of three nodes, which are in this process:
// the one that is asked, and the owners with it.
func BenchmarkHeaviestQuery(b *testing.B) {
	const maxSamples, steps = 2_000_000, 1000
	f := newFlock(b)
	f.linger = 0
	f.query = func(q *config.Query) { q.MaxSamples = maxSamples }
	m := f.fresh("a", "b", "c")
	end := time.Now().Truncate(time.Minute)
	start := end.Add(-time.Hour)
	values := make([]float64, maxSamples/steps-10)
	for at := start; !at.After(end); at = at.Add(time.Minute) {
		for i := range values {
			values[i] = float64(at.Unix()) * (1 + float64(i)/7)
		}
		if code := m[0].writeAt("m", at, values...); code != http.StatusNoContent {
			b.Fatal(code)
		}
	}
	for _, expr := range []string{"m", "rate(m[5m])", "sum by (i) (rate(m[5m]))", "topk(1e9, m)"} {
		b.Run(expr, func(b *testing.B) {
			form := url.Values{
				"query": {expr}, "start": {fmt.Sprint(start.Unix())}, "end": {fmt.Sprint(end.Unix())},
				"step": {fmt.Sprint(time.Hour.Seconds() / (steps - 1))},
			}
			var most uint64
			for b.Loop() {
				most = max(most, grown(func() { f.drain(m[0], "/api/v1/query_range?"+form.Encode()) }))
			}
			b.ReportMetric(float64(most)/maxSamples, "heap-B/sample")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// drain reads an answer without keeping it.
func (f *flock) drain(m *member, path string) {
	f.Helper()
	resp, err := m.http.Get("http://" + m.ip + ":9080" + path)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		f.Fatalf("%d: %s", resp.StatusCode, text)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		f.Fatal(err)
	}
}

// grown returns by how many bytes the heap was greater than before, at most, while do ran.
func grown(do func()) uint64 {
	runtime.GC()
	runtime.GC() // the first leaves what finalizers and pools hold
	before := heapBytes()
	stop, most := make(chan struct{}), make(chan uint64)
	go func() {
		ticker := time.NewTicker(2 * time.Millisecond)
		defer ticker.Stop()
		peak := before
		for {
			select {
			case <-ticker.C:
				peak = max(peak, heapBytes())
			case <-stop:
				most <- peak - before
				return
			}
		}
	}()
	do()
	close(stop)
	return <-most
}

// heapBytes is what objects take, garbage included that was not swept yet.
func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
