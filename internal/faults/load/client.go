package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

// Client talks to nodes as Prometheus and Grafana do. It may be used concurrently.
type Client struct {
	http   *http.Client
	papers Papers
}

// Papers are what a client shows at the front door. The zero value is for nodes that ask for none.
type Papers struct {
	// TLS is for nodes that are reached by HTTPS, nil for others.
	TLS *tls.Config
	// User and Password are those of basic authentication, empty for none.
	User, Password string
}

// NewClient returns a client without any connection.
func NewClient(papers Papers) *Client {
	return &Client{papers: papers, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: papers.TLS, MaxIdleConnsPerHost: 16, IdleConnTimeout: 5 * time.Second,
	}}}
}

// Close closes connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Reply is what a node answered.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends a request and reads the whole answer, whatever its status.
func (c *Client) Do(ctx context.Context, method, url string, header http.Header, body []byte) (Reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return Reply{}, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if c.papers.User != "" {
		req.SetBasicAuth(c.papers.User, c.papers.Password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return Reply{Status: resp.StatusCode, Header: resp.Header, Body: b}, err
}

// Get is Do without a body.
func (c *Client) Get(ctx context.Context, url string) (Reply, error) {
	return c.Do(ctx, http.MethodGet, url, nil, nil)
}

// errUnavailable is the honest refusal: 503, or no connection.
var errUnavailable = errors.New("unavailable")

// Violation is the error of something that no client should ever see.
type Violation struct{ text string }

// Error implements error.
func (v *Violation) Error() string { return v.text }

// Violationf returns a Violation.
func Violationf(format string, args ...any) error {
	return &Violation{text: fmt.Sprintf(format, args...)}
}

// Excerpt is the part of a body that goes into messages.
func Excerpt(b []byte) string {
	const most = 150
	return strings.TrimSpace(string(b[:min(len(b), most)]))
}

// Metric returns the sum of a metric's series with all of some labels, written as in the
// exposition of a node; 0 if there are none.
func (c *Client) Metric(ctx context.Context, base, name string, labels ...string) (float64, error) {
	r, err := c.Get(ctx, base+"/metrics")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(string(r.Body)) {
		rest, ok := strings.CutPrefix(line, name)
		lacks := func(label string) bool { return !strings.Contains(rest, label) }
		if !ok || rest[0] != ' ' && rest[0] != '{' || slices.ContainsFunc(labels, lacks) {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %q: %w", line, err)
		}
		sum += v
	}
	return sum, nil
}

// query asks a node for all raw samples that a selector has in the range that ends at t.
func (c *Client) query(ctx context.Context, base, selector string, span time.Duration, t time.Time) (ledger.Answer, error) {
	v := url.Values{
		"query": {fmt.Sprintf("%s[%dms]", selector, span.Milliseconds())},
		"time":  {strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)},
	}
	r, err := c.Get(ctx, base+"/api/v1/query?"+v.Encode())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	if r.Status == http.StatusServiceUnavailable {
		return nil, fmt.Errorf("%w: %s", errUnavailable, Excerpt(r.Body))
	}
	if r.Status != http.StatusOK {
		return nil, Violationf("query answered %d: %s", r.Status, Excerpt(r.Body))
	}
	return parseMatrix(r)
}

type matrix struct {
	Status   string   `json:"status"`
	Warnings []string `json:"warnings"`
	Data     struct {
		Result []struct {
			Metric     map[string]string    `json:"metric"`
			Values     [][2]json.RawMessage `json:"values"`
			Histograms [][2]json.RawMessage `json:"histograms"`
		} `json:"result"`
	} `json:"data"`
}

// parseMatrix reads the answer to a range selector. One that says that it is partial is a
// violation: nobody asked for it.
func parseMatrix(r Reply) (ledger.Answer, error) {
	var m matrix
	if err := json.Unmarshal(r.Body, &m); err != nil {
		return nil, Violationf("query answered no JSON: %v: %s", err, Excerpt(r.Body))
	}
	if m.Status != "success" || len(m.Warnings) > 0 || r.Header.Get("Starling-Partial-Response") != "" {
		return nil, Violationf("query answered %q with warnings %q", m.Status, m.Warnings)
	}
	a := ledger.Answer{}
	for _, res := range m.Data.Result {
		s, err := ledger.SeriesOf(func(name string) string { return res.Metric[name] })
		if err != nil {
			return nil, Violationf("series %v that was never sent: %v", res.Metric, err)
		}
		if _, twice := a[s]; twice {
			return nil, Violationf("series %v comes twice in one answer", res.Metric)
		}
		points := make([]ledger.Point, 0, len(res.Values)+len(res.Histograms))
		for _, pair := range res.Values {
			p, err := floatPoint(pair)
			if err != nil {
				return nil, err
			}
			points = append(points, p)
		}
		for _, pair := range res.Histograms {
			p, err := histogramPoint(pair)
			if err != nil {
				return nil, err
			}
			points = append(points, p)
		}
		a[s] = points
	}
	return a, nil
}

func timestamp(raw json.RawMessage) (int64, error) {
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return 0, Violationf("timestamp %s: %v", raw, err)
	}
	return int64(math.Round(seconds * 1000)), nil
}

