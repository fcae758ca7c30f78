package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/partial"
)

// lenient is a cluster that has lost an owner: it answers with a warning where a partial
// answer is allowed, and otherwise not.
type lenient struct {
	storage.SampleAndChunkQueryable
	exemplars storage.ExemplarQueryable
	stats     Stats
}

const lost = "node n3 did not answer"

func mayAnswer(ctx context.Context) (annotations.Annotations, error) {
	if !partial.Allowed(ctx) {
		return nil, errLack{}
	}
	return annotations.New().Add(errors.New(lost)), nil
}

func (l lenient) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := l.SampleAndChunkQueryable.Querier(mint, maxt)
	return lenientQuerier{q}, err
}

func (l lenient) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	q, err := l.SampleAndChunkQueryable.ChunkQuerier(mint, maxt)
	return lenientChunkQuerier{q}, err
}

type lenientQuerier struct{ storage.Querier }

func (q lenientQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	warnings, err := mayAnswer(ctx)
	if err != nil {
		return nil, nil, err
	}
	names, _, err := q.Querier.LabelNames(ctx, hints, ms...)
	return names, warnings, err
}

func (q lenientQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	warnings, err := mayAnswer(ctx)
	if err != nil {
		return nil, nil, err
	}
	values, _, err := q.Querier.LabelValues(ctx, name, hints, ms...)
	return values, warnings, err
}

func (q lenientQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	warnings, err := mayAnswer(ctx)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	return &lenientSet{SeriesSet: q.Querier.Select(ctx, sorted, hints, ms...), warnings: warnings}
}

// lenientSet knows what is missing only once it was asked for a series, as a set does
// that fans out lazily.
type lenientSet struct {
	storage.SeriesSet
	warnings annotations.Annotations
	asked    bool
}

func (s *lenientSet) Next() bool {
	s.asked = true
	return s.SeriesSet.Next()
}

func (s *lenientSet) Warnings() annotations.Annotations {
	if !s.asked {
		return nil
	}
	return s.warnings
}

type lenientChunkQuerier struct{ storage.ChunkQuerier }

func (q lenientChunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	warnings, err := mayAnswer(ctx)
	if err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	return lenientChunkSet{q.ChunkQuerier.Select(ctx, sorted, hints, ms...), warnings}
}

type lenientChunkSet struct {
	storage.ChunkSeriesSet
	warnings annotations.Annotations
}

func (s lenientChunkSet) Warnings() annotations.Annotations { return s.warnings }

func (l lenient) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	q, err := l.exemplars.ExemplarQuerier(ctx)
	return lenientExemplars{q, ctx}, err
}

type lenientExemplars struct {
	storage.ExemplarQuerier
	ctx context.Context
}

func (q lenientExemplars) Select(start, end int64, ms ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	if _, err := mayAnswer(q.ctx); err != nil {
		return nil, err
	}
	partial.Note(q.ctx, lost)
	return q.ExemplarQuerier.Select(start, end, ms...)
}

func (l lenient) Metadata(ctx context.Context, _ string, _, _ int) (map[string][]metadata.Metadata, annotations.Annotations, error) {
	warnings, err := mayAnswer(ctx)
	return nil, warnings, err
}

func (l lenient) Stats(ctx context.Context, label string, limit int) (*tsdb.Stats, error) {
	if _, err := mayAnswer(ctx); err != nil {
		return nil, err
	}
	partial.Note(ctx, lost)
	return l.stats.Stats(ctx, label, limit)
}

func newLenientFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixture(t, func(o *Options) {
		l := lenient{o.Sources.Queryable, o.Sources.Exemplars, o.Sources.Stats}
		o.Sources.Queryable, o.Sources.Exemplars, o.Sources.Metadata, o.Sources.Stats = l, l, l, l
	})
}

// TestPartialResponse checks that consent reaches the cluster on every path and by every
// way, and that the answer says what it lacks.
func TestPartialResponse(t *testing.T) {
	f := newLenientFixture(t)
	for _, p := range readPaths {
		path, query, _ := strings.Cut(p.path, "?")
		params, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		for consent, want := range map[string]int{"": 503, "false": 503, "true": 200} {
			if params.Del("partial_response"); consent != "" {
				params.Set("partial_response", consent)
			}
			f.checkPartial(path+" by URL with "+consent, f.get(path+"?"+params.Encode()), want)
			switch path {
			case "/api/v1/query", "/api/v1/query_range", "/api/v1/series", "/api/v1/labels", "/api/v1/query_exemplars":
				f.checkPartial(path+" by form with "+consent, f.do(http.MethodPost, path, params, nil), want)
			}
		}
	}
}

// TestPartialExplanation checks the same of a query that is run to be explained.
func TestPartialExplanation(t *testing.T) {
	f := newLenientFixture(t)
	const path = "/api/v1/query_explain?query=up&stats=all"
	f.checkPartial(path, f.get(path), http.StatusServiceUnavailable)
	f.checkPartial(path, f.get(path+"&partial_response=true"), http.StatusOK)
}

func (f *fixture) checkPartial(what string, res response, want int) {
	f.t.Helper()
	if res.status != want {
		f.t.Errorf("%s: got %d %q, want %d", what, res.status, res.body, want)
		return
	}
	if want != http.StatusOK {
		return
	}
	inHeader := res.header.Get(partialHeader) == lost
	inBody := strings.Contains(res.header.Get("Content-Type"), "json") && slices.Contains(res.envelope(f.t).Warnings, lost)
	if !inHeader && !inBody {
		f.t.Errorf("%s: nothing says what is missing: %v %s", what, res.header, res.body)
	}
	exemplars := strings.Contains(what, "exemplars") // Prometheus's handler has no warnings.
	if strings.HasPrefix(what, apiPrefix) && !inBody && !exemplars {
		f.t.Errorf("%s: no warning in %s", what, res.body)
	}
}

func TestPartialRemoteRead(t *testing.T) {
	f := newLenientFixture(t)
	for _, streamed := range []bool{false, true} {
		if res := f.remoteRead(streamed); res.status != http.StatusServiceUnavailable {
			t.Errorf("streamed %v without consent: got %d", streamed, res.status)
		}
		res := f.remoteReadAt("/api/v1/read?partial_response=true", streamed)
		if res.status != http.StatusOK || res.header.Get(partialHeader) != lost {
			t.Errorf("streamed %v with consent: got %d %v", streamed, res.status, res.header)
		}
	}
}

func TestBadForms(t *testing.T) {
	f := newFixture(t, nil)
	for name, body := range map[string]string{
		"malformed": "query=%zz",
		"too large": "query=" + strings.Repeat("1", maxFormBytes),
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/api/v1/query", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s form: got %d, want 400", name, res.StatusCode)
		}
	}
}

func TestHeaderValue(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want string
	}{
		{[]string{"a", "b"}, "a; b"},
		{[]string{"a\r\nSet-Cookie: x"}, "a  Set-Cookie: x"},
		{[]string{"caf\u00e9"}, "caf "},
		{[]string{strings.Repeat("x", 2000)}, strings.Repeat("x", 1021) + "..."},
	} {
		if got := headerValue(tt.in); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}
