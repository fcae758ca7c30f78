package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/receive"
	"github.com/starling-tsdb/starling/internal/series"
)

const (
	typeV1 = "application/x-protobuf"
	typeV2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
)

// writerFunc is a cluster in a function.
type writerFunc func(ctx context.Context, b *series.Batch) (series.Result, error)

func (f writerFunc) Write(ctx context.Context, b *series.Batch) (series.Result, error) {
	return f(ctx, b)
}

// storeAll takes everything but what is named in refuse, and counts exactly.
func storeAll(refuse ...series.Refusal) writerFunc {
	return func(_ context.Context, b *series.Batch) (series.Result, error) {
		res := series.Result{Refused: refuse}
		for i := range b.Series {
			for j := range b.Series[i].Samples {
				if b.Series[i].Samples[j].IsHistogram() {
					res.Written.Histograms++
				} else {
					res.Written.Samples++
				}
			}
			res.Written.Exemplars += len(b.Series[i].Exemplars)
		}
		for _, r := range refuse {
			switch {
			case r.Exemplar:
				res.Written.Exemplars--
			case b.Series[r.Series].Samples[r.Item].IsHistogram():
				res.Written.Histograms--
			default:
				res.Written.Samples--
			}
		}
		return res, nil
	}
}

func newWriteHandlers(t *testing.T, w Writer, change ...func(*WriteOptions, *receive.Limits)) *WriteHandlers {
	t.Helper()
	o := WriteOptions{Writer: w, Registerer: prometheus.NewRegistry()}
	var l receive.Limits
	for _, c := range change {
		c(&o, &l)
	}
	o.Decoder = receive.New(receive.Options{OTLP: config.DefaultOTLPConfig, Limits: l})
	return NewWriteHandlers(o)
}

func encoded(t *testing.T, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, b)
}

// labelPairs makes labels of alternating names and values.
func labelPairs(kv ...string) []prompb.Label {
	var ls []prompb.Label
	for i := 0; i < len(kv); i += 2 {
		ls = append(ls, prompb.Label{Name: kv[i], Value: kv[i+1]})
	}
	return ls
}

// bodies encodes the same series in both versions: one float each, and for the last a
// histogram and two exemplars as well.
func bodies(t *testing.T, labels ...[]string) (v1, v2 []byte) {
	t.Helper()
	var req1 prompb.WriteRequest
	var req2 writev2.Request
	st := writev2.NewSymbolTable()
	h := &histogram.Histogram{Count: 1, ZeroCount: 1}
	for i, kv := range labels {
		ts1 := prompb.TimeSeries{Labels: labelPairs(kv...), Samples: []prompb.Sample{{Value: 1, Timestamp: 1000}}}
		ts2 := writev2.TimeSeries{Samples: []writev2.Sample{{Value: 1, Timestamp: 1000}}}
		for _, s := range kv {
			ts2.LabelsRefs = append(ts2.LabelsRefs, st.Symbolize(s))
		}
		if i == len(labels)-1 {
			ts1.Histograms = []prompb.Histogram{prompb.FromIntHistogram(2000, h)}
			ts1.Exemplars = []prompb.Exemplar{{Value: 1, Timestamp: 1}, {Value: 2, Timestamp: 2}}
			ts2.Histograms = []writev2.Histogram{writev2.FromIntHistogram(0, 2000, h)}
			ts2.Exemplars = []writev2.Exemplar{{Value: 1, Timestamp: 1}, {Value: 2, Timestamp: 2}}
		}
		req1.Timeseries = append(req1.Timeseries, ts1)
		req2.Timeseries = append(req2.Timeseries, ts2)
	}
	req2.Symbols = st.Symbols()
	return encoded(t, &req1), encoded(t, &req2)
}

func post(h http.HandlerFunc, body []byte, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h(w, r)
	return w
}

func writtenHeaders(w *httptest.ResponseRecorder) string {
	var out []string
	for _, kind := range []string{"Samples", "Histograms", "Exemplars"} {
		out = append(out, w.Header().Get("X-Prometheus-Remote-Write-"+kind+"-Written"))
	}
	return strings.Join(out, " ")
}

