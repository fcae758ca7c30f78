package load

import (
	"errors"
	"math"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

func TestJudge(t *testing.T) {
	float := ledger.Sample{Series: ledger.Series{Shape: ledger.Gauge}, T: 1}
	native := ledger.Sample{Series: ledger.Series{Shape: ledger.Native}, T: 1}
	written := func(samples, histograms string) http.Header {
		h := http.Header{}
		h.Set("X-Prometheus-Remote-Write-Samples-Written", samples)
		h.Set("X-Prometheus-Remote-Write-Histograms-Written", histograms)
		return h
	}
	violated := errors.New("a violation")
	for _, tc := range []struct {
		name    string
		status  int
		header  http.Header
		version int
		want    error
	}{
		{name: "success", status: 204, version: 1},
		{name: "success that counts", status: 204, header: written("1", "1"), version: 2},
		{name: "success that counts wrongly", status: 204, header: written("2", "1"), version: 2, want: violated},
		{name: "success that counts no histograms", status: 200, header: written("1", ""), version: 2, want: violated},
		{name: "retry", status: 503, header: http.Header{"Retry-After": {"1"}}, version: 1, want: errUnavailable},
		{name: "retry when?", status: 503, version: 1, want: violated},
		{name: "invalid", status: 400, version: 1, want: errRefused},
		{name: "too many requests", status: 429, header: http.Header{"Retry-After": {"1"}}, version: 1, want: violated},
		{name: "internal error", status: 500, version: 1, want: violated},
	} {
		if tc.header == nil {
			tc.header = http.Header{}
		}
		err := judge(Reply{Status: tc.status, Header: tc.header}, tc.version, []ledger.Sample{float, native})
		if v, ok := errors.AsType[*Violation](err); ok {
			err = errors.Join(violated, v)
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestParseMatrix(t *testing.T) {
	s := ledger.Series{Shape: ledger.Native, Sender: 1, Number: 2}
	const metric = `{"__name__":"faults_native","sender":"1","number":"2"}`
	body := func(warnings, results string) string {
		return `{"status":"success",` + warnings + `"data":{"resultType":"matrix","result":[` + results + `]}}`
	}
	one := `{"metric":` + metric + `,"values":[[1700000000.001,"1.5"],[1700000000.25,"NaN"]],` +
		`"histograms":[[1700000001,{"count":"7","sum":"2.25","buckets":[[0,"0.5","1","7"]]}]]}`
	for _, tc := range []struct {
		name, body string
		header     http.Header
		want       []ledger.Point // nil for a violation
	}{
		{name: "points", body: body("", one), want: []ledger.Point{
			{T: 1700000000001, V: 1.5}, {T: 1700000000250, V: math.NaN()}, {T: 1700000001000, V: 2.25, Count: 7},
		}},
		{name: "warnings", body: body(`"warnings":["partial"],`, one)},
		{name: "partial", body: body("", one), header: http.Header{"Starling-Partial-Response": {"true"}}},
		{name: "series twice", body: body("", one+","+one)},
		{name: "foreign series", body: body("", `{"metric":{"__name__":"up"},"values":[]}`)},
		{name: "bad value", body: body("", `{"metric":`+metric+`,"values":[[1,"x"]]}`)},
		{name: "error", body: `{"status":"error"}`},
		{name: "broken off", body: body("", one)[:100]},
	} {
		a, err := parseMatrix(Reply{Status: 200, Header: tc.header, Body: []byte(tc.body)})
		if tc.want == nil {
			if _, ok := errors.AsType[*Violation](err); !ok {
				t.Errorf("%s: %v, %v, want a violation", tc.name, a, err)
			}
			continue
		}
		got := a[s]
		if err != nil || len(got) != len(tc.want) || !math.IsNaN(got[1].V) {
			t.Errorf("%s: %v, %v, want %v", tc.name, a, err, tc.want)
			continue
		}
		got[1].V, tc.want[1].V = 0, 0
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// What is sent is what the ledger expects back, in both versions.
func TestEncode(t *testing.T) {
	samples := []ledger.Sample{
		{Series: ledger.Series{Shape: ledger.Counter, Sender: 1, Number: 2}, T: 1_700_000_000_123},
		{Series: ledger.Series{Shape: ledger.Native, Sender: 1, Number: 2}, T: 1_700_000_000_123},
	}
	decode := func(version int, into interface{ Unmarshal([]byte) error }) {
		t.Helper()
		body, _, err := encode(version, samples)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := snappy.Decode(nil, body)
		if err != nil {
			t.Fatal(err)
		}
		if err := into.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
	}
	var v1 prompb.WriteRequest
	decode(1, &v1)
	var v2 writev2.Request
	decode(2, &v2)
	h1, h2 := v1.Timeseries[1].Histograms[0].ToIntHistogram(), v2.Timeseries[1].Histograms[0].ToIntHistogram()
	if err := errors.Join(h1.Validate(), h2.Validate()); err != nil {
		t.Error(err)
	}
	for version, got := range map[int][]ledger.Point{
		1: {{T: v1.Timeseries[0].Samples[0].Timestamp, V: v1.Timeseries[0].Samples[0].Value}, {T: v1.Timeseries[1].Histograms[0].Timestamp, V: h1.Sum, Count: h1.Count}},
		2: {{T: v2.Timeseries[0].Samples[0].Timestamp, V: v2.Timeseries[0].Samples[0].Value}, {T: v2.Timeseries[1].Histograms[0].Timestamp, V: h2.Sum, Count: h2.Count}},
	} {
		for i, s := range samples {
			if want := s.Series.PointAt(s.T); got[i] != want {
				t.Errorf("version %d sends %v, want %v", version, got[i], want)
			}
		}
	}
}

func TestBatchesRepeatNoTimestamp(t *testing.T) {
	l := New(NewClient(Papers{}), nil, 1)
	l.began = time.UnixMilli(1_700_000_000_000)
	s := l.newSender(0)
	seen := map[ledger.Sample]bool{}
	for n := range int64(3000) {
		for _, sample := range s.batch(1_700_000_000_000+n, n) {
			if seen[sample] {
				t.Fatalf("%s comes again in scrape %d", sample, n)
			}
			seen[sample] = true
			if sample.Series.Shape == ledger.Late && sample.T <= l.began.Add(-lateWindow).UnixMilli() {
				t.Fatalf("%s is too late", sample)
			}
		}
	}
}

func TestAvailability(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	a := newAvailability(start, 2)
	a.success(0, at(1))
	a.success(1, at(2))
	a.success(0, at(5))
	a.success(0, at(9))
	if got, want := a.longest(at(10)), (Down{Anywhere: 4 * time.Second, Worst: 8 * time.Second}); got != want {
		t.Errorf("longest = %v, want %v", got, want)
	}
	if got := a.longest(at(20)).Anywhere; got != 11*time.Second {
		t.Errorf("longest = %s, want the 11s up to now", got)
	}
	a.forget(1) // what it does not do from now on, or until it is back, does not count
	a.success(0, at(30))
	if worst := a.longest(at(31)).Worst; worst != 21*time.Second {
		t.Errorf("longest = %s, want 21s of the other node", worst)
	}
	a.success(1, at(60))
	a.success(0, at(61))
	if worst := a.longest(at(95)).Worst; worst != 35*time.Second {
		t.Errorf("longest = %s, want 35s of the node that is back", worst)
	}
}
