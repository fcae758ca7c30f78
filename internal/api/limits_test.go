package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// onVirtualTime runs a test over the handler of an API, without a network.
func onVirtualTime(t *testing.T, change func(*Options), test func(t *testing.T, serve func(*http.Request) response)) {
	t.Helper()
	f := newFixture(t, nil)
	synctest.Test(t, func(t *testing.T) {
		opts := f.opts
		opts.Registerer = nil
		eng, err := NewEngine(engineOptions())
		if err != nil {
			t.Fatal(err)
		}
		opts.Sources.Engine = eng
		change(&opts)
		a, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		test(t, func(r *http.Request) response {
			rec := httptest.NewRecorder()
			a.Handler().ServeHTTP(rec, r)
			return response{status: rec.Code, header: rec.Header(), body: rec.Body.String()}
		})
	})
}

func getRequest(t *testing.T, path string) *http.Request {
	t.Helper()
	return httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
}

// blocked is a cluster that answers nothing while the context lasts.
type blocked struct {
	storage.SampleAndChunkQueryable
}

func (b blocked) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := b.SampleAndChunkQueryable.Querier(mint, maxt)
	return blockedQuerier{q}, err
}

type blockedQuerier struct{ storage.Querier }

func (blockedQuerier) Select(ctx context.Context, _ bool, _ *storage.SelectHints, _ ...*labels.Matcher) storage.SeriesSet {
	<-ctx.Done()
	return storage.ErrSeriesSet(fmt.Errorf("waiting for a peer: %w", ctx.Err()))
}

// TestTimeouts checks that every read ends, as a timeout, when its time is up.
func TestTimeouts(t *testing.T) {
	const timeout = 30 * time.Second
	onVirtualTime(t, func(o *Options) {
		o.Sources.Queryable = blocked{o.Sources.Queryable}
		o.Limits.QueryTimeout = timeout
	}, func(t *testing.T, serve func(*http.Request) response) {
		for _, r := range []*http.Request{
			getRequest(t, "/api/v1/query?query=up"),
			getRequest(t, "/api/v1/query_range?query=up&start=1&end=2&step=1"),
			getRequest(t, "/api/v1/series?match[]=up"),
			getRequest(t, "/federate?match[]=up"),
			remoteReadRequest(t, "/api/v1/read", false),
		} {
			start := time.Now()
			res := serve(r)
			if took := time.Since(start); res.status != http.StatusServiceUnavailable || took != timeout {
				t.Errorf("%s: got %d %q after %v", r.URL.Path, res.status, res.body, took)
			}
			if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/") && res.envelope(t).ErrorType != "timeout" {
				t.Errorf("%s: got %q", r.URL.Path, res.body)
			}
		}
	})
}

// held is a cluster that answers only when it is let.
type held struct {
	storage.SampleAndChunkQueryable
	release chan struct{}
}

func (h held) Querier(mint, maxt int64) (storage.Querier, error) {
	<-h.release
	return h.SampleAndChunkQueryable.Querier(mint, maxt)
}

func (h held) Metadata(context.Context, string, int, int) (map[string][]metadata.Metadata, annotations.Annotations, error) {
	<-h.release
	return nil, nil, nil
}

// TestTurns checks that reads beyond the limits wait for their turn, hear 503 if it does
// not come, and that turns are given back. The engine reports the wait for a turn like
// an error of parsing, which it must not look like.
func TestTurns(t *testing.T) {
	for _, tt := range []struct{ name, first, second string }{
		{"other reads", "/api/v1/metadata", "/api/v1/labels"},
		{"queries", "/api/v1/query?query=up", "/api/v1/query?query=free_bytes"},
		{"remote reads", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var release chan struct{}
			onVirtualTime(t, func(o *Options) {
				release = make(chan struct{})
				opts := engineOptions()
				opts.MaxConcurrent = 1
				eng, err := NewEngine(opts)
				if err != nil {
					t.Fatal(err)
				}
				h := held{o.Sources.Queryable, release}
				o.Sources.Engine, o.Sources.Queryable, o.Sources.Metadata = eng, h, h
				o.Limits.MaxConcurrent, o.Limits.RemoteReadConcurrent = 1, 1
				o.Limits.QueryTimeout = 30 * time.Second
			}, func(t *testing.T, serve func(*http.Request) response) {
				request := func(path string) *http.Request {
					if path == "" {
						return remoteReadRequest(t, "/api/v1/read", false)
					}
					return getRequest(t, path)
				}
				firstDone := make(chan struct{})
				go func() {
					defer close(firstDone)
					serve(request(tt.first))
				}()
				synctest.Wait()
				if res := serve(request(tt.second)); res.status != http.StatusServiceUnavailable || !strings.Contains(res.body, "too many") {
					t.Errorf("second: got %d %q", res.status, res.body)
				} else if tt.second != "" && res.envelope(t).ErrorType != "unavailable" {
					t.Errorf("second: got %q", res.body)
				}
				close(release)
				<-firstDone
				if res := serve(request(tt.second)); res.status != http.StatusOK {
					t.Errorf("after the first: got %d %q", res.status, res.body)
				}
			})
		})
	}
}