// TestWriteStatus is the table of the guarantee: short of a quorum, else invalid, else
// written, in both versions of Remote Write.
func TestWriteStatus(t *testing.T) {
	good, bad := []string{"__name__", "good", "a", "1"}, []string{"__name__", "bad", "x", "1", "x", "2"}
	tooOld := series.Refusal{Series: 0, Item: 0, Reason: series.Invalid, Message: "too old sample"}
	short := errors.New("1 of 2 owners confirmed")
	for _, tc := range []struct {
		name   string
		labels [][]string
		writer writerFunc
		code   int
		// written is what 2.0 must report.
		written string
		text    []string
	}{
		{"all written", [][]string{good, good}, storeAll(), 204, "2 1 2", nil},
		{"invalid and valid", [][]string{bad, good}, storeAll(), 400, "1 1 2", []string{
			"1 invalid, everything else is written", `series {__name__="bad", x="1", x="2"}: label name "x" is used more than once`,
		}},
		{"all invalid", [][]string{bad}, func(context.Context, *series.Batch) (series.Result, error) {
			t.Error("the writer was called for an empty batch")
			return series.Result{}, nil
		}, 400, "0 0 0", []string{`__name__="bad"`}},
		{"refused", [][]string{good, good}, storeAll(tooOld), 400, "1 1 2", []string{
			`series {__name__="good", a="1"}: sample at 1000: too old sample`,
		}},
		{"refused histogram", [][]string{good}, storeAll(series.Refusal{Item: 1, Message: "too old sample"}), 400, "1 0 2", []string{"sample at 2000"}},
		{"refused and invalid", [][]string{bad, good}, storeAll(tooOld), 400, "0 1 2", []string{"2 invalid", "bad", "too old sample"}},
		{"refused exemplar alone", [][]string{good}, storeAll(series.Refusal{Item: 1, Exemplar: true, Message: "out of order"}), 204, "1 1 1", nil},
		{"short", [][]string{good}, func(context.Context, *series.Batch) (series.Result, error) {
			return series.Result{}, short
		}, 503, "0 0 0", []string{"1 of 2 owners confirmed"}},
		{"short and invalid and refused", [][]string{bad, good, good}, func(ctx context.Context, b *series.Batch) (series.Result, error) {
			return series.Result{Refused: []series.Refusal{tooOld}, Written: series.Written{Histograms: 1, Exemplars: 2}}, short
		}, 503, "0 1 2", []string{"1 of 2 owners confirmed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v1, v2 := bodies(t, tc.labels...)
			for version, w := range []*httptest.ResponseRecorder{
				post(newWriteHandlers(t, tc.writer).RemoteWrite, v1, "Content-Type", typeV1, "Content-Encoding", "snappy"),
				post(newWriteHandlers(t, tc.writer).RemoteWrite, v2, "Content-Type", typeV2, "Content-Encoding", "snappy"),
			} {
				if w.Code != tc.code {
					t.Errorf("%d.0: status %d (%s), want %d", version+1, w.Code, w.Body, tc.code)
				}
				for _, text := range tc.text {
					if !strings.Contains(w.Body.String(), text) {
						t.Errorf("%d.0: body %q, want it to contain %q", version+1, w.Body, text)
					}
				}
				if strings.Count(w.Body.String(), "\n") > 1 {
					t.Errorf("%d.0: body %q has several lines", version+1, w.Body)
				}
				if got := w.Header().Get("Retry-After"); (got != "") != (tc.code == 503) {
					t.Errorf("%d.0: Retry-After %q with status %d", version+1, got, w.Code)
				}
				want := tc.written
				if version == 0 {
					want = "  "
				}
				if got := writtenHeaders(w); got != want {
					t.Errorf("%d.0: written %q, want %q", version+1, got, want)
				}
			}
		})
	}
}

