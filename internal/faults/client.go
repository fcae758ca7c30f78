//go:build linux

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

// client talks to nodes as Prometheus and Grafana do.
type client struct{ http *http.Client }

func newClient() *client {
	return &client{http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: 5 * time.Second}}}
}

// reply is what a node answered.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (c *client) do(ctx context.Context, method, url string, header http.Header, body []byte) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, body: b}, err
}

func (c *client) get(ctx context.Context, url string) (reply, error) {
	return c.do(ctx, http.MethodGet, url, nil, nil)
}

// errUnavailable is the honest refusal: 503, or no connection.
var errUnavailable = errors.New("unavailable")

// violation is an answer that no client should ever get.
type violation struct{ text string }

func (v *violation) Error() string { return v.text }

func violationf(format string, args ...any) error {
	return &violation{text: fmt.Sprintf(format, args...)}
}

// excerpt is the part of a body that goes into messages.
func excerpt(b []byte) string {
	const most = 150
	return strings.TrimSpace(string(b[:min(len(b), most)]))
}

// query asks a node for all raw samples that a selector has in the range that ends at t.
func (c *client) query(ctx context.Context, base, selector string, span time.Duration, t time.Time) (ledger.Answer, error) {
	v := url.Values{
		"query": {fmt.Sprintf("%s[%dms]", selector, span.Milliseconds())},
		"time":  {strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)},
	}
	r, err := c.get(ctx, base+"/api/v1/query?"+v.Encode())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	if r.status == http.StatusServiceUnavailable {
		return nil, fmt.Errorf("%w: %s", errUnavailable, excerpt(r.body))
	}
	if r.status != http.StatusOK {
		return nil, violationf("query answered %d: %s", r.status, excerpt(r.body))
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
func parseMatrix(r reply) (ledger.Answer, error) {
	var m matrix
	if err := json.Unmarshal(r.body, &m); err != nil {
		return nil, violationf("query answered no JSON: %v: %s", err, excerpt(r.body))
	}
	if m.Status != "success" || len(m.Warnings) > 0 || r.header.Get("Starling-Partial-Response") != "" {
		return nil, violationf("query answered %q with warnings %q", m.Status, m.Warnings)
	}
	a := ledger.Answer{}
	for _, res := range m.Data.Result {
		s, err := ledger.SeriesOf(func(name string) string { return res.Metric[name] })
		if err != nil {
			return nil, violationf("series %v that was never sent: %v", res.Metric, err)
		}
		if _, twice := a[s]; twice {
			return nil, violationf("series %v comes twice in one answer", res.Metric)
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
		return 0, violationf("timestamp %s: %v", raw, err)
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
		return ledger.Point{}, violationf("value %s: %v", pair[1], err)
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
		return ledger.Point{}, violationf("histogram %s: %v", pair[1], err)
	}
	count, err := strconv.ParseUint(h.Count, 10, 64)
	if err != nil {
		return ledger.Point{}, violationf("count of a histogram: %v", err)
	}
	sum, err := strconv.ParseFloat(h.Sum, 64)
	if err != nil {
		return ledger.Point{}, violationf("sum of a histogram: %v", err)
	}
	return ledger.Point{T: t, V: sum, Count: count}, nil
}

// write sends samples by one version of Remote Write. The error is nil for success, wraps
// errUnavailable where a sender would try again and errRefused where it would give up.
func (c *client) write(ctx context.Context, base string, version int, samples []ledger.Sample) error {
	body, header, err := encode(version, samples)
	if err != nil {
		return err
	}
	r, err := c.do(ctx, http.MethodPost, base+"/api/v1/write", header, body)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnavailable, err)
	}
	return judge(r, version, samples)
}

// errRefused is a 400: senders give the samples up.
var errRefused = errors.New("refused")

// judge holds the answer to a write against guarantee 2.
func judge(r reply, version int, samples []ledger.Sample) error {
	switch {
	case r.status/100 == 2:
		return checkWritten(r.header, version, samples)
	case r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") != "":
		return fmt.Errorf("%w: %s", errUnavailable, excerpt(r.body))
	case r.status == http.StatusServiceUnavailable:
		return violationf("write answered 503 without Retry-After: %s", excerpt(r.body))
	case r.status == http.StatusBadRequest:
		return fmt.Errorf("%w: %s", errRefused, excerpt(r.body))
	}
	return violationf("write answered %d: %s", r.status, excerpt(r.body))
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
			return violationf("success says %s-Written %q, sent were %d", name, got, want)
		}
	}
	return nil
}
