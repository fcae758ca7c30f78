package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
)

// begun is a time at which a block begins.
var begun = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// contents are samples as text, by series and time.
type contents map[string]map[int64]string

func (c contents) add(series string, t int64, sample string) {
	if c[series] == nil {
		c[series] = map[int64]string{}
	}
	c[series][t] = sample
}

func (c contents) samples() (n int) {
	for _, s := range c {
		n += len(s)
	}
	return n
}

// floatText tells all floats apart, NaN from NaN.
func floatText(v float64) string { return fmt.Sprintf("%x", math.Float64bits(v)) }

func histogramText(h *histogram.FloatHistogram) string {
	c := h.Copy()
	c.CounterResetHint = histogram.UnknownCounterReset
	return fmt.Sprintf("%s %x", c.Compact(0), math.Float64bits(c.Sum))
}

// contentsOf reads all that a source has.
func contentsOf(t *testing.T, s Source, mint, maxt int64) contents {
	t.Helper()
	set, err := s.Select(t.Context(), mint, maxt, Everything())
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	c := contents{}
	for set.Next() {
		it := set.At().Iterator(nil)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			if at := it.AtT(); at >= mint && at <= maxt {
				c.add(set.At().Labels().String(), at, textAt(it, kind))
			}
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func textAt(it chunkenc.Iterator, kind chunkenc.ValueType) string {
	if kind == chunkenc.ValFloat {
		_, v := it.At()
		return floatText(v)
	}
	_, fh := it.AtFloatHistogram(nil)
	return histogramText(fh)
}

// makeBlocks makes a data directory with a few hours of floats, among them stale markers, NaN and
// infinities, of native histograms of both kinds, and of series that change from one to the other;
// some of it twice, in blocks that overlap.
func makeBlocks(t *testing.T, hours int) string {
	t.Helper()
	dir := t.TempDir()
	for h := range hours {
		writeBlock(t, dir, begun.Add(time.Duration(h)*2*time.Hour), func(i int) bool { return i%4 != h%4 })
	}
	writeBlock(t, dir, begun, func(i int) bool { return i < 8 })
	return dir
}

// writeBlock writes a block of two hours with those series that are wanted.
func writeBlock(t *testing.T, dir string, start time.Time, want func(int) bool) {
	t.Helper()
	w, err := tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), dir, (2 * time.Hour).Milliseconds())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	app := w.Appender(t.Context())
	for i := range 16 {
		if !want(i) {
			continue
		}
		ls := labels.FromStrings(labels.MetricName, fmt.Sprintf("kept_%d", i%3), "number", fmt.Sprint(i))
		for n := range 120 {
			at := start.Add(time.Duration(n) * time.Minute).UnixMilli()
			if err := appendSample(app, ls, i, n, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func appendSample(app storage.Appender, ls labels.Labels, i, n int, at int64) error {
	v := float64(n) + float64(i)/3
	var h *histogram.Histogram
	var fh *histogram.FloatHistogram
	switch {
	case n%40 == 39:
		v = math.Float64frombits(value.StaleNaN)
	case n%40 == 38:
		v = math.NaN()
	case n%40 == 37:
		v = math.Inf(-1)
	case i == 5, i == 6 && n < 60:
		h = tsdbutil.GenerateTestHistogram(int64(n))
	case i == 9:
		fh = tsdbutil.GenerateTestFloatHistogram(int64(n))
	}
	var err error
	if h != nil || fh != nil {
		_, err = app.AppendHistogram(0, ls, at, h, fh)
	} else if i != 5 && i != 9 || value.IsStaleNaN(v) {
		_, err = app.Append(0, ls, at, v)
	}
	return err
}

// fakeNode takes Remote Write 2.0, and remembers all.
type fakeNode struct {
	*httptest.Server

	mu       sync.Mutex
	taken    contents
	requests int
	newest   int64 // of all samples
	behind   int64 // the most that a sample was behind it
	// answer may refuse a request by its number, from 1 on; true if it did.
	answer func(w http.ResponseWriter, request int) bool
	// refuse tells which samples are invalid.
	refuse func(t int64) bool
}

func newFakeNode(t *testing.T) *fakeNode {
	n := &fakeNode{taken: contents{}}
	n.Server = httptest.NewServer(n)
	t.Cleanup(n.Server.Close)
	return n
}

// ServeHTTP implements http.Handler.
func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests++
	if n.answer != nil && n.answer(w, n.requests) {
		return
	}
	request, err := readRequest(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
		return
	}
	if slices.ContainsFunc(request.Timeseries, func(ts writev2.TimeSeries) bool { return len(ts.Samples) > 0 && len(ts.Histograms) > 0 }) {
		http.Error(w, "a series with floats and histograms, which no receiver takes", http.StatusUnsupportedMediaType)
		return
	}
	floats, histograms, refused := n.take(request)
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(floats))
	w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", fmt.Sprint(histograms))
	if refused > 0 {
		http.Error(w, "too old", http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func readRequest(r *http.Request) (*writev2.Request, error) {
	if r.URL.Path != "/api/v1/write" || r.Header.Get("Content-Type") != "application/x-protobuf;proto=io.prometheus.write.v2.Request" {
		return nil, errors.New("no Remote Write 2.0")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		return nil, err
	}
	var request writev2.Request
	return &request, request.Unmarshal(raw)
}

func (n *fakeNode) take(request *writev2.Request) (floats, histograms, refused int) {
	for _, ts := range request.Timeseries {
		builder := labels.NewScratchBuilder(0)
		ls, err := ts.ToLabels(&builder, request.Symbols)
		if err != nil {
			panic(err)
		}
		put := func(t int64, text string, count *int) {
			if n.refuse != nil && n.refuse(t) {
				refused++
				return
			}
			*count++
			n.newest = max(n.newest, t)
			n.behind = max(n.behind, n.newest-t)
			n.taken.add(ls.String(), t, text)
		}
		for _, s := range ts.Samples {
			put(s.Timestamp, floatText(s.Value), &floats)
		}
		for _, h := range ts.Histograms {
			put(h.Timestamp, histogramText(h.ToFloatHistogram()), &histograms)
		}
	}
	return floats, histograms, refused
}

// importInto runs an import of all that a source has into a node.
func importInto(ctx context.Context, t *testing.T, n *fakeNode, s Source, change func(*Options)) (Report, error) {
	t.Helper()
	o := Options{
		Source: s, URL: n.URL, Client: n.Client(), From: begun.UnixMilli(), To: begun.Add(24 * time.Hour).UnixMilli(),
		Progress: filepath.Join(t.TempDir(), "progress"), Out: t.Output(),
	}
	if change != nil {
		change(&o)
	}
	return Run(ctx, o)
}