func TestWriteNegotiation(t *testing.T) {
	v1, v2 := bodies(t, []string{"__name__", "m"})
	for _, tc := range []struct {
		name   string
		body   []byte
		header []string
		code   int
	}{
		{"nothing said", v1, nil, 204},
		{"1.0", v1, []string{"Content-Type", typeV1, "X-Prometheus-Remote-Write-Version", "0.1.0"}, 204},
		{"1.0 by name", v1, []string{"Content-Type", typeV1 + ";proto=prometheus.WriteRequest"}, 204},
		{"2.0", v2, []string{"Content-Type", typeV2, "X-Prometheus-Remote-Write-Version", "2.0.0"}, 204},
		{"2.0 with a space", v2, []string{"Content-Type", "application/x-protobuf; proto=io.prometheus.write.v2.Request"}, 204},
		{"encoding", v1, []string{"Content-Encoding", "snappy"}, 204},
		{"gzip", v1, []string{"Content-Encoding", "gzip"}, 415},
		{"JSON", v1, []string{"Content-Type", "application/json"}, 415},
		{"no type at all", v1, []string{"Content-Type", ";"}, 415},
		{"other message", v1, []string{"Content-Type", typeV1 + ";proto=io.prometheus.write.v3.Request"}, 415},
		{"other version", v2, []string{"Content-Type", typeV2, "X-Prometheus-Remote-Write-Version", "3.0.0"}, 415},
	} {
		w := post(newWriteHandlers(t, storeAll()).RemoteWrite, tc.body, tc.header...)
		if w.Code != tc.code {
			t.Errorf("%s: status %d (%s), want %d", tc.name, w.Code, w.Body, tc.code)
		}
	}
	for _, h := range []http.HandlerFunc{newWriteHandlers(t, storeAll()).RemoteWrite, newWriteHandlers(t, storeAll()).OTLP} {
		w := httptest.NewRecorder()
		h(w, httptest.NewRequest(http.MethodGet, "/api/v1/write", nil))
		if w.Code != 405 || w.Header().Get("Allow") != "POST" {
			t.Errorf("GET: status %d, Allow %q", w.Code, w.Header().Get("Allow"))
		}
	}
}

// chunked hides the length of a body.
type chunked struct{ io.Reader }

