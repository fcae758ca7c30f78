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
	return send(remoteReadRequest(f.t, f.url+path, streamed))
}

func send(req *http.Request) response {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return response{broken: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(b), err}
}

func remoteReadRequest(t *testing.T, url string, streamed bool) *http.Request {
	t.Helper()
	return remoteReadOf(t, url, streamed, readQuery(t, labels.MustNewMatcher(labels.MatchEqual, "__name__", "http_requests_total")))
}

func remoteReadOf(t *testing.T, url string, streamed bool, queries ...*prompb.Query) *http.Request {
	t.Helper()
	req := prompb.ReadRequest{Queries: queries}
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

// TestRemoteReadIsBounded sends regular expressions of many lengths, and what is no remote read.
func TestRemoteReadIsBounded(t *testing.T) {
	f := newFixture(t, nil)
	name := &prompb.LabelMatcher{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "http_requests_total"}
	matcher := func(typ prompb.LabelMatcher_Type, n int) *prompb.Query {
		q := readQuery(t)
		q.Matchers = []*prompb.LabelMatcher{name, {Type: typ, Name: "job", Value: strings.Repeat("a", n)}}
		return q
	}
	const tooLong = "has 4097 bytes, and may have 4096"
	for what, tc := range map[string]struct {
		query *prompb.Query
		code  int
		text  string
	}{
		"the longest":           {matcher(prompb.LabelMatcher_RE, maxRegexpBytes), 200, ""},
		"too long":              {matcher(prompb.LabelMatcher_RE, maxRegexpBytes+1), 400, tooLong},
		"too long, not":         {matcher(prompb.LabelMatcher_NRE, maxRegexpBytes+1), 400, tooLong},
		"a long value":          {matcher(prompb.LabelMatcher_EQ, maxRegexpBytes+1), 200, ""},
		"no regular expression": {&prompb.Query{Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_RE, Name: "job", Value: "("}}}, 400, "missing closing"},
	} {
		for _, streamed := range []bool{false, true} {
			req := remoteReadOf(t, f.url+"/api/v1/read", streamed, readQuery(t), tc.query)
			if res := send(req); res.status != tc.code || !strings.Contains(res.body, tc.text) || res.broken != nil {
				t.Errorf("%s, streamed %t: %d %.200q (%v), want %d %q", what, streamed, res.status, res.body, res.broken, tc.code, tc.text)
			}
		}
	}
	for what, tc := range map[string]struct {
		body []byte
		text string
	}{
		"no snappy":      {[]byte("?"), "snappy"},
		"no remote read": {snappy.Encode(nil, []byte("?")), "proto"},
		"too much":       {make([]byte, maxReadBytes+1), "too large"},
	} {
		req := remoteReadRequest(t, f.url+"/api/v1/read", false)
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(tc.body)), int64(len(tc.body))
		if res := send(req); res.status != 400 || !strings.Contains(res.body, tc.text) {
			t.Errorf("%s: %d %.200q (%v)", what, res.status, res.body, res.broken)
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