func floatPoint(pair [2]json.RawMessage) (ledger.Point, error) {
	t, err := timestamp(pair[0])
	if err != nil {
		return ledger.Point{}, err
	}
	v, err := strconv.ParseFloat(strings.Trim(string(pair[1]), `"`), 64)
	if err != nil {
		return ledger.Point{}, Violationf("value %s: %v", pair[1], err)
	}
	return ledger.Point{T: t, V: v}, nil
}

func histogramPoint(pair [2]json.RawMessage) (ledger.Point, error) {
	t, err := timestamp(pair[0])
	if err != nil {
		return ledger.Point{}, err
	}
	var h struct{ Count, Sum string }
	if err := json.Unmarshal(pair[1], &h); err != nil {
		return ledger.Point{}, Violationf("histogram %s: %v", pair[1], err)
	}
	count, err := strconv.ParseUint(h.Count, 10, 64)
	if err != nil {
		return ledger.Point{}, Violationf("count of a histogram: %v", err)
	}
	sum, err := strconv.ParseFloat(h.Sum, 64)
	if err != nil {
		return ledger.Point{}, Violationf("sum of a histogram: %v", err)
	}
	return ledger.Point{T: t, V: sum, Count: count}, nil
}

// write sends samples by one version of Remote Write. The error is nil for success, wraps
// errUnavailable where a sender would try again and errRefused where it would give up.
func (c *Client) write(ctx context.Context, base string, version int, samples []ledger.Sample) error {
	body, header, err := encode(version, samples)
	if err != nil {
		return err
	}
	r, err := c.Do(ctx, http.MethodPost, base+"/api/v1/write", header, body)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnavailable, err)
	}
	return judge(r, version, samples)
}

// errRefused is a 400: senders give the samples up.
var errRefused = errors.New("refused")

// judge holds the answer to a write against guarantee 2.
func judge(r Reply, version int, samples []ledger.Sample) error {
	switch {
	case r.Status/100 == 2:
		return checkWritten(r.Header, version, samples)
	case r.Status == http.StatusServiceUnavailable && r.Header.Get("Retry-After") != "":
		return fmt.Errorf("%w: %s", errUnavailable, Excerpt(r.Body))
	case r.Status == http.StatusServiceUnavailable:
		return Violationf("write answered 503 without Retry-After: %s", Excerpt(r.Body))
	case r.Status == http.StatusBadRequest:
		return fmt.Errorf("%w: %s", errRefused, Excerpt(r.Body))
	}
	return Violationf("write answered %d: %s", r.Status, Excerpt(r.Body))
}

// checkWritten compares what a success of Remote Write 2.0 says it wrote.
func checkWritten(h http.Header, version int, samples []ledger.Sample) error {
	if version != 2 {
		return nil
	}
	floats, histograms := 0, 0
	for _, s := range samples {
		if s.Series.Shape == ledger.Native {
			histograms++
		} else {
			floats++
		}
	}
	const prefix = "X-Prometheus-Remote-Write-"
	for name, want := range map[string]int{"Samples": floats, "Histograms": histograms} {
		if got := h.Get(prefix + name + "-Written"); got != strconv.Itoa(want) {
			return Violationf("success says %s-Written %q, sent were %d", name, got, want)
		}
	}
	return nil
}
