package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// errLack is the error of a cluster that cannot prove its answer complete.
type errLack struct{}

func (errLack) Error() string     { return "range 3 has 1 of 2 owners" }
func (errLack) Unavailable() bool { return true }

// failure says where reading fails.
type failure int

const (
	inQuerier failure = iota
	inSelect
	betweenSeries
	withinSeries
)

func (f failure) String() string {
	return [...]string{"in Querier", "in Select", "between series", "within a series"}[f]
}

// lacking is a cluster over a real database that fails at one place with one error.
type lacking struct {
	storage.SampleAndChunkQueryable
	exemplars storage.ExemplarQueryable
	place     failure
	err       error
}

func (l lacking) wrapped() error { return fmt.Errorf("fanning out: %w", l.err) }

func (l lacking) Querier(mint, maxt int64) (storage.Querier, error) {
	if l.place == inQuerier {
		return nil, l.wrapped()
	}
	q, err := l.SampleAndChunkQueryable.Querier(mint, maxt)
	return lackingQuerier{q, l}, err
}

func (l lacking) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	if l.place == inQuerier {
		return nil, l.wrapped()
	}
	q, err := l.SampleAndChunkQueryable.ChunkQuerier(mint, maxt)
	return lackingChunkQuerier{q, l}, err
}

type lackingQuerier struct {
	storage.Querier
	l lacking
}

func (q lackingQuerier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, q.l.wrapped()
}

func (q lackingQuerier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, q.l.wrapped()
}

func (q lackingQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	if q.l.place == inSelect {
		return storage.ErrSeriesSet(q.l.wrapped())
	}
	return &lackingSet{SeriesSet: q.Querier.Select(ctx, sorted, hints, ms...), l: q.l}
}

// lackingSet yields one series, which may end too early itself.
type lackingSet struct {
	storage.SeriesSet
	l    lacking
	done bool
}

func (s *lackingSet) Next() bool {
	if s.l.place == betweenSeries && s.done {
		return false
	}
	s.done = true
	return s.SeriesSet.Next()
}

func (s *lackingSet) Err() error {
	if s.l.place == betweenSeries && s.done {
		return s.l.wrapped()
	}
	return s.SeriesSet.Err()
}

func (s *lackingSet) At() storage.Series { return lackingSeries{s.SeriesSet.At(), s.l} }

type lackingSeries struct {
	storage.Series
	l lacking
}

func (s lackingSeries) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	it := s.Series.Iterator(nil)
	if s.l.place != withinSeries {
		return it
	}
	it.Next()
	t, v := it.At()
	return lackingIterator{storage.NewListSeriesIterator(oneSample{t: t, v: v}), s.l}
}

// oneSample is a list of one float.
type oneSample struct {
	t int64
	v float64
}

func (s oneSample) Get(int) chunks.Sample       { return s }
func (oneSample) Len() int                      { return 1 }
func (s oneSample) ST() int64                   { return 0 }
func (s oneSample) T() int64                    { return s.t }
func (s oneSample) F() float64                  { return s.v }
func (oneSample) H() *histogram.Histogram       { return nil }
func (oneSample) FH() *histogram.FloatHistogram { return nil }
func (oneSample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s oneSample) Copy() chunks.Sample         { return s }

// lackingIterator fails after the first sample.
type lackingIterator struct {
	chunkenc.Iterator
	l lacking
}

func (i lackingIterator) Err() error { return i.l.wrapped() }

type lackingChunkQuerier struct {
	storage.ChunkQuerier
	l lacking
}

func (q lackingChunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	if q.l.place == inSelect {
		return storage.ErrChunkSeriesSet(q.l.wrapped())
	}
	return &lackingChunkSet{ChunkSeriesSet: q.ChunkQuerier.Select(ctx, sorted, hints, ms...), l: q.l}
}

type lackingChunkSet struct {
	storage.ChunkSeriesSet
	l    lacking
	done bool
}

func (s *lackingChunkSet) Next() bool {
	if s.done {
		return false
	}
	s.done = true
	return s.ChunkSeriesSet.Next()
}

func (s *lackingChunkSet) Err() error {
	if s.l.place == betweenSeries {
		return s.l.wrapped()
	}
	return s.ChunkSeriesSet.Err()
}

func (s *lackingChunkSet) At() storage.ChunkSeries {
	return lackingChunkSeries{s.ChunkSeriesSet.At(), s.l}
}

type lackingChunkSeries struct {
	storage.ChunkSeries
	l lacking
}

func (s lackingChunkSeries) Iterator(chunks.Iterator) chunks.Iterator {
	it := s.ChunkSeries.Iterator(nil)
	if s.l.place != withinSeries {
		return it
	}
	return lackingChunkIterator{it, s.l}
}

type lackingChunkIterator struct {
	chunks.Iterator
	l lacking
}

func (i lackingChunkIterator) Err() error { return i.l.wrapped() }

func (l lacking) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	if l.place == inQuerier {
		return nil, l.wrapped()
	}
	q, err := l.exemplars.ExemplarQuerier(ctx)
	return lackingExemplars{q, l}, err
}

type lackingExemplars struct {
	storage.ExemplarQuerier
	l lacking
}

