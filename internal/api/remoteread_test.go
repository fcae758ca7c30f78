package api

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	configutil "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

func readQuery(t *testing.T, matchers ...*labels.Matcher) *prompb.Query {
	t.Helper()
	q, err := remote.ToQuery(now.Add(-time.Hour).UnixMilli(), now.UnixMilli(), matchers, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// remoteRead reads http_requests_total and returns the raw answer.
func (f *fixture) remoteRead(streamed bool) response {
	f.t.Helper()
	return f.remoteReadAt("/api/v1/read", streamed)
}

func (f *fixture) remoteReadAt(path string, streamed bool) response {
	f.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(remoteReadRequest(f.t, f.url+path, streamed))
	if err != nil {
		return response{broken: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(b), err}
}

func remoteReadRequest(t *testing.T, url string, streamed bool) *http.Request {
	t.Helper()
	req := prompb.ReadRequest{Queries: []*prompb.Query{
		readQuery(t, labels.MustNewMatcher(labels.MatchEqual, "__name__", "http_requests_total")),
	}}
	if streamed {
		req.AcceptedResponseTypes = []prompb.ReadRequest_ResponseType{prompb.ReadRequest_STREAMED_XOR_CHUNKS}
	}
	body, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	httpReq, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		t.Fatal(err)
	}
	// A form type must not make anybody read the body as a form.
	httpReq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return httpReq
}

// TestRemoteRead reads with Prometheus's own client, sampled and streamed, and compares
// with what the database holds.
func TestRemoteRead(t *testing.T) {
	f := newFixture(t, nil)
	matchers := map[string]*labels.Matcher{
		"floats":    labels.MustNewMatcher(labels.MatchEqual, "__name__", "http_requests_total"),
		"histogram": labels.MustNewMatcher(labels.MatchEqual, "__name__", "latency_seconds"),
		"all":       labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"),
		"nothing":   labels.MustNewMatcher(labels.MatchEqual, "__name__", "unknown"),
	}
	local, err := f.db.Querier(now.Add(-time.Hour).UnixMilli(), now.UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for _, prefix := range []string{"", altPrefix} {
		for mode, types := range map[string][]prompb.ReadRequest_ResponseType{
			"sampled":  {prompb.ReadRequest_SAMPLES},
			"streamed": {prompb.ReadRequest_STREAMED_XOR_CHUNKS},
		} {
			u, err := url.Parse(f.url + prefix + "/api/v1/read")
			if err != nil {
				t.Fatal(err)
			}
			client, err := remote.NewReadClient("test", &remote.ClientConfig{
				URL: &configutil.URL{URL: u}, Timeout: model.Duration(time.Minute), ChunkedReadLimit: 1 << 24,
				AcceptedResponseTypes: types,
			})
			if err != nil {
				t.Fatal(err)
			}
			for name, m := range matchers {
				set, err := client.Read(t.Context(), readQuery(t, m), true)
				if err != nil {
					t.Errorf("%s %s: %v", mode, name, err)
					continue
				}
				got, want := dump(t, set), dump(t, local.Select(t.Context(), true, nil, m))
				if got != want {
					t.Errorf("%s %s%s: got\n%s\nwant\n%s", mode, name, prefix, got, want)
				}
				if empty := name == "nothing"; empty != (want == "") {
					t.Errorf("%s: the database has %q", name, want)
				}
			}
		}
	}
}

// dump renders all series with all samples.
func dump(t *testing.T, set storage.SeriesSet) string {
	t.Helper()
	var b strings.Builder
	for set.Next() {
		b.WriteString(set.At().Labels().String())
		it := set.At().Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			if vt == chunkenc.ValFloat {
				ts, v := it.At()
				b.WriteString(model.SamplePair{Timestamp: model.Time(ts), Value: model.SampleValue(v)}.String())
			} else {
				_, h := it.AtFloatHistogram(nil)
				b.WriteString(h.String())
			}
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRemoteReadLimits(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.RemoteReadSamples = 3 })
	if res := f.remoteRead(false); res.status != http.StatusBadRequest || !strings.Contains(res.body, "sample limit (3)") {
		t.Errorf("got %d %q", res.status, res.body)
	}
}
