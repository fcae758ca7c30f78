package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

func unproven(*pushdown.Partial) error { return &pushdown.UnprovenError{Reason: "a test says so"} }

// TestStatsOfFragments checks what is told of a query, and to whom.
func TestStatsOfFragments(t *testing.T) {
	const query = "sum(rate(http_requests_total[1m])) / count(free_bytes) + free_bytes @ end()"
	inParts := []FragmentStats{
		{Text: "sum(rate(http_requests_total[1m]))", Evaluated: "in parts", Samples: 8, Series: 1},
		{Text: "count(free_bytes)", Evaluated: "in parts", Samples: 1, Series: 1},
	}
	whole := slices.Clone(inParts)
	for i := range whole {
		whole[i].Evaluated, whole[i].Reason = "whole", "a test says so"
	}
	for _, tt := range []struct {
		name, query, stats string
		spoil              func(*pushdown.Partial) error
		want               []FragmentStats
		told, warned       bool
		outcomes           map[string]float64
	}{
		{name: "everything", query: query, stats: "all", want: inParts, told: true, outcomes: map[string]float64{"parts": 2}},
		{name: "whole", query: query, stats: "all", spoil: unproven, want: whole, told: true, outcomes: map[string]float64{"whole": 2}},
		{name: "Prometheus's own", query: query, stats: "true", told: true, outcomes: map[string]float64{"parts": 2}},
		{name: "an unknown value", query: query, stats: "1", told: true, warned: true, outcomes: map[string]float64{"parts": 2}},
		{name: "nothing", query: query, outcomes: map[string]float64{"parts": 2}},
		{name: "no fragment", query: "free_bytes @ end()", stats: "all", told: true, outcomes: map[string]float64{}},
		{name: "a bare selector", query: "free_bytes", stats: "all", want: []FragmentStats{{Text: "free_bytes", Evaluated: "in parts", Samples: 1, Series: 1}}, told: true, outcomes: map[string]float64{"parts": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newPushingFixture(t, tt.spoil, nil)
			for _, path := range []string{"/api/v1/query?time=1699999990", "/api/v1/query_range?start=1699999990&end=1699999990&step=1"} {
				res := f.get(path + "&query=" + url.QueryEscape(tt.query) + "&stats=" + tt.stats)
				var data struct {
					Stats *struct {
						Timings   map[string]float64
						Samples   map[string]any
						Fragments []FragmentStats
					}
				}
				e := res.envelope(t)
				if err := json.Unmarshal(e.Data, &data); err != nil || res.status != http.StatusOK {
					t.Fatalf("%s: %d %v, %q", path, res.status, err, res.body)
				}
				if warned := strings.Contains(fmt.Sprint(e.Warnings), "deprecated"); warned != tt.warned {
					t.Errorf("warnings %q", e.Warnings)
				}
				if (data.Stats != nil) != tt.told {
					t.Fatalf("%s: %q", path, res.body)
				}
				if data.Stats == nil {
					continue
				}
				if data.Stats.Timings["execTotalTime"] <= 0 || data.Stats.Samples["totalQueryableSamples"] == nil {
					t.Errorf("%s: without Prometheus's statistics: %q", path, res.body)
				}
				for i := range data.Stats.Fragments {
					s := &data.Stats.Fragments[i]
					if s.Seconds <= 0 || s.Seconds > data.Stats.Timings["execTotalTime"] {
						t.Errorf("%s took %v s", s.Text, s.Seconds)
					}
					if s.Reads == nil {
						t.Errorf("%s: reads are null", s.Text)
					}
					s.Seconds, s.Reads = 0, nil
				}
				if !slices.EqualFunc(data.Stats.Fragments, tt.want, func(a, b FragmentStats) bool { return reflect.DeepEqual(a, b) }) {
					t.Errorf("%s: %+v, want %+v", path, data.Stats.Fragments, tt.want)
				}
			}
			for outcome, n := range tt.outcomes {
				tt.outcomes[outcome] = 2 * n
			}
			if got := f.outcomes("starling_query_fragments_total"); !maps.Equal(got, tt.outcomes) {
				t.Errorf("counted %v, want %v", got, tt.outcomes)
			}
		})
	}
}

func TestFragmentsThatFailAreCounted(t *testing.T) {
	f := newPushingFixture(t, func(*pushdown.Partial) error { return errors.New("out of order") }, nil)
	if res := f.get("/api/v1/query?stats=all&query=sum(free_bytes)"); res.status == http.StatusOK {
		t.Errorf("got %q", res.body)
	}
	if got, want := f.outcomes("starling_query_fragments_total"), map[string]float64{"failed": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
