package drive

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/starling-tsdb/starling/bench/ingest/workload"
)

var shape = workload.Shape{Series: 250, Scrapes: 6, Batch: 50, Step: 15 * time.Second, Start: 1_700_000_000_000}

// server keeps what it is sent, and answers it as Prometheus does.
type server struct {
	*httptest.Server
	// refuse, if set, is asked before each write for a status to refuse it with.
	refuse func(n int) int

	mu     sync.Mutex
	writes int
	peers  map[string]bool
	series map[string]*prompb.TimeSeries
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{peers: map[string]bool{}, series: map[string]*prompb.TimeSeries{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v1/write", s.write)
	mux.HandleFunc("/api/v1/read", s.read)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func message(r *http.Request, m interface{ Unmarshal([]byte) error }) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	raw, err := snappy.Decode(nil, b)
	if err != nil {
		return err
	}
	return m.Unmarshal(raw)
}

func (s *server) write(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers[r.RemoteAddr] = true
	s.writes++
	if s.refuse != nil {
		if status := s.refuse(s.writes); status != 0 {
			http.Error(w, "not now", status)
			return
		}
	}
	var req prompb.WriteRequest
	if err := message(r, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, ts := range req.Timeseries {
		var key strings.Builder
		for _, l := range ts.Labels {
			key.WriteString(l.Name + "=" + l.Value + ",")
		}
		if known := s.series[key.String()]; known != nil {
			known.Samples = append(known.Samples, ts.Samples...)
		} else {
			s.series[key.String()] = &ts
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) read(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var req prompb.ReadRequest
	if err := message(r, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	result := &prompb.QueryResult{}
	for key, ts := range s.series {
		if strings.HasPrefix(key, "__name__="+req.Queries[0].Matchers[0].Value+",") {
			result.Timeseries = append(result.Timeseries, ts)
		}
	}
	raw, err := (&prompb.ReadResponse{Results: []*prompb.QueryResult{result}}).Marshal()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(snappy.Encode(nil, raw)) // a client that is gone is a failure of the test
}

// run sends everything and verifies it with one server.
func run(t *testing.T, l *Load, s *server) *workload.Findings {
	t.Helper()
	defer l.Close()
	for _, part := range [][2]int{{0, 1}, {1, shape.Scrapes}} {
		if err := l.Run(t.Context(), part[0], part[1]); err != nil {
			t.Fatal(err)
		}
	}
	f, err := l.Verify(t.Context(), s.URL, func(int, int) {})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLoad(t *testing.T) {
	s := newServer(t)
	s.refuse = func(n int) int {
		if n == 3 || n == 9 {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	l := New(Options{Shape: shape, Version: 1, Targets: []string{s.URL}, Senders: 3})
	f := run(t, l, s)
	all := shape.Series * shape.Scrapes
	if f.Compared != all || f.Wrong() != 0 {
		t.Errorf("verified: %+v", f)
	}
	if c, want := l.Counts(), (Counts{Acknowledged: all, Refused: 2, Scrapes: shape.Scrapes}); c != want {
		t.Errorf("counted %+v, want %+v", c, want)
	}
	if why, again := l.Why(); why != "" || !strings.Contains(again, "answered 503: not now") {
		t.Errorf("samples were dropped for %q, requests sent again for %q", why, again)
	}
	if len(s.peers) != 3 {
		t.Errorf("%d connections for three senders", len(s.peers))
	}
	if n := len(l.Requests(time.Time{})); n != shape.Batches()*shape.Scrapes || s.writes != n+2 {
		t.Errorf("%d requests, the server saw %d", n, s.writes)
	}
}

// A sample that is missing, or was changed, is found through the whole path.
func TestVerifyFinds(t *testing.T) {
	s := newServer(t)
	l := New(Options{Shape: shape, Version: 1, Targets: []string{s.URL}, Senders: 2})
	run(t, l, s)
	changed := 0
	for _, ts := range s.series {
		switch changed++; changed {
		case 1:
			ts.Samples = ts.Samples[:len(ts.Samples)-1]
		case 2:
			ts.Samples[1].Value++
		}
	}
	f, err := l.Verify(t.Context(), s.URL, func(int, int) {})
	if err != nil || f.Missing != 1 || f.Different != 1 {
		t.Errorf("found %+v, %v", f, err)
	}
}

func TestDropped(t *testing.T) {
	s := newServer(t)
	s.refuse = func(n int) int {
		if n == 4 {
			return http.StatusBadRequest
		}
		return 0
	}
	l := New(Options{Shape: shape, Version: 1, Targets: []string{s.URL}, Senders: 2})
	f := run(t, l, s)
	why, again := l.Why()
	if c := l.Counts(); c.Dropped != shape.Batch || c.Acknowledged != shape.Series*shape.Scrapes-shape.Batch {
		t.Errorf("counted %+v", c)
	}
	if !strings.Contains(why, "answered 400: not now") || again != "" {
		t.Errorf("samples were dropped for %q, requests sent again for %q", why, again)
	}
	if f.Compared != shape.Series*shape.Scrapes-shape.Batch || f.Wrong() != 0 {
		t.Errorf("verified: %+v", f)
	}
}

// A series goes through one sender to one server.
func TestSendersAreFixed(t *testing.T) {
	a, b := newServer(t), newServer(t)
	l := New(Options{Shape: shape, Version: 1, Targets: []string{a.URL, b.URL}, Senders: 4})
	run(t, l, a)
	for key, ts := range a.series {
		if b.series[key] != nil || len(ts.Samples) != shape.Scrapes {
			t.Fatalf("%s is split between servers", key)
		}
	}
	if len(a.series)+len(b.series) != shape.Series || len(b.series) == 0 {
		t.Errorf("%d and %d series", len(a.series), len(b.series))
	}
}

func TestEnds(t *testing.T) {
	s := newServer(t)
	ctx, stop := context.WithCancel(t.Context())
	s.refuse = func(n int) int {
		if n > 2 {
			stop()
		}
		return http.StatusServiceUnavailable
	}
	l := New(Options{Shape: shape, Version: 1, Targets: []string{s.URL}, Senders: 2})
	defer l.Close()
	if err := l.Run(ctx, 0, shape.Scrapes); err == nil {
		t.Error("a load that was ended is complete")
	}
}

func TestOptionsNameTheFlag(t *testing.T) {
	good := Options{Shape: shape, Version: 2, Senders: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for flag, change := range map[string]func(*Options){
		"-protocol": func(o *Options) { o.Version = 3 },
		"-senders":  func(o *Options) { o.Senders = 0 },
		"-rate":     func(o *Options) { o.Rate = -1 },
		"-series":   func(o *Options) { o.Shape.Series = 0 },
	} {
		o := good
		change(&o)
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), flag+" ") {
			t.Errorf("error %v does not name %s", err, flag)
		}
	}
}

func TestLockstep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLockstep(2)
		var begun []int
		go func() {
			for n := range 4 {
				if l.begin(t.Context(), n) != nil {
					return
				}
				begun = append(begun, n)
				l.finish(0, n)
			}
		}()
		for _, want := range [][]int{{0, 1}, {0, 1, 2}, {0, 1, 2, 3}} {
			synctest.Wait()
			if !slices.Equal(begun, want) {
				t.Fatalf("the fast one has begun %d, want %d", begun, want)
			}
			l.finish(1, len(want)-2)
		}
		if n := l.complete(); n != 3 {
			t.Errorf("%d scrapes are complete", n)
		}
	})
}
