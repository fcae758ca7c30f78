package history

import (
	"bufio"
	"context"
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

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// maxLine bounds a line of an export: a series of one window.
const maxLine = 64 << 20

// Export reads from the export in JSON lines that VictoriaMetrics has, /api/v1/export.
type Export struct {
	url    string
	client *http.Client
}

// NewExport returns a source for the URL of an export, with TLS and passwords as an HTTP client
// configuration has them.
func NewExport(at string, config promconfig.HTTPClientConfig) (*Export, error) {
	if _, err := parseURL(at); err != nil {
		return nil, err
	}
	client, err := promconfig.NewClientFromConfig(config, "starling")
	if err != nil {
		return nil, err
	}
	return &Export{url: at, client: client}, nil
}

// Name implements Source.
func (e *Export) Name() string { return "export " + e.url }

// Span implements Source.
func (e *Export) Span() (mint, maxt int64, known bool) { return 0, 0, false }

// Select implements Source.
func (e *Export) Select(ctx context.Context, mint, maxt int64, matchers []*labels.Matcher) (Set, error) {
	texts := make([]string, len(matchers))
	for i, m := range matchers {
		texts[i] = m.String()
	}
	form := url.Values{
		"match[]": {"{" + strings.Join(texts, ",") + "}"}, "start": {exportTime(mint)}, "end": {exportTime(maxt)},
		// Samples as they are stored, without a second look at duplicates in memory.
		"reduce_mem_usage": {"1"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
		return nil, errors.Join(fmt.Errorf("%s answered %s: %s", e.url, resp.Status, strings.TrimSpace(string(text))), err, resp.Body.Close())
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	return &exportSet{lines: lines, body: resp.Body}, nil
}

func exportTime(ms int64) string { return fmt.Sprintf("%d.%03d", ms/1000, ms%1000) }

// exportSet is the lines of an export: each is a part of a series.
type exportSet struct {
	lines *bufio.Scanner
	body  io.Closer
	at    storage.Series
	err   error
}

// exportLine is one line.
type exportLine struct {
	Metric     map[string]string
	Values     []exportValue
	Timestamps []int64
}

// exportValue is a float as an export spells it. VictoriaMetrics stores no NaN but the stale
// marker, so null is that one.
type exportValue float64

// UnmarshalJSON implements json.Unmarshaler.
func (v *exportValue) UnmarshalJSON(b []byte) error {
	if text := strings.Trim(string(b), `"`); text != "null" {
		f, err := strconv.ParseFloat(text, 64)
		*v = exportValue(f)
		return err
	}
	*v = exportValue(math.Float64frombits(value.StaleNaN))
	return nil
}

// Next implements storage.SeriesSet.
func (s *exportSet) Next() bool {
	if s.err != nil || !s.lines.Scan() {
		return false
	}
	var line exportLine
	if err := json.Unmarshal(s.lines.Bytes(), &line); err != nil {
		s.err = fmt.Errorf("a line of the export: %w", err)
		return false
	}
	if len(line.Values) != len(line.Timestamps) {
		s.err = fmt.Errorf("a line of the export has %d values and %d timestamps", len(line.Values), len(line.Timestamps))
		return false
	}
	samples := make([]chunks.Sample, len(line.Values))
	for i, v := range line.Values {
		samples[i] = floatSample{t: line.Timestamps[i], v: float64(v)}
	}
	slices.SortStableFunc(samples, func(a, b chunks.Sample) int { return int(max(-1, min(1, a.T()-b.T()))) })
	s.at = storage.NewListSeries(labels.FromMap(line.Metric), samples)
	return true
}

// At implements storage.SeriesSet.
func (s *exportSet) At() storage.Series { return s.at }

// Err implements storage.SeriesSet.
func (s *exportSet) Err() error { return errors.Join(s.err, s.lines.Err()) }

// Warnings implements storage.SeriesSet.
func (s *exportSet) Warnings() annotations.Annotations { return nil }

// Close implements io.Closer.
func (s *exportSet) Close() error { return s.body.Close() }

// floatSample implements chunks.Sample.
type floatSample struct {
	t int64
	v float64
}

// ST implements chunks.Sample.
func (s floatSample) ST() int64 { return 0 }

// T implements chunks.Sample.
func (s floatSample) T() int64 { return s.t }

// F implements chunks.Sample.
func (s floatSample) F() float64 { return s.v }

// H implements chunks.Sample.
func (s floatSample) H() *histogram.Histogram { return nil }

// FH implements chunks.Sample.
func (s floatSample) FH() *histogram.FloatHistogram { return nil }

// Type implements chunks.Sample.
func (s floatSample) Type() chunkenc.ValueType { return chunkenc.ValFloat }

// Copy implements chunks.Sample.
func (s floatSample) Copy() chunks.Sample { return s }