func TestWriteBodies(t *testing.T) {
	good, _ := bodies(t, []string{"__name__", "m"})
	long := bytes.Repeat([]byte{1, 2, 3}, 1<<20)
	for _, tc := range []struct {
		name string
		body io.Reader
		code int
	}{
		{"chunked", chunked{bytes.NewReader(good)}, 204},
		{"empty", strings.NewReader(""), 400},
		{"not snappy", strings.NewReader("some text that is not snappy"), 400},
		{"not protobuf", bytes.NewReader(snappy.Encode(nil, []byte("\x0a\xff\xff"))), 400},
		{"cut off", bytes.NewReader(good[:len(good)-1]), 400},
		{"long", bytes.NewReader(long), 413},
		{"long, chunked", chunked{bytes.NewReader(long)}, 413},
		{"bomb", bytes.NewReader(snappy.Encode(nil, make([]byte, 2<<20))), 413},
		{"bomb of messages", bytes.NewReader(snappy.Encode(nil, bytes.Repeat([]byte("\x0a\x00"), 400<<10))), 413},
		{"broken off", chunked{io.MultiReader(bytes.NewReader(good), errReader{})}, 503},
	} {
		h := newWriteHandlers(t, storeAll(), func(_ *WriteOptions, l *receive.Limits) {
			l.MaxBodyBytes, l.MaxBatchBytes = 1<<20, 1<<20
		})
		r := httptest.NewRequest(http.MethodPost, "/api/v1/write", tc.body)
		w := httptest.NewRecorder()
		h.RemoteWrite(w, r)
		if w.Code != tc.code {
			t.Errorf("%s: status %d (%s), want %d", tc.name, w.Code, w.Body, tc.code)
		}
		if held := h.gate.Held(); held != 0 {
			t.Errorf("%s: %d bytes are still reserved", tc.name, held)
		}
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestWriteInvalidSeries sends each kind of invalid series beside a good one.
func TestWriteInvalidSeries(t *testing.T) {
	many := []string{"__name__", "m"}
	for i := range 200 {
		many = append(many, "l"+strconv.Itoa(i), "v")
	}
	for name, tc := range map[string]struct {
		labels []string
		text   string
	}{
		"duplicate":     {[]string{"__name__", "m", "a", "1", "a", "1"}, `"a" is used more than once`},
		"empty name":    {[]string{"__name__", "m", "", "1"}, "empty label name"},
		"no metric":     {[]string{"a", "1"}, `series {a="1"}: no metric name`},
		"not UTF-8":     {[]string{"__name__", "m", "a", "\xff"}, `"\xff" of label "a" is not valid UTF-8`},
		"many":          {many, "more than 128 labels"},
		"long value":    {[]string{"__name__", "m", "a", strings.Repeat("x", 33<<10)}, "the limit is 32768"},
		"long name":     {[]string{"__name__", "m", strings.Repeat("x", 1025), "v"}, "the limit is 1024"},
		"control bytes": {[]string{"__name__", "m\n\x00", "a", "1", "a", "1"}, `__name__="m\n\x00"`},
	} {
		v1, v2 := bodies(t, tc.labels, []string{"__name__", "good"})
		for version, body := range map[string][]byte{typeV1: v1, typeV2: v2} {
			w := post(newWriteHandlers(t, storeAll()).RemoteWrite, body, "Content-Type", version)
			if w.Code != 400 || !strings.Contains(w.Body.String(), tc.text) {
				t.Errorf("%s as %s: status %d (%s), want 400 with %q", name, version, w.Code, w.Body, tc.text)
			}
			if got := writtenHeaders(w); version == typeV2 && got != "1 1 2" {
				t.Errorf("%s: written %q, want the good series whole", name, got)
			}
		}
	}
}

func TestWriteErrorsAreBounded(t *testing.T) {
	var labels [][]string
	for range 1000 {
		labels = append(labels, []string{"a", strings.Repeat("x", 5000)})
	}
	v1, _ := bodies(t, labels...)
	w := post(newWriteHandlers(t, storeAll()).RemoteWrite, v1)
	if w.Code != 400 || w.Body.Len() > 5000 || !strings.HasPrefix(w.Body.String(), "1000 invalid") || !strings.Contains(w.Body.String(), "and 984 more") {
		t.Errorf("status %d, %d bytes: %.200s", w.Code, w.Body.Len(), w.Body)
	}
}

// A client that is gone is counted as such, but a 503 stands on the wire: whoever reads
// it after all must not drop the samples.
func TestWriteClientGone(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	h := newWriteHandlers(t, writerFunc(func(ctx context.Context, _ *series.Batch) (series.Result, error) {
		cancel()
		<-ctx.Done()
		return series.Result{}, ctx.Err()
	}))
	v1, _ := bodies(t, []string{"__name__", "m"})
	w := httptest.NewRecorder()
	h.RemoteWrite(w, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(v1)).WithContext(ctx))
	if w.Code != 503 || testutil.ToFloat64(h.metrics.requests.WithLabelValues(protocolRemoteWrite1, "499")) != 1 {
		t.Errorf("status %d, and the metric does not say 499", w.Code)
	}
}

// Beyond the memory for all requests a request waits a moment, then is told to retry;
// one that could never have enough is told that it is too large.
func TestWriteOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		h := newWriteHandlers(t, writerFunc(func(context.Context, *series.Batch) (series.Result, error) {
			<-proceed
			return series.Result{}, nil
		}), func(o *WriteOptions, l *receive.Limits) {
			o.MaxInflightBytes, o.AdmissionWait, o.RetryAfter = 3<<20, time.Second, 1500*time.Millisecond
		})
		v1, _ := bodies(t, []string{"__name__", "m"})
		codes := make(chan int, 2)
		for range 2 {
			go func() { codes <- post(h.RemoteWrite, v1).Code }()
		}
		synctest.Wait()
		began := time.Now()
		w := post(h.RemoteWrite, v1)
		if w.Code != 503 || w.Header().Get("Retry-After") != "2" || time.Since(began) != time.Second {
			t.Errorf("status %d, Retry-After %q after %v, want 503, 2 after 1s", w.Code, w.Header().Get("Retry-After"), time.Since(began))
		}
		close(proceed)
		if a, b := <-codes, <-codes; a != 204 || b != 204 {
			t.Errorf("status %d and %d for those before", a, b)
		}
		if w := post(h.RemoteWrite, snappy.Encode(nil, make([]byte, 4<<20))); w.Code != 413 {
			t.Errorf("status %d for more than there is, want 413", w.Code)
		}
		if held := h.gate.Held(); held != 0 {
			t.Errorf("%d bytes are still reserved", held)
		}
	})
}

func TestWriteMetricsAndLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		reg := prometheus.NewRegistry()
		h := newWriteHandlers(t, storeAll(series.Refusal{Message: "too old sample"}, series.Refusal{Item: 1, Exemplar: true}), func(o *WriteOptions, _ *receive.Limits) {
			o.Registerer = reg
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		_, v2 := bodies(t, []string{"a", "1"}, []string{"__name__", "m"}, []string{"__name__", "n"})
		for range 3 {
			post(h.RemoteWrite, v2, "Content-Type", typeV2)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings within ten seconds, want one: %s", n, &log)
		}
		time.Sleep(warnEvery)
		post(h.RemoteWrite, v2, "Content-Type", typeV2)
		if n := strings.Count(log.String(), "level=WARN"); n != 2 || !strings.Contains(log.String(), "unlogged=2") {
			t.Errorf("%d warnings, want a second that counts the others: %s", n, &log)
		}
		want := `
# HELP starling_write_exemplars_total Exemplars received: written or dropped.
# TYPE starling_write_exemplars_total counter
starling_write_exemplars_total{outcome="dropped",protocol="remote-write-2"} 4
starling_write_exemplars_total{outcome="written",protocol="remote-write-2"} 4
# HELP starling_write_inflight_bytes Memory reserved for write requests in progress.
# TYPE starling_write_inflight_bytes gauge
starling_write_inflight_bytes 0
# HELP starling_write_requests_total Write requests by protocol and status; 499 if the client did not wait.
# TYPE starling_write_requests_total counter
starling_write_requests_total{code="400",protocol="remote-write-2"} 4
# HELP starling_write_samples_total Samples and histograms received: written, invalid in the request, refused by the cluster, or unconfirmed, which the sender repeats.
# TYPE starling_write_samples_total counter
starling_write_samples_total{outcome="invalid",protocol="remote-write-2"} 4
starling_write_samples_total{outcome="refused",protocol="remote-write-2"} 4
starling_write_samples_total{outcome="unconfirmed",protocol="remote-write-2"} 0
starling_write_samples_total{outcome="written",protocol="remote-write-2"} 8
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "starling_write_exemplars_total",
			"starling_write_inflight_bytes", "starling_write_requests_total", "starling_write_samples_total"); err != nil {
			t.Error(err)
		}
	})
}

// A body of known length is reserved as it comes, and in the end no more than it takes.
func TestReadBodyReserves(t *testing.T) {
	const size = 5 << 20
	for _, c := range []struct {
		name    string
		claimed int64
		sent    int
		most    int64
	}{
		{"as long as claimed", size, size, size + 1},
		{"of unknown length", -1, size, 4 * size},
		{"claimed and not sent", 30 << 20, 0, 512<<10 + 1},
		{"broken off", 30 << 20, 1 << 20, 2<<20 + 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(make([]byte, c.sent)))
			r.ContentLength = c.claimed
			var buf []byte
			var reserved int64
			if err := readBody(r, &buf, func(n int64) error { reserved += n; return nil }); err != nil {
				t.Fatal(err)
			}
			if len(buf) != c.sent || int64(cap(buf)) > reserved || reserved > c.most {
				t.Errorf("%d bytes in a buffer of %d, for which %d are reserved; want at most %d", len(buf), cap(buf), reserved, c.most)
			}
		})
	}
}
