package api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/partial"
	"github.com/starling-tsdb/starling/internal/pushdown"
)

func verifyAll(o *EngineOptions) { o.VerifyShare = 1 }

// verified waits for what is being verified, and returns what was counted.
func (f *fixture) verified() map[string]float64 {
	f.t.Helper()
	v := f.opts.Sources.Engine.verifier
	v.turn <- struct{}{}
	<-v.turn
	return f.outcomes("starling_query_verified_total")
}

// write appends a sample of a new series of free_bytes.
func (f *fixture) write(disk string, ago time.Duration, v float64) {
	f.t.Helper()
	app := f.db.Appender(context.Background())
	if _, err := app.Append(0, labels.FromStrings("__name__", "free_bytes", "disk", disk), now.Add(-ago).UnixMilli(), v); err != nil {
		f.t.Error(err)
	}
	if err := app.Commit(); err != nil {
		f.t.Error(err)
	}
}

// lie adds one to all values of an answer, however small that makes the difference.
func lie(part *pushdown.Partial) error {
	for _, v := range part.Values {
		for i := range v.V {
			v.V[i]++
		}
	}
	return nil
}

// TestVerify checks what is counted of truthful and of other answers.
func TestVerify(t *testing.T) {
	lieOnce := func() func(*pushdown.Partial) error {
		var lied atomic.Bool
		return func(part *pushdown.Partial) error {
			if lied.Swap(true) {
				return nil
			}
			return lie(part)
		}
	}
	lose := func(part *pushdown.Partial) error { part.Values = nil; return nil }
	for _, tt := range []struct {
		name, query string
		spoil       func(*pushdown.Partial) error
		want        string
		logged      string
	}{
		{"truth", "sum by (instance) (rate(http_requests_total[1m]))", nil, "equal", ""},
		{"truth of histograms", "sum(latency_seconds) + sum(latency_seconds)", nil, "equal", ""},
		{"truth and warnings", "rate(free_bytes[5m])", nil, "equal", ""},
		{"truth of a scalar", "scalar(sum(free_bytes))", nil, "equal", ""},
		{"truth of what stays whole", "sum(free_bytes)", unproven, "equal", ""},
		{"truth of ranks", "topk(1, max by (instance) (http_requests_total))", nil, "equal", ""},
		{"a lie", "sum(free_bytes)", lie, "different", "43 in parts, 42 as a whole"},
		{"a lie of ranks", "topk(1, max by (instance) (http_requests_total))", lie, "different", "in parts"},
		{"a lie about a scalar", "scalar(sum(free_bytes))", lie, "different", "43 in parts, 42 as a whole"},
		{"a series that is lost", "sum(free_bytes)", lose, "different", "nothing in parts, 42 as a whole"},
		{"a note that is lost", "increase(free_bytes[5m])", lose, "equal", ""},
		{"a lie that is not repeated", "sum(free_bytes)", lieOnce(), "equal", ""},
		{"any series", "limitk(1, max by (instance) (http_requests_total))", nil, "skipped", ""},
		{"no fragment", "free_bytes @ end()", nil, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newPushingFixture(t, tt.spoil, func(o *EngineOptions) {
				verifyAll(o)
				o.Features.Parser.EnableExperimentalFunctions = true
			})
			want := map[string]float64{}
			for _, path := range []string{"/api/v1/query?time=1699999990", "/api/v1/query_range?start=1699999900&end=1699999990&step=15"} {
				if res := f.get(path + "&query=" + url.QueryEscape(tt.query)); res.status != http.StatusOK {
					t.Fatalf("%s: %d %q", path, res.status, res.body)
				}
				if tt.want != "" {
					want[tt.want]++
				}
				if got := f.verified(); !maps.Equal(got, want) {
					t.Errorf("%s: counted %v, want %v, logged %s", path, got, want, f.log)
				}
			}
			if warned := strings.Contains(f.log.String(), "level=WARN"); warned != (tt.want == "different") || !strings.Contains(f.log.String(), tt.logged) {
				t.Errorf("logged %s", f.log)
			}
		})
	}
}

