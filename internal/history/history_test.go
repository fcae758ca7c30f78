package history

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
)

func openBlocks(t *testing.T, dir string) *Blocks {
	t.Helper()
	b, err := OpenBlocks(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// equal ends the test unless two have the same samples.
func equal(t *testing.T, got, want contents) {
	t.Helper()
	if want.samples() == 0 {
		t.Fatal("nothing to compare")
	}
	for series := range want {
		if !maps.Equal(got[series], want[series]) {
			t.Fatalf("%s has %d samples, want %d, the same ones", series, len(got[series]), len(want[series]))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d series, want %d", len(got), len(want))
	}
}

// All samples of overlapping blocks arrive, once each, in an order in which no store has to take
// any of them out of order.
func TestImportOfBlocks(t *testing.T) {
	b, n := openBlocks(t, makeBlocks(t, 3)), newFakeNode(t)
	report, err := importInto(t.Context(), t, n, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := contentsOf(t, b, begun.UnixMilli(), begun.Add(24*time.Hour).UnixMilli())
	equal(t, n.taken, want)
	if report.Written != int64(want.samples()) || report.Refused != 0 || report.Series != len(want) {
		t.Errorf("%+v, want %d samples of %d series", report, want.samples(), len(want))
	}
	if n.behind > time.Hour.Milliseconds() {
		t.Errorf("a sample came %d ms behind a newer one", n.behind)
	}
}

// An import that ended in the middle goes on, with what is not answered yet.
func TestImportGoesOn(t *testing.T) {
	b, n := openBlocks(t, makeBlocks(t, 3)), newFakeNode(t)
	progress := filepath.Join(t.TempDir(), "progress")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n.answer = func(w http.ResponseWriter, request int) bool {
		if request == 4 {
			cancel()
		}
		return false
	}
	change := func(o *Options) { o.Progress = progress }
	if _, err := importInto(ctx, t, n, b, change); !errors.Is(err, context.Canceled) {
		t.Fatalf("an import that is ended: %v", err)
	}
	before := n.requests
	report, err := importInto(t.Context(), t, n, b, change)
	if err != nil {
		t.Fatal(err)
	}
	want := contentsOf(t, b, begun.UnixMilli(), begun.Add(24*time.Hour).UnixMilli())
	equal(t, n.taken, want)
	if report.Written != int64(want.samples()) {
		t.Errorf("%d samples written, want %d", report.Written, want.samples())
	}
	if again := n.requests - before; again >= before+12 {
		t.Errorf("it began anew: %d requests, and %d before", again, before)
	}
	before = n.requests
	if _, err := importInto(t.Context(), t, n, b, change); err != nil || n.requests != before {
		t.Errorf("an import that is done: %v, and %d more requests", err, n.requests-before)
	}
	_, err = importInto(t.Context(), t, n, b, func(o *Options) { change(o); o.Labels = labels.FromStrings("a", "b") })
	if err == nil || !strings.Contains(err.Error(), progress) {
		t.Errorf("the file of another import: %v", err)
	}
	if err := os.WriteFile(progress, []byte("starling"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = importInto(t.Context(), t, n, b, change); err == nil || !strings.Contains(err.Error(), progress) {
		t.Errorf("a damaged file: %v", err)
	}
}

// What a node cannot take now is sent again after the time that it asks for; what it refuses is
// counted; and what it never takes is the end.
func TestAnswers(t *testing.T) {
	b := openBlocks(t, makeBlocks(t, 1))
	want := contentsOf(t, b, begun.UnixMilli(), begun.Add(24*time.Hour).UnixMilli())
	for _, tc := range []struct {
		name   string
		answer func(w http.ResponseWriter, request int) bool
		refuse func(int64) bool
		says   string
	}{
		{name: "unavailable", answer: func(w http.ResponseWriter, request int) bool {
			w.Header().Set("Retry-After", "1")
			if request == 2 {
				http.Error(w, "short", http.StatusServiceUnavailable)
			}
			return request == 2
		}},
		{name: "too old", refuse: func(at int64) bool { return at < begun.Add(2*time.Minute).UnixMilli() }},
		{name: "password", answer: func(w http.ResponseWriter, _ int) bool {
			http.Error(w, "who", http.StatusUnauthorized)
			return true
		}, says: "401"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newFakeNode(t)
			n.answer, n.refuse = tc.answer, tc.refuse
			report, err := importInto(t.Context(), t, n, b, nil)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%v, want an error with %q", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			missing := int64(want.samples() - n.taken.samples())
			if report.Refused != missing || (tc.refuse != nil) != (missing > 0) || report.Written+report.Refused != int64(want.samples()) {
				t.Errorf("%+v of %d samples, of which %d were refused", report, want.samples(), missing)
			}
			if (len(report.Reasons) > 0) != (missing > 0) {
				t.Errorf("reasons %q", report.Reasons)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		n := newFakeNode(t)
		n.Server.Close()
		if _, err := importInto(t.Context(), t, n, b, nil); err == nil {
			t.Error("an import into nothing succeeds")
		}
	})
}

func TestLabelsAreAddedAndSeriesSelected(t *testing.T) {
	b, n := openBlocks(t, makeBlocks(t, 1)), newFakeNode(t)
	_, err := importInto(t.Context(), t, n, b, func(o *Options) {
		o.Labels = labels.FromStrings("region", "east")
		o.Matchers = []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, labels.MetricName, "kept_1")}
	})
	if err != nil || len(n.taken) == 0 {
		t.Fatalf("%v, %d series", err, len(n.taken))
	}
	for series := range n.taken {
		if !strings.Contains(series, `"kept_1"`) || !strings.Contains(series, `region="east"`) {
			t.Errorf("series %s", series)
		}
	}
}

// A remote read brings the same, by chunks as by samples.
func TestImportByRemoteRead(t *testing.T) {
	b := openBlocks(t, makeBlocks(t, 2))
	want := contentsOf(t, b, begun.UnixMilli(), begun.Add(24*time.Hour).UnixMilli())
	for _, frame := range []int{0, 1 << 20} {
		t.Run(fmt.Sprintf("frames of %d", frame), func(t *testing.T) {
			n := newFakeNode(t)
			handler := remote.NewReadHandler(nil, nil, readable{b}, func() config.Config { return config.Config{} }, 1<<30, 10, frame)
			server := httptest.NewServer(handler)
			defer server.Close()
			r, err := NewRemoteRead(server.URL, promconfig.HTTPClientConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := importInto(t.Context(), t, n, r, func(o *Options) { o.To = begun.Add(5 * time.Hour).UnixMilli() }); err != nil {
				t.Fatal(err)
			}
			equal(t, n.taken, want)
		})
	}
}

// An export in JSON lines brings floats and stale markers; a series may come in several lines.
func TestImportOfAnExport(t *testing.T) {
	n := newFakeNode(t)
	first := begun.UnixMilli()
	lines := fmt.Sprintf(`{"metric":{"__name__":"up","job":"a"},"values":[1,null,"Infinity"],"timestamps":[%d,%d,%d]}
{"metric":{"__name__":"up","job":"b"},"values":[0.25],"timestamps":[%d]}
{"metric":{"__name__":"up","job":"a"},"values":["-Infinity",1e-7],"timestamps":[%d,%d]}
`, first, first+1000, first+2000, first+500, first+4000, first+3000)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 1 {
			if r.FormValue("match[]") != `{__name__!=""}` || r.FormValue("start") != fmt.Sprintf("%d.000", first/1000) {
				t.Errorf("asked for %v", r.Form)
			}
			fmt.Fprint(w, lines)
		}
	}))
	defer server.Close()
	e, err := NewExport(server.URL, promconfig.HTTPClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := importInto(t.Context(), t, n, e, func(o *Options) { o.To = begun.Add(time.Hour).UnixMilli() }); err != nil {
		t.Fatal(err)
	}
	a, b := labels.FromStrings(labels.MetricName, "up", "job", "a"), labels.FromStrings(labels.MetricName, "up", "job", "b")
	equal(t, n.taken, contents{
		a.String(): {first: floatText(1), first + 1000: floatText(math.Float64frombits(value.StaleNaN)), first + 2000: floatText(math.Inf(1)),
			first + 4000: floatText(math.Inf(-1)), first + 3000: floatText(1e-7)},
		b.String(): {first + 500: floatText(0.25)},
	})
	if asked != 3 {
		t.Errorf("asked %d times for an hour, want one window after the other", asked)
	}
}

func TestBrokenExports(t *testing.T) {
	for _, answer := range []string{"{", `{"metric":{"__name__":"up"},"values":[1],"timestamps":[]}`, `{"metric":{"__name__":"up"},"values":["x"],"timestamps":[1]}`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
		e, err := NewExport(server.URL, promconfig.HTTPClientConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := importInto(t.Context(), t, newFakeNode(t), e, nil); err == nil {
			t.Errorf("an export that answers %s is imported", answer)
		}
		server.Close()
	}
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	e, err := NewExport(server.URL, promconfig.HTTPClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := importInto(t.Context(), t, newFakeNode(t), e, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an export that is not there: %v", err)
	}
	if _, err := NewExport("victoria:8428", promconfig.HTTPClientConfig{}); err == nil {
		t.Error("an address without a scheme is taken")
	}
	if _, err := OpenBlocks(t.TempDir()); err == nil {
		t.Error("an empty directory is taken for blocks")
	}
}

// readable answers remote reads from blocks.
type readable struct{ blocks *Blocks }

// Querier implements storage.Queryable.
func (r readable) Querier(mint, maxt int64) (storage.Querier, error) {
	var queriers []storage.Querier
	for _, b := range r.blocks.blocks {
		q, err := tsdb.NewBlockQuerier(b, mint, maxt)
		if err != nil {
			return nil, err
		}
		queriers = append(queriers, q)
	}
	return storage.NewMergeQuerier(queriers, nil, storage.ChainedSeriesMerge), nil
}

// ChunkQuerier implements storage.ChunkQueryable.
func (r readable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	q, err := r.Querier(mint, maxt)
	return chunkedQuerier{q}, err
}

// chunkedQuerier encodes what a querier has.
type chunkedQuerier struct{ storage.Querier }

// Select implements storage.ChunkQuerier.
func (q chunkedQuerier) Select(ctx context.Context, sort bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return storage.NewSeriesSetToChunkSet(q.Querier.Select(ctx, sort, hints, ms...))
}
