package workload

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

var plain = Shape{Series: 250, Scrapes: 20, Batch: 100, Step: 15 * time.Second, Start: 1_700_000_000_000}

// mixed has some of everything.
func mixed() Shape {
	s := plain
	s.Churn, s.ReplaceEvery, s.OutOfOrder, s.Histograms = 40, 8, 0.2, 0.3
	return s
}

func TestCheckNamesTheFlag(t *testing.T) {
	if err := mixed().Check(); err != nil {
		t.Errorf("a good shape: %v", err)
	}
	for flag, change := range map[string]func(*Shape){
		"-series":       func(s *Shape) { s.Series = 0 },
		"-scrapes":      func(s *Shape) { s.Scrapes = 1 },
		"-batch":        func(s *Shape) { s.Batch = 0 },
		"-step":         func(s *Shape) { s.Step = 0 },
		"-replace-all":  func(s *Shape) { s.ReplaceEvery = -1 },
		"-churn":        func(s *Shape) { s.Churn = -0.1 },
		"-out-of-order": func(s *Shape) { s.OutOfOrder = 1.1 },
		"-histograms":   func(s *Shape) { s.Histograms = -1 },
	} {
		s := plain
		change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), flag+" ") {
			t.Errorf("error %v does not name %s", err, flag)
		}
	}
}

func TestLabels(t *testing.T) {
	s := Shape{Series: 60_000, Start: plain.Start}
	bytes := 0
	s.Labels(12_345).Range(func(l labels.Label) { bytes += len(l.Name) + len(l.Value) })
	if n := s.Labels(12_345).Len(); n != 10 || bytes < 180 || bytes > 280 {
		t.Errorf("%d labels of %d bytes", n, bytes)
	}
	if later := (Shape{Series: 60_000, Start: s.Start + 1}); labels.Equal(later.Labels(1), s.Labels(1)) {
		t.Error("another run has the same series")
	}
	seen := map[string]bool{}
	for id := range 3 * plain.Series {
		seen[plain.Labels(id).String()] = true
	}
	if len(seen) != 3*plain.Series {
		t.Errorf("%d IDs have %d sets of labels", 3*plain.Series, len(seen))
	}
}

func TestCountersGrow(t *testing.T) {
	for id := range 100 {
		for n := range 50 {
			if v := Value(id, n); v == 0 || id/2%2 == 0 && n > 0 && v < Value(id, n-1) {
				t.Fatalf("series %d is %v in scrape %d, after %v", id, v, n, Value(id, n-1))
			}
			if err := Histogram(id, n).Validate(); err != nil {
				t.Fatalf("histogram %d in scrape %d: %v", id, n, err)
			}
		}
	}
}

func TestChurn(t *testing.T) {
	s := Shape{Series: 1000, Scrapes: 481, Batch: 100, Step: 15 * time.Second, Churn: 0.1}
	changed := 0
	for p := range s.Series {
		if s.ID(p, 0) != p {
			t.Fatalf("position %d begins with series %d", p, s.ID(p, 0))
		}
		for n := 1; n < s.Scrapes; n++ {
			if before, now := s.ID(p, n-1), s.ID(p, n); now != before {
				if now != before+s.Series {
					t.Fatalf("position %d has series %d after %d", p, now, before)
				}
				changed++
			}
		}
	}
	if changed != 200 || s.Created() != 1200 {
		t.Errorf("in two hours %d series were replaced, %d created; want 200, 1200", changed, s.Created())
	}
	s.Churn, s.ReplaceEvery = 0, 200
	if got := s.Created(); got != 3000 {
		t.Errorf("%d series were created by two full changes", got)
	}
}

