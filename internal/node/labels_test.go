package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/config"
)

// listed is what a path that lists labels answers.
type listedLabels struct {
	Data     []string
	Warnings []string
}

func (m *member) list(path string) listedLabels {
	m.flock.Helper()
	a := m.get(path)
	var l listedLabels
	if a.code != http.StatusOK {
		m.flock.Errorf("%s asked for %s: %d %q", m.name, path, a.code, a.text)
		return l
	}
	if err := json.Unmarshal([]byte(a.text), &l); err != nil {
		m.flock.Fatalf("%s: %v in %q", path, err, a.text)
	}
	return l
}

// writeSeries sends one sample for each value of the label v, in their order.
func (m *member) writeSeries(metric string, at time.Time, values ...string) {
	m.flock.Helper()
	var req prompb.WriteRequest
	for _, v := range values {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: metric}, {Name: "v", Value: v}},
			Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: 1}},
		})
	}
	body, err := req.Marshal()
	if err != nil {
		m.flock.Fatal(err)
	}
	resp, err := m.http.Post("http://"+m.ip+":9080/api/v1/write", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		m.flock.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		m.flock.Fatalf("write of %d series: %d", len(values), resp.StatusCode)
	}
}

// A limit leaves the first values in order, the same ones whoever is asked and however they were
// written, and says so.
func TestLabelsWithLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c", "d")
		var values []string
		for i := range 100 {
			values = append(values, fmt.Sprintf("%03d", 99-i))
		}
		m[0].writeSeries("m", time.Now(), values...)
		m[1].writeSeries("other", time.Now(), "0", "1", "2", "3")
		slices.Sort(values)
		for _, tt := range []struct {
			path string
			want []string
			cut  bool
		}{
			{"/api/v1/label/v/values?limit=3&match[]=m", values[:3], true},
			{"/api/v1/label/v/values?limit=5&match[]=m&match[]=other", []string{"0", "000", "001", "002", "003"}, true},
			{"/api/v1/label/v/values?limit=100&match[]=m", values, false},
			{"/api/v1/label/v/values?limit=2", []string{"0", "000"}, true},
			{"/api/v1/label/v/values?limit=99&match[]=m", values[:99], true},
			{"/api/v1/label/v/values?match[]=other", []string{"0", "1", "2", "3"}, false},
			{"/api/v1/label/none/values?limit=2", []string{}, false},
			{"/api/v1/labels?limit=1", []string{"__name__"}, true},
			{"/api/v1/labels?limit=2&match[]=m", []string{"__name__", "v"}, false},
		} {
			for _, n := range m {
				got := n.list(tt.path)
				if !slices.Equal(got.Data, tt.want) {
					t.Errorf("%s asked for %s: %q, want %q", n.name, tt.path, got.Data, tt.want)
				}
				if cut := slices.Contains(got.Warnings, "results truncated due to limit"); cut != tt.cut {
					t.Errorf("%s asked for %s: warnings %q", n.name, tt.path, got.Warnings)
				}
			}
		}
	})
}

// Labels of series whose samples all came late are answered for their time, too.
func TestLabelsOfLateSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		now := time.Now()
		m[0].writeSeries("m", now, "new")
		m[0].writeSeries("m", now.Add(-80*time.Minute), "new")
		m[0].writeSeries("late_only", now.Add(-80*time.Minute), "late")
		end := strconv.FormatInt(now.Add(-70*time.Minute).Unix(), 10)
		for _, n := range m {
			if got := n.list("/api/v1/label/v/values?match[]=late_only&end=" + end).Data; !slices.Equal(got, []string{"late"}) {
				t.Errorf("%s: values %q", n.name, got)
			}
			if got := n.list("/api/v1/labels?end=" + end).Data; !slices.Equal(got, []string{"__name__", "v"}) {
				t.Errorf("%s: names %q", n.name, got)
			}
		}
	})
}

// An answer that is larger than a query may hold is refused as that, and not as if a node were
// away; what a limit leaves of it is answered.
func TestLabelsThatAreTooMany(t *testing.T) {
	var values []string
	for i := range 500 {
		values = append(values, fmt.Sprintf("%03d", i))
	}
	const path = "/api/v1/label/v/values"
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.query = func(q *config.Query) { q.MaxSamples = 100 }
		m := f.fresh("a", "b", "c")
		m[0].writeSeries("m", time.Now(), values...)
		for _, n := range m {
			// Owners would give all that they have.
			n.opts.Config.Query.MaxSamples = 1 << 20
		}
		if a := m[0].get(path); a.code != http.StatusUnprocessableEntity || !strings.Contains(a.text, "3200 bytes") {
			t.Errorf("%d %q", a.code, a.text)
		}
		if got := m[0].list(path + "?limit=3").Data; !slices.Equal(got, values[:3]) {
			t.Errorf("with a limit: %q", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := newFlock(t).fresh("a", "b", "c")
		m[0].writeSeries("m", time.Now(), values...)
		m[1].opts.Config.Query.MaxSamples = 10
		for _, n := range m[1:] {
			if a := n.get(path + "?match[]=m"); a.code != http.StatusUnprocessableEntity || !strings.Contains(a.text, "--query.max-samples") {
				t.Errorf("%s, of an owner: %d %q", n.name, a.code, a.text)
			}
			if got := n.list(path + "?limit=3").Data; !slices.Equal(got, values[:3]) {
				t.Errorf("%s, with a limit: %q", n.name, got)
			}
		}
	})
}