// TestVerifyWhileDataChange checks that samples that come between the answers are no difference,
// and that one that is none of theirs is found all the same.
func TestVerifyWhileDataChange(t *testing.T) {
	const instant, series = "/api/v1/query?time=1700000000", "/api/v1/query_range?start=1699999950&end=1700000000&step=50"
	for _, tt := range []struct {
		name, path string
		// writes is how many evaluations in parts have a sample come after them.
		writes int32
		lie    bool
		want   string
		asked  int32
	}{
		{name: "not at all", path: instant, want: "equal", asked: 1},
		{name: "once", path: instant, writes: 1, want: "equal", asked: 2},
		{name: "all the time", path: instant, writes: 100, want: "equal", asked: 2},
		{name: "once, and there is a lie", path: instant, writes: 1, lie: true, want: "different", asked: 4},
		{name: "all the time, and there is a lie", path: instant, writes: 100, lie: true, want: "skipped", asked: 4},
		{name: "all the time at one step", path: series, writes: 100, want: "equal", asked: 2},
		{name: "all the time at one step, and there is a lie", path: series, writes: 100, lie: true, want: "different", asked: 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f *fixture
			var asked atomic.Int32
			f = newPushingFixture(t, func(part *pushdown.Partial) error {
				n := asked.Add(1)
				if n <= tt.writes {
					f.write(string('a'+n), 30*time.Second, 5)
				}
				if tt.lie {
					return lie(part)
				}
				return nil
			}, verifyAll)
			if res := f.get(tt.path + "&query=sum(free_bytes)"); res.status != http.StatusOK {
				t.Fatal(res.body)
			}
			if got := f.verified(); !maps.Equal(got, map[string]float64{tt.want: 1}) || asked.Load() != tt.asked {
				t.Errorf("asked %d times, counted %v, want %d and %s, logged %s", asked.Load(), got, tt.asked, tt.want, f.log)
			}
		})
	}
}

// waiting tells when somebody waits for the series of a cluster that does not answer.
type waiting struct {
	blocked
	began chan struct{}
}

func (w waiting) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := w.blocked.Querier(mint, maxt)
	return waitingQuerier{q, w.began}, err
}

type waitingQuerier struct {
	storage.Querier
	began chan struct{}
}

func (q waitingQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	q.began <- struct{}{}
	return q.Querier.Select(ctx, sorted, hints, ms...)
}

// TestVerifyTakesTurns checks that one query is verified at a time, within the life of the
// engine, and that clients do not wait for it.
func TestVerifyTakesTurns(t *testing.T) {
	f := newPushingFixture(t, nil, verifyAll)
	stored := waiting{blocked{f.db}, make(chan struct{}, 1)}
	engine := f.opts.Sources.Engine
	ask := func(ctx context.Context) {
		t.Helper()
		query, err := engine.NewInstantQuery(ctx, stored, nil, "sum(free_bytes)", now)
		if err != nil {
			t.Fatal(err)
		}
		defer query.Close()
		if res := query.Exec(ctx); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	ask(t.Context())
	<-stored.began
	ask(t.Context())
	if got, want := f.outcomes("starling_query_verified_total"), map[string]float64{"skipped": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	engine.Close()
	engine.Close()
	ask(t.Context())
	if got, want := f.outcomes("starling_query_verified_total"), map[string]float64{"skipped": 2, "failed": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// TestVerifyPassesOver checks that answers that lack something, and errors, are not compared.
func TestVerifyPassesOver(t *testing.T) {
	fail := false
	f := newPushingFixture(t, func(*pushdown.Partial) error {
		if fail {
			return errors.New("out of order")
		}
		return nil
	}, verifyAll)
	ctx := partial.With(t.Context())
	ask := func() {
		t.Helper()
		query, err := f.opts.Sources.Engine.NewInstantQuery(ctx, f.db, nil, "sum(free_bytes)", now)
		if err != nil {
			t.Fatal(err)
		}
		defer query.Close()
		if res := query.Exec(ctx); (res.Err != nil) != fail {
			t.Fatal(res.Err)
		}
	}
	want := map[string]float64{"equal": 1}
	if ask(); !maps.Equal(f.verified(), want) {
		t.Errorf("counted %v, want %v", f.verified(), want)
	}
	partial.Note(ctx, lost)
	want["skipped"]++
	if ask(); !maps.Equal(f.verified(), want) {
		t.Errorf("an answer that lacks something: counted %v, want %v", f.verified(), want)
	}
	fail = true
	if ask(); !maps.Equal(f.verified(), want) {
		t.Errorf("an error: counted %v, want %v", f.verified(), want)
	}
}