func (q lackingExemplars) Select(int64, int64, ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return nil, q.l.wrapped()
}

func (l lacking) Metadata(context.Context, string, int, int) (map[string][]metadata.Metadata, annotations.Annotations, error) {
	return nil, nil, l.wrapped()
}

func (l lacking) Stats(context.Context, string, int) (*tsdb.Stats, error) { return nil, l.wrapped() }

// lack makes the sources of a fixture fail.
func lack(place failure, err error) func(*Options) {
	return func(o *Options) {
		l := lacking{o.Sources.Queryable, o.Sources.Exemplars, place, err}
		o.Sources.Queryable, o.Sources.Exemplars, o.Sources.Metadata, o.Sources.Stats = l, l, l, l
	}
}

// readPaths are the paths that read data; those that see single samples fail in every
// place.
var readPaths = []struct {
	path    string
	samples bool
}{
	{"/api/v1/query?query=http_requests_total&time=1700000000", true},
	{"/api/v1/query?query=sum(rate(http_requests_total[5m]))&time=1700000000", true},
	{"/api/v1/query?query=absent(http_requests_total)&time=1700000000", true},
	{"/api/v1/query?query=max_over_time(http_requests_total[5m:1m])&time=1700000000", true},
	{"/api/v1/query_range?query=http_requests_total&start=1699999900&end=1700000000&step=15", true},
	{"/federate?match[]=http_requests_total", true},
	{"/federate?match[]=http_requests_total&match[]=free_bytes", true},
	{"/api/v1/series?match[]=http_requests_total", false},
	{"/api/v1/series?match[]=http_requests_total&match[]=free_bytes", false},
	{"/api/v1/labels", false},
	{"/api/v1/labels?match[]=http_requests_total&match[]=free_bytes", false},
	{"/api/v1/label/instance/values", false},
	{"/api/v1/label/instance/values?match[]=http_requests_total&match[]=free_bytes", false},
	{"/api/v1/query_exemplars?query=http_requests_total", false},
	{"/api/v1/metadata", false},
	{"/api/v1/status/tsdb", false},
}

// TestIncompleteIsUnavailable is guarantee 6 at the front door: wherever the cluster
// says that an answer would be incomplete, the client hears 503.
func TestIncompleteIsUnavailable(t *testing.T) {
	for place := inQuerier; place <= withinSeries; place++ {
		t.Run(place.String(), func(t *testing.T) {
			f := newFixture(t, lack(place, errLack{}))
			for _, p := range readPaths {
				if place == withinSeries && !p.samples {
					continue
				}
				res := f.do(http.MethodGet, p.path, nil, http.Header{"Accept-Encoding": {"identity"}})
				if res.status != http.StatusServiceUnavailable || !strings.Contains(res.body, errLack{}.Error()) {
					t.Errorf("%s: got %d %q", p.path, res.status, res.body)
				}
				if strings.HasPrefix(p.path, "/api/") {
					if e := res.envelope(t); e.ErrorType != "unavailable" {
						t.Errorf("%s: error type %q", p.path, e.ErrorType)
					}
				}
			}
			for _, streamed := range []bool{false, true} {
				res := f.remoteRead(streamed)
				if broken := res.broken != nil; res.status != http.StatusServiceUnavailable && !broken {
					t.Errorf("remote read, streamed %v: got %d %q", streamed, res.status, res.body)
				}
				if early := place <= inSelect || !streamed; early && res.status != http.StatusServiceUnavailable {
					t.Errorf("remote read, streamed %v: got %d %v before anything was sent", streamed, res.status, res.broken)
				}
			}
		})
	}
}

// TestOtherErrorsKeepTheirStatus checks that not every error is taken for a lack.
func TestOtherErrorsKeepTheirStatus(t *testing.T) {
	f := newFixture(t, lack(inSelect, errors.New("a bug")))
	for path, want := range map[string]int{
		"/api/v1/query?query=up":        http.StatusUnprocessableEntity,
		"/api/v1/series?match[]=up":     http.StatusUnprocessableEntity,
		"/api/v1/metadata":              http.StatusInternalServerError,
		"/api/v1/status/tsdb":           http.StatusInternalServerError,
		"/federate?match[]=free_bytes":  http.StatusInternalServerError,
		"/api/v1/label/instance/values": http.StatusUnprocessableEntity,
	} {
		if res := f.get(path); res.status != want {
			t.Errorf("%s: got %d %q, want %d", path, res.status, res.body, want)
		}
	}
	if res := f.remoteRead(false); res.status != http.StatusInternalServerError {
		t.Errorf("remote read: got %d", res.status)
	}
}

// TestBrokenStreamIsNoSuccess checks that a streamed answer which fails for any reason
// after it began is seen to have failed.
func TestBrokenStreamIsNoSuccess(t *testing.T) {
	f := newFixture(t, lack(betweenSeries, errors.New("a bad checksum")))
	if res := f.remoteRead(true); res.broken == nil {
		t.Errorf("got a whole answer with status %d", res.status)
	}
	if metrics := f.get("/metrics").body; !strings.Contains(metrics, `{code="aborted",handler="/api/v1/read",method="post"} 1`) {
		t.Error("the broken answer was not counted as aborted")
	}
}
