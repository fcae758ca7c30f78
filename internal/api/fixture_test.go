package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/teststorage"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/starling-tsdb/starling/internal/receive"
	"github.com/starling-tsdb/starling/internal/series"
)

// now is the time of all tests; samples lie before it.
var now = time.Unix(1_700_000_000, 0).UTC()

// fixture is an API over a real database, served over real connections.
type fixture struct {
	t     *testing.T
	opts  Options
	db    *teststorage.TestStorage
	reg   *prometheus.Registry
	ready atomic.Pointer[error]
	log   *logBuffer
	url   string
}

// logBuffer keeps the log for tests to read while handlers write.
type logBuffer struct {
	mu  sync.Mutex
	log strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// newFixture serves the API; change may adapt its options.
func newFixture(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, db: teststorage.New(t), reg: prometheus.NewRegistry(), log: &logBuffer{}}
	f.load()
	eng, err := NewEngine(EngineOptions{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, MaxConcurrent: 4})
	if err != nil {
		t.Fatal(err)
	}
	f.opts = Options{
		Sources: Sources{
			Engine: eng, Queryable: f.db, Exemplars: f.db,
			Metadata: fakeMetadata{}, Stats: headStats{f.db},
		},
		Writes: testWrites(t),
		Info: Info{
			Cluster:    fakeCluster{},
			BlockMetas: func() ([]tsdb.BlockMeta, error) { return f.db.BlockMetas(), nil },
			Flags:      map[string]string{"query.timeout": "2m"},
			Version:    v1.PrometheusVersion{Version: "1.2.3"},
			Retention:  "15d",
		},
		Page:  fakePage,
		Admin: &fakeAdmin{}, Recoverer: &fakeAdmin{}, Repairer: &fakeRepairer{}, Keyrings: &fakeKeyrings{},
		Serving:  f.whether,
		Ready:    f.whether,
		Gatherer: f.reg, Registerer: f.reg,
		Logger: slog.New(slog.NewTextHandler(f.log, nil)),
		Now:    func() time.Time { return now },
	}
	if change != nil {
		change(&f.opts)
	}
	a, err := New(f.opts)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// load appends the samples that all tests read.
// whether tells why the node is not ready, if a test says that it is not.
func (f *fixture) whether() error {
	if err := f.ready.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *fixture) load() {
	f.t.Helper()
	app := f.db.Appender(f.t.Context())
	var ref storage.SeriesRef
	var err error
	at := func(ago time.Duration) int64 { return now.Add(-ago).UnixMilli() }
	add := func(l labels.Labels, t int64, v float64) {
		if ref, err = app.Append(0, l, t, v); err != nil {
			f.t.Fatal(err)
		}
	}
	for ago := 4 * time.Minute; ago > 0; ago -= 15 * time.Second {
		add(labels.FromStrings("__name__", "http_requests_total", "instance", "a", "job", "web"), at(ago), 240-ago.Seconds())
		add(labels.FromStrings("__name__", "http_requests_total", "instance", "b", "job", "web"), at(ago), 480-2*ago.Seconds())
	}
	if _, err := app.AppendExemplar(ref, labels.FromStrings("__name__", "http_requests_total", "instance", "b", "job", "web"),
		exemplar.Exemplar{Labels: labels.FromStrings("trace_id", "t1"), Value: 1, Ts: at(time.Minute), HasTs: true}); err != nil {
		f.t.Fatal(err)
	}
	add(labels.FromStrings("__name__", "free_bytes", "disk", "sda"), at(time.Minute), 42)
	hist := tsdbutil.GenerateTestFloatHistogram(1)
	for _, h := range []struct {
		name string
		fh   *histogram.FloatHistogram
	}{{"latency_seconds", hist}, {"size_bytes", tsdbutil.GenerateTestCustomBucketsFloatHistogram(1)}} {
		if _, err := app.AppendHistogram(0, labels.FromStrings("__name__", h.name, "instance", "a"), at(30*time.Second), nil, h.fh); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := app.Commit(); err != nil {
		f.t.Fatal(err)
	}
}

// response is an answer, read to its end.
type response struct {
	status int
	header http.Header
	body   string
	// broken is the error that reading the body ended with.
	broken error
}

func (f *fixture) do(method, path string, form url.Values, header http.Header) response {
	f.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return response{broken: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(b), err}
}

func (f *fixture) get(path string) response {
	f.t.Helper()
	return f.do(http.MethodGet, path, nil, nil)
}

// envelope is the JSON that Prometheus wraps every answer in.
type envelope struct {
	Status    string          `json:"status"`
	Data      json.RawMessage `json:"data"`
	ErrorType string          `json:"errorType"`
	Error     string          `json:"error"`
	Warnings  []string        `json:"warnings"`
}

func (r response) envelope(t *testing.T) envelope {
	t.Helper()
	var e envelope
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("status %d, body %q: %v", r.status, r.body, err)
	}
	return e
}

type fakeMetadata struct{}

func (fakeMetadata) Metadata(_ context.Context, metric string, _, _ int) (map[string][]metadata.Metadata, annotations.Annotations, error) {
	all := map[string][]metadata.Metadata{
		"http_requests_total": {
			{Type: model.MetricTypeCounter, Help: "Requests."},
			{Type: model.MetricTypeCounter, Help: "Requests served."},
		},
		"free_bytes": {{Type: model.MetricTypeGauge, Unit: "bytes", Help: "Free space."}},
	}
	if metric == "" {
		return all, nil, nil
	}
	if entries, ok := all[metric]; ok {
		return map[string][]metadata.Metadata{metric: entries}, nil, nil
	}
	return nil, nil, nil
}

type headStats struct{ db *teststorage.TestStorage }

func (s headStats) Stats(_ context.Context, label string, limit int) (*tsdb.Stats, error) {
	return s.db.Head().Stats(label, limit), nil
}

// fakePage shows what the API answers to a query.
func fakePage(paths http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "page %s: ", r.URL.Path)
		r.URL.Path = "/api/v1/query"
		paths.ServeHTTP(w, r)
	})
}

type fakeCluster struct{}

func (fakeCluster) Status(context.Context) ClusterStatus {
	slot := 1
	return ClusterStatus{
		ClusterID: "c1", Self: "n1", Epoch: 7, ReplicationFactor: 3, WriteQuorum: 2,
		Slots: []SlotStatus{{Slot: 0}, {Slot: 1, Node: "n1", Zone: "z"}},
		Nodes: []NodeStatus{{ID: "n1", Addresses: NodeAddresses{HTTP: "h:1"}, State: "alive", Slot: &slot}},
		Gaps:  []GapStatus{{Peer: "n2", Since: "2026-03-01T00:00:00Z", Opened: time.Unix(0, 0).UTC(), SamplesLeft: 7, BytesLeft: 10}},
	}
}

// emptyWriter confirms everything and keeps nothing.
type emptyWriter struct{}

func (emptyWriter) Write(context.Context, *series.Batch) (series.Result, error) {
	return series.Result{}, nil
}

func testWrites(*testing.T) *WriteHandlers {
	return NewWriteHandlers(WriteOptions{
		Writer:  emptyWriter{},
		Decoder: receive.New(receive.Options{OTLP: config.DefaultOTLPConfig}),
	})
}