// Who lists labels waits for nodes that hang no longer than for a query, and takes a turn like
// other reads, which is given back.
func TestLabelsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.query = func(q *config.Query) { q.Timeout, q.MaxConcurrency = model.Duration(3*time.Second), 1 }
		m := f.fresh("a", "b", "c")
		m[0].writeSeries("m", time.Now(), "1", "2")
		f.net.Partition([]string{ip(1)}, []string{ip(2), ip(3)})
		for _, path := range []string{"/api/v1/label/v/values", "/api/v1/labels?match[]=m", "/api/v1/series?match[]=m"} {
			start := time.Now()
			a := m[0].get(path)
			if took := time.Since(start); a.code != http.StatusServiceUnavailable || took > 3*time.Second+100*time.Millisecond {
				t.Errorf("%s: %d %q after %v", path, a.code, a.text, took)
			}
			// Somebody has gone while it hung.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ip(1)+":9080"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := m[0].http.Do(req); err == nil {
				resp.Body.Close()
				t.Errorf("%s: an answer", path)
			}
			cancel()
			<-time.After(100 * time.Millisecond)
			if n := m[0].metric(t, "starling_http_requests_total", "499"); n == 0 {
				t.Errorf("%s goes on when nobody waits", path)
			}
		}
		f.net.Heal()
		f.ready(m...)
		f.eventually(time.Minute, "all answer", func() error {
			if a := m[0].get("/api/v1/label/v/values"); a.code != http.StatusOK {
				return errors.New(a.text)
			}
			return nil
		})
	})
}

// Series are listed by one owner each: their labels travel once, and no samples.
func TestListedSeriesTravelOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		var (
			values []string
			want   float64
		)
		for i := range 200 {
			values = append(values, fmt.Sprintf("%0100d", 199-i))
			want += float64(labels.FromStrings("__name__", "m", "v", values[i]).ByteSize() + 48)
		}
		for i := range 30 {
			m[0].writeSeries("m", time.Now().Add(time.Duration(i-30)*time.Minute), values...)
		}
		f.caughtUp(time.Minute)
		const counted, came = "starling_query_fanout_bytes_total", "starling_peer_received_bytes_total"
		before := m[0].metric(t, came)
		if a := m[0].get("/api/v1/series?match[]=m"); a.code != http.StatusOK || strings.Count(a.text, "__name__") != len(values) {
			t.Errorf("%d %.300q", a.code, a.text)
		}
		if got := m[0].metric(t, counted); got != want {
			t.Errorf("%v bytes of labels and samples came, the labels have %v", got, want)
		}
		// A third of them are the node's own.
		if got := m[0].metric(t, came) - before; got > want {
			t.Errorf("%v bytes came from peers", got)
		}
		if a := m[1].get("/api/v1/series?match[]=m&limit=2"); !strings.Contains(a.text, values[199]) || !strings.Contains(a.text, values[198]) || strings.Contains(a.text, values[197]) ||
			!strings.Contains(a.text, "results truncated due to limit") {
			t.Errorf("%.500q", a.text)
		}
	})
}

// BenchmarkLabelValues lists the values of a label that 100,000 series have, each another one, of
// three nodes which are all in this process, and of a single TSDB.
func BenchmarkLabelValues(b *testing.B) {
	const n = 100_000
	f := newFlock(b)
	f.linger = 0
	f.net.SetLatency(0)
	m := f.fresh("a", "b", "c")
	opts := tsdb.DefaultOptions()
	db, err := tsdb.Open(b.TempDir(), nil, nil, opts, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	app := db.Appender(b.Context())
	var values []string
	for i := range n {
		values = append(values, fmt.Sprintf("pod-%08x-%05d", i*2654435761%(1<<32), i))
		if _, err := app.Append(0, labels.FromStrings("__name__", fmt.Sprint("m", i%2), "v", values[i]), time.Now().UnixMilli(), 1); err != nil {
			b.Fatal(err)
		}
	}
	if err := app.Commit(); err != nil {
		b.Fatal(err)
	}
	for i := 0; i < n; i += 2000 {
		var even, odd []string
		for j := i; j < i+2000; j += 2 {
			even, odd = append(even, values[j]), append(odd, values[j+1])
		}
		m[0].writeSeries("m0", time.Now(), even...)
		m[0].writeSeries("m1", time.Now(), odd...)
	}
	for name, q := range map[string]struct {
		limit, want int
		matchers    []*labels.Matcher
	}{
		"all":   {0, n, nil},
		"limit": {100, 100, nil},
		"match": {0, n / 2, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m0")}},
	} {
		for from, source := range map[string]promstorage.Queryable{"cluster": m[0].reads, "tsdb": db} {
			b.Run(name+"/"+from, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					querier, err := source.Querier(math.MinInt64, math.MaxInt64)
					if err != nil {
						b.Fatal(err)
					}
					got, _, err := querier.LabelValues(b.Context(), "v", &promstorage.LabelHints{Limit: q.limit}, q.matchers...)
					if err != nil || len(got) != q.want {
						b.Fatal(len(got), err)
					}
					if err := querier.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
