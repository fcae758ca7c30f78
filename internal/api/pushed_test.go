package api

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/evaluate"
	"github.com/starling-tsdb/starling/internal/pushdown"
)

// localEvaluator evaluates fragments over one database, as an owner of everything.
type localEvaluator struct {
	db storage.ChunkQueryable
	// spoil changes what came out, or fails. Optional.
	spoil func(*pushdown.Partial) error
}

// Evaluate implements Evaluator.
func (e localEvaluator) Evaluate(ctx context.Context, f *pushdown.Fragment, g pushdown.Grid) (*pushdown.Partial, annotations.Annotations, error) {
	mint, maxt := f.Span(g)
	q, err := e.db.ChunkQuerier(mint, maxt)
	if err != nil {
		return nil, nil, err
	}
	defer q.Close()
	set := q.Select(ctx, false, &storage.SelectHints{Start: mint, End: maxt, DisableTrimming: true}, f.Matchers...)
	part, err := evaluate.Series(ctx, set, evaluate.Options{Fragment: f, Grid: g, MaxSamples: 1e6, Workers: 1})
	if err == nil && e.spoil != nil {
		err = e.spoil(part)
	}
	return part, nil, err
}

// newPushingFixture serves an API that leaves fragments to an evaluator over its database;
// change may adapt the options of its engine.
func newPushingFixture(t *testing.T, spoil func(*pushdown.Partial) error, change func(*EngineOptions)) *fixture {
	t.Helper()
	return newFixture(t, func(o *Options) {
		opts := EngineOptions{
			Evaluator:  localEvaluator{o.Sources.Queryable, spoil},
			MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, MaxConcurrent: 4,
			Registerer: o.Registerer, Logger: o.Logger,
		}
		if change != nil {
			change(&opts)
		}
		eng, err := NewEngine(opts)
		if err != nil {
			t.Fatal(err)
		}
		o.Sources.Engine = eng
	})
}

// outcomes returns a counter of the fixture by its label "outcome", without zeros.
func (f *fixture) outcomes(name string) map[string]float64 {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.Metric {
			if v := m.GetCounter().GetValue(); v != 0 {
				got[m.Label[0].GetValue()] = v
			}
		}
	}
	return got
}

// TestBareSelectors: what is left of a selector at steps that are far apart is what Prometheus makes of it, whether
// its owners choose the samples or not.
func TestBareSelectors(t *testing.T) {
	plain := newFixture(t, nil)
	inParts, whole := newPushingFixture(t, nil, nil), newPushingFixture(t, unproven, nil)
	want := map[string]float64{}
	for _, query := range []string{
		"free_bytes", "free_bytes offset 30s", "http_requests_total offset -30s", "latency_seconds", "latency_seconds offset 1m",
		"sum(free_bytes offset 30s)", "http_requests_total - http_requests_total offset 1m", "quantile(0.5, http_requests_total)", `{__name__=~"free.*|http.*"}`, "nothing",
	} {
		for _, at := range []struct {
			path   string
			stored bool
		}{
			{"/api/v1/query?time=1699999970", false},
			{"/api/v1/query_range?start=1699999000&end=1700000100&step=60", false},
			{"/api/v1/query_range?start=1699999000&end=1700000100&step=15", true},
		} {
			path := at.path + "&query=" + url.QueryEscape(query)
			text := func(f *fixture) string {
				res := f.get(path)
				if res.status != http.StatusOK {
					t.Fatalf("%s: %d %s", path, res.status, res.body)
				}
				return sortedResult(t, res.envelope(t).Data)
			}
			p, w, asked := text(inParts), text(whole), text(plain)
			if p != asked || w != asked {
				t.Errorf("%s: in parts\n%s, whole\n%s, want\n%s", path, p, w, asked)
			}
			if !at.stored || strings.HasPrefix(query, "sum") {
				want["parts"] += float64(1 + strings.Count(query, " - "))
			}
		}
	}
	if got := inParts.outcomes("starling_query_fragments_total"); !maps.Equal(got, want) {
		t.Errorf("evaluated %v, want %v", got, want)
	}
}

// sortedResult returns the series of an answer in the order of their texts.
func sortedResult(t *testing.T, data json.RawMessage) string {
	t.Helper()
	var a struct{ Result []json.RawMessage }
	if err := json.Unmarshal(data, &a); err != nil {
		t.Fatal(err)
	}
	texts := make([]string, len(a.Result))
	for i, s := range a.Result {
		texts[i] = string(s)
	}
	slices.Sort(texts)
	return strings.Join(texts, "\n")
}