// Every sample is sent once, in the scrape that SentIn tells, with its own time.
func TestEverySampleIsSentOnce(t *testing.T) {
	s := mixed()
	sent, late := map[Sample]int{}, 0
	for n := range s.Scrapes {
		for b := range s.Batches() {
			for _, x := range s.Samples(nil, b, n) {
				p := s.Position(x.ID)
				if x.T != s.Time(x.Scrape) || s.ID(p, x.Scrape) != x.ID || s.SentIn(p, x.Scrape) != n || p/s.Batch != b {
					t.Fatalf("batch %d of scrape %d has %+v", b, n, x)
				}
				if x.Scrape != n {
					late++
				}
				sent[x]++
			}
		}
	}
	for x, times := range sent {
		if times != 1 {
			t.Errorf("%+v is sent %d times", x, times)
		}
	}
	if want := s.Series * s.Scrapes; len(sent) != want || late < want/50 || late > want/5 {
		t.Errorf("%d samples of %d are sent, %d of them late", len(sent), want, late)
	}
}

func TestEndingAt(t *testing.T) {
	end := time.UnixMilli(1_800_000_000_123)
	s := plain.EndingAt(end)
	if got := s.Time(s.Scrapes - 1); got != end.UnixMilli() {
		t.Errorf("the last scrape is at %d, want %d", got, end.UnixMilli())
	}
}

// A body that re-uses what the last one had is, byte for byte, what the message encoded from
// scratch is.
func TestBodies(t *testing.T) {
	for name, s := range map[string]Shape{"plain": plain, "mixed": mixed()} {
		for version, marshal := range map[int]func(*testing.T, Shape, []Sample) []byte{1: marshal1, 2: marshal2} {
			var body []byte
			for b := range s.Batches() {
				e := NewEncoder(s, b, version)
				for n := range s.Scrapes {
					want := s.Samples(nil, b, n)
					var count int
					var err error
					body, count, err = e.Body(body, n)
					if err != nil {
						t.Fatal(err)
					}
					raw, err := snappy.Decode(nil, body)
					if err != nil {
						t.Fatal(err)
					}
					if version == 2 && name == "mixed" {
						raw = renumber(t, raw)
					}
					if !bytes.Equal(raw, marshal(t, s, want)) || count != len(want) {
						t.Fatalf("%s, version %d: batch %d of scrape %d is not as encoded from scratch", name, version, b, n)
					}
				}
			}
		}
	}
}

