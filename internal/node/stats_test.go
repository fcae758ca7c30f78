package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
)

// toldStats are those of a query.
type toldStats struct {
	Samples   struct{ TotalQueryableSamples int64 }
	Fragments []api.FragmentStats
	Whole     []api.ExplainedSelector
	Selectors []api.ReadStats
	Read      *api.ReadTotals
}

func (m *member) stats(path, query string, params ...string) toldStats {
	m.flock.Helper()
	form := url.Values{"query": {query}, "stats": {"all"}}
	for i := 0; i+1 < len(params); i += 2 {
		form.Set(params[i], params[i+1])
	}
	a := m.get(path + "?" + form.Encode())
	var body struct{ Data struct{ Stats toldStats } }
	if err := json.Unmarshal([]byte(a.text), &body); err != nil || a.code != http.StatusOK {
		m.flock.Fatalf("%s: %v, %d %q", query, err, a.code, a.text)
	}
	return body.Data.Stats
}

// statsFlock is three nodes with 100 series of 20 samples.
func statsFlock(t *testing.T) []*member {
	t.Helper()
	f := newFlock(t)
	f.nearbyWork = -1
	m := f.fresh("a", "b", "c")
	for i := range 20 {
		if code := m[0].writeAt("m", time.Now().Add(time.Duration(i-20)*10*time.Second), make([]float64, 100)...); code != http.StatusNoContent {
			t.Fatal(code)
		}
	}
	f.caughtUp(time.Minute)
	return m
}

// checkNodes checks what is told of the nodes that a read asked: who they are, and that each of the
// series was read by one of them.
func checkNodes(t *testing.T, asked *member, r api.ReadStats) {
	t.Helper()
	var status struct{ Data api.ClusterStatus }
	if err := json.Unmarshal([]byte(asked.get("/api/v1/cluster").text), &status); err != nil {
		t.Fatal(err)
	}
	if len(r.Nodes) != 3 || r.Seconds < r.ProvingSeconds {
		t.Fatalf("%+v", r)
	}
	var series, samples int64
	for _, n := range r.Nodes {
		known := false
		for _, s := range status.Data.Nodes {
			known = known || s.ID == n.ID && s.Name == n.Name && s.Addresses.RPC == n.Address
		}
		self := n.ID == status.Data.Self
		if !known || n.Name == "" || n.Failed != "" || n.Owner == nil || (n.BytesReceived == 0) != self || n.Seconds > r.Seconds || !self && n.Seconds <= 0 {
			t.Errorf("%+v", n)
			continue
		}
		if n.Owner.SeriesRead == 0 || n.Owner.SamplesRead != 20*n.Owner.SeriesRead {
			t.Errorf("%s: %+v", n.Name, n.Owner)
		}
		series, samples = series+n.Owner.SeriesRead, samples+n.Owner.SamplesRead
	}
	if series != 100 || samples != 2000 {
		t.Errorf("%d series and %d samples were read", series, samples)
	}
}

// stats=all tells what a query took of each node: of a fragment, and of series as they are stored.
func TestStatsOfNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := statsFlock(t)
		for _, path := range []string{"/api/v1/query", "/api/v1/query_range", "/api/v1/query_explain"} {
			now := fmt.Sprint(time.Now().Unix())
			params := []string{"time", now, "start", now, "end", now, "step", "10"}
			s := m[0].stats(path, "sum(rate(m[5m])) + on () group_left () quantile(0.5, m @ end())", params...)
			if len(s.Fragments) != 1 || len(s.Fragments[0].Reads) != 1 || s.Fragments[0].Evaluated != "in parts" || s.Fragments[0].Reads[0].Selector != "" {
				t.Fatalf("%s: %+v", path, s.Fragments)
			}
			checkNodes(t, m[0], s.Fragments[0].Reads[0])
			for _, n := range s.Fragments[0].Reads[0].Nodes {
				if n.Series != 1 {
					t.Errorf("%s sent %d sums", n.Name, n.Series)
				}
			}
			if len(s.Selectors) != 1 || s.Selectors[0].Selector != "m" || len(s.Whole) != 1 || s.Whole[0].Selector != "m @ end()" || !strings.Contains(s.Whole[0].Reason, "quantile") {
				t.Fatalf("%s: %+v, %+v", path, s.Selectors, s.Whole)
			}
			checkNodes(t, m[0], s.Selectors[0])
			var bytes int64
			for _, n := range append(s.Selectors[0].Nodes, s.Fragments[0].Reads[0].Nodes...) {
				bytes += n.BytesReceived
			}
			if want := (api.ReadTotals{SeriesRead: 200, SamplesRead: 4000, BytesReceived: bytes}); s.Read == nil || *s.Read != want {
				t.Errorf("%s: %+v, want %+v", path, s.Read, want)
			}
			// Prometheus's own number is what the engine looks at.
			if s.Samples.TotalQueryableSamples != 2100 {
				t.Errorf("%s: %+v", path, s.Samples)
			}
		}
		if a := m[0].query("sum(m)", "stats", "true"); strings.Contains(a.text, "fragments") || strings.Contains(a.text, `"selectors"`) {
			t.Errorf("who did not ask is told: %q", a.text)
		}
	})
}

// What an owner waits before it reads is told apart, also where another one asks.
func TestStatsTellOfWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := statsFlock(t)
		time.AfterFunc(10*time.Second, occupy(t, m[1].evaluations))
		s := m[0].stats("/api/v1/query", "sum(m)")
		for _, n := range s.Fragments[0].Reads[0].Nodes {
			waited := 0.0
			if n.Name == "b" {
				waited = 10
			}
			if n.Owner.WaitingSeconds < waited-0.1 || n.Owner.WaitingSeconds > waited+0.1 || n.Seconds < n.Owner.WaitingSeconds || n.Owner.EvaluatingSeconds > 0.1 {
				t.Errorf("%+v, %+v", n, n.Owner)
			}
		}
	})
}

// A fragment that is evaluated whole tells of both ways, and of nodes that failed.
func TestStatsOfWholeFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := statsFlock(t)
		for i, n := range m {
			if err := n.gaps.Note(t.Context(), m[(i+1)%3].cluster.Self(), 0); err != nil {
				t.Fatal(err)
			}
		}
		s := m[0].stats("/api/v1/query", "sum(m)")
		f := s.Fragments[0]
		if f.Evaluated != "whole" || len(f.Reads) != 2 || len(f.Reads[0].Nodes) != 0 || f.Reads[1].Selector != "m" || len(f.Reads[1].Nodes) != 3 || len(s.Selectors) != 0 {
			t.Fatalf("%+v, %+v", f, s.Selectors)
		}
		// Each is read of two, as none is known to hold all.
		if s.Read.SeriesRead != 200 || s.Read.SamplesRead != 4000 || s.Read.Unknown != 0 {
			t.Errorf("%+v", s.Read)
		}
	})
}