func marshal1(t *testing.T, s Shape, samples []Sample) []byte {
	t.Helper()
	var req prompb.WriteRequest
	for _, x := range samples {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(s.Labels(x.ID), nil)}
		if s.Native(x.ID) {
			ts.Histograms = []prompb.Histogram{prompb.FromIntHistogram(x.T, Histogram(x.ID, x.Scrape))}
		} else {
			ts.Samples = []prompb.Sample{{Timestamp: x.T, Value: Value(x.ID, x.Scrape)}}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	b, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// renumber encodes a message of version 2 anew, with a table of the symbols that it uses, in
// the order of their use: an encoder keeps its table until a series is new.
func renumber(t *testing.T, raw []byte) []byte {
	t.Helper()
	var req writev2.Request
	if err := req.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	table := writev2.NewSymbolTable()
	b := labels.NewScratchBuilder(0)
	for i, ts := range req.Timeseries {
		ls, err := ts.ToLabels(&b, req.Symbols)
		if err != nil {
			t.Fatal(err)
		}
		req.Timeseries[i].LabelsRefs = table.SymbolizeLabels(ls, nil)
	}
	req.Symbols = table.Symbols()
	out, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func marshal2(t *testing.T, s Shape, samples []Sample) []byte {
	t.Helper()
	table := writev2.NewSymbolTable()
	var req writev2.Request
	for _, x := range samples {
		ts := writev2.TimeSeries{LabelsRefs: table.SymbolizeLabels(s.Labels(x.ID), nil)}
		if s.Native(x.ID) {
			ts.Histograms = []writev2.Histogram{writev2.FromIntHistogram(0, x.T, Histogram(x.ID, x.Scrape))}
		} else {
			ts.Samples = []writev2.Sample{{Timestamp: x.T, Value: Value(x.ID, x.Scrape)}}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = table.Symbols()
	b, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answer is what a server answers that holds everything.
func answer(s Shape, metric int) []*prompb.TimeSeries {
	byID := map[int]*prompb.TimeSeries{}
	var all []*prompb.TimeSeries
	for p := metric; p < s.Series; p += s.Metrics() {
		for n := range s.Scrapes {
			id := s.ID(p, n)
			ts := byID[id]
			if ts == nil {
				ts = &prompb.TimeSeries{Labels: prompb.FromLabels(s.Labels(id), nil)}
				byID[id], all = ts, append(all, ts)
			}
			if s.Native(id) {
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(s.Time(n), Histogram(id, n)))
			} else {
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: s.Time(n), Value: Value(id, n)})
			}
		}
	}
	return all
}

func always(int, int) bool { return true }

func TestVerify(t *testing.T) {
	s := mixed()
	s.Histograms = 0
	for name, tc := range map[string]struct {
		change             func([]*prompb.TimeSeries)
		missing, different int
	}{
		"all":                   {change: func([]*prompb.TimeSeries) {}},
		"one missing":           {change: func(a []*prompb.TimeSeries) { a[1].Samples = a[1].Samples[1:] }, missing: 1},
		"the last bit":          {change: func(a []*prompb.TimeSeries) { a[2].Samples[0].Value *= 1 + 1e-15 }, different: 1},
		"twice":                 {change: func(a []*prompb.TimeSeries) { a[0].Samples = append(a[0].Samples, a[0].Samples[0]) }, different: 1},
		"another time":          {change: func(a []*prompb.TimeSeries) { a[0].Samples[0].Timestamp++ }, missing: 1, different: 1},
		"before all":            {change: func(a []*prompb.TimeSeries) { a[0].Samples[0].Timestamp = s.Start - 1 }, missing: 1, different: 1},
		"a label":               {change: func(a []*prompb.TimeSeries) { a[0].Labels[1].Value += "x" }, missing: 1, different: 1},
		"a series that is over": {change: func(a []*prompb.TimeSeries) { a[0].Samples[0].Timestamp = s.Time(19) }, missing: 1, different: 1},
	} {
		t.Run(name, func(t *testing.T) {
			a := answer(s, 3)
			for len(a[0].Samples) > 1 { // one sample a series keeps the arithmetic simple
				a[0].Samples = a[0].Samples[:1]
			}
			clean := s.Verify(3, a, always)
			tc.change(a)
			f := s.Verify(3, a, always)
			if f.Missing-clean.Missing != tc.missing || f.Different != tc.different || f.Compared != 3*s.Scrapes {
				t.Errorf("%+v, without the change %+v", f, clean)
			}
		})
	}
}

func TestVerifyHistograms(t *testing.T) {
	s := mixed()
	s.Histograms = 1
	a := answer(s, 0)
	if f := s.Verify(0, a, always); f.Wrong() != 0 || f.Compared != 3*s.Scrapes {
		t.Fatalf("%+v", f)
	}
	a[0].Histograms[0].PositiveDeltas[0]++
	a[1].Histograms = a[1].Histograms[1:]
	a[2].Samples = []prompb.Sample{{Timestamp: a[2].Histograms[0].Timestamp, Value: 1}}
	a[2].Histograms = a[2].Histograms[1:]
	if f := s.Verify(0, a, always); f.Missing != 1 || f.Different != 2 || len(f.Examples) != 3 {
		t.Errorf("%+v", f)
	}
}

// What was refused may be there or not.
func TestVerifyRefused(t *testing.T) {
	s := plain
	a := answer(s, 7)
	a[0].Samples = a[0].Samples[:s.Scrapes-1]
	refused := func(batch, scrape int) bool { return batch != 0 || scrape != s.Scrapes-1 }
	if f := s.Verify(7, a, refused); f.Wrong() != 0 || f.Compared != 3*s.Scrapes-1 {
		t.Errorf("%+v", f)
	}
}
