package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/series"
)

func TestRefusals(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))

	bad := tsdbutil.GenerateTestHistogram(1)
	bad.Count = 1
	for _, tc := range []struct {
		desc    string
		sample  series.Sample
		reason  series.Reason // 0 for a success
		message string
	}{
		{"same again", series.Sample{T: at(0), V: 1}, 0, ""},
		{"other value", series.Sample{T: at(0), V: 2}, series.Conflict, "duplicate sample"},
		{"just within the future", series.Sample{T: at(10 * time.Minute), V: 1}, 0, ""},
		{"too far ahead", series.Sample{T: at(10*time.Minute + time.Millisecond), V: 1}, series.Invalid,
			"timestamp 2026-03-01T12:10:00.001Z is more than 10m0s ahead of this node's clock"},
		{"out of order", series.Sample{T: at(-time.Hour), V: 1}, 0, ""},
		{"too old", series.Sample{T: at(-3 * time.Hour), V: 1}, series.Invalid, "too old sample"},
		{"invalid histogram", series.Sample{T: at(time.Second), H: bad}, series.Invalid, "histogram"},
		{"stale", series.Sample{T: at(time.Minute), V: math.Float64frombits(value.StaleNaN)}, 0, ""},
	} {
		sr := series.Series{Labels: name("a"), Samples: []series.Sample{tc.sample}}
		got := mustAppend(t, s, batch(floats(name("other"), float64(at(0)), 1), sr))
		switch {
		case tc.reason == 0 && len(got) == 0:
		case tc.reason != 0 && len(got) == 1 && got[0].Reason == tc.reason && got[0].Series == 1 &&
			got[0].Item == 0 && !got[0].Exemplar && strings.Contains(got[0].Message, tc.message):
		default:
			t.Errorf("%s: %+v", tc.desc, got)
		}
	}
}

func TestFarFutureDoesNotMoveTheHead(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	// In a fresh store even the creation of a series would set the head's time.
	got := mustAppend(t, s, batch(floats(name("a"), float64(at(100*24*time.Hour)), 1)))
	if len(got) != 1 || got[0].Reason != series.Invalid {
		t.Fatalf("far future: %+v", got)
	}
	got = mustAppend(t, s, batch(floats(name("b"), float64(at(100*24*time.Hour)), 1, float64(at(0)), 1)))
	if len(got) != 1 || got[0].Item != 0 {
		t.Fatalf("want the first sample refused only: %+v", got)
	}
	if got := mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1))); len(got) != 0 {
		t.Errorf("a normal sample is refused after one far ahead: %+v", got)
	}
}

func TestInvalidLabels(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	got := mustAppend(t, s, batch(floats(labels.EmptyLabels(), float64(at(0)), 1), floats(name("a"), float64(at(0)), 1)))
	if len(got) != 1 || got[0].Series != 0 || got[0].Reason != series.Invalid {
		t.Errorf("empty labels: %+v", got)
	}
}

func TestHistogramsAreCopiedAndReduced(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	fine := func() *histogram.Histogram {
		return &histogram.Histogram{
			Schema: 9, Count: 3, Sum: 4, ZeroThreshold: 0.001,
			PositiveSpans:   []histogram.Span{{Offset: 0, Length: 3}},
			PositiveBuckets: []int64{1, 0, 0},
		}
	}
	b := batch(
		series.Series{Labels: name("h"), Samples: []series.Sample{{T: at(0), H: fine()}}},
		series.Series{Labels: name("f"), Samples: []series.Sample{{T: at(0), FH: fine().ToFloat(nil)}}},
	)
	// A sparser histogram after a richer one makes the TSDB rewrite what it was given.
	for i := range 3 {
		b.Series[0].Samples = append(b.Series[0].Samples, series.Sample{T: at(time.Duration(i+1) * time.Second), H: tsdbutil.GenerateTestHistogram(int64(5 - i))})
	}
	before := fmt.Sprintf("%v %v %v", b.Series[0].Samples[0].H, b.Series[0].Samples[2].H, b.Series[1].Samples[0].FH)
	if got := mustAppend(t, s, b); len(got) != 0 {
		t.Fatalf("refused: %+v", got)
	}
	if after := fmt.Sprintf("%v %v %v", b.Series[0].Samples[0].H, b.Series[0].Samples[2].H, b.Series[1].Samples[0].FH); after != before {
		t.Errorf("the batch was changed:\n%s\n%s", before, after)
	}
	want := fine()
	if err := want.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
		t.Fatal(err)
	}
	got := read(t, s)
	if len(got) != 5 || got[point{name("h").String(), at(0)}] != want.String() {
		t.Errorf("stored: %v, want %v among them", got, want)
	}
	// Float and histogram at one timestamp differ; the same histogram again does not.
	if got := mustAppend(t, s, b); len(got) != 0 {
		t.Errorf("the same again is refused: %+v", got)
	}
	last := b.Series[0].Samples[len(b.Series[0].Samples)-1].T
	if got := mustAppend(t, s, batch(floats(name("h"), float64(last), 1))); len(got) != 1 || got[0].Reason != series.Conflict {
		t.Errorf("a float over a histogram: %+v", got)
	}
}

// Senders mark a series stale with a float, whatever it holds. The same marker again, as
// after a lost answer, is a duplicate and no conflict.
func TestRepeatedStaleMarker(t *testing.T) {
	marker := math.Float64frombits(value.StaleNaN)
	for kind, first := range map[string]series.Sample{
		"floats":           {T: at(0), V: 1},
		"histograms":       {T: at(0), H: tsdbutil.GenerateTestHistogram(1)},
		"float histograms": {T: at(0), FH: tsdbutil.GenerateTestFloatHistogram(1)},
	} {
		t.Run(kind, func(t *testing.T) {
			s := mustOpen(t, testOptions(t.TempDir()), hooks{})
			one := func(p series.Sample) *series.Batch {
				return batch(series.Series{Labels: name("m"), Samples: []series.Sample{p}})
			}
			stale := series.Sample{T: at(time.Minute), V: marker}
			for i, p := range []series.Sample{first, stale, stale} {
				if refused := mustAppend(t, s, one(p)); len(refused) > 0 {
					t.Errorf("sample %d: %+v", i, refused)
				}
			}
			// At the time of another value the marker does conflict.
			if refused := mustAppend(t, s, one(series.Sample{T: at(time.Minute), V: 7})); len(refused) != 1 || refused[0].Reason != series.Conflict {
				t.Errorf("a value at the time of the marker: %+v, want a conflict", refused)
			}
		})
	}
}

// TestRepeatedMarkerBehindHistogram: a stale marker that was stored as a float is recognised
// although its series got an older histogram in the same batch, which has the TSDB make a
// histogram of the marker.
func TestRepeatedMarkerBehindHistogram(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	marker := floats(name("a"), float64(at(time.Minute)), math.Float64frombits(value.StaleNaN))
	older := series.Series{Labels: name("a"), Samples: []series.Sample{{T: at(0), H: tsdbutil.GenerateTestHistogram(1)}}}
	for range 3 {
		for _, r := range mustAppend(t, s, batch(marker, older, marker)) {
			t.Errorf("refused: %+v", r)
		}
	}
	other := floats(name("a"), float64(at(time.Minute)), 1)
	if refused := mustAppend(t, s, batch(older, other)); len(refused) != 1 || refused[0].Reason != series.Conflict {
		t.Errorf("another value for the marker's time: refused %+v", refused)
	}
	got := read(t, s)
	if len(got) != 2 {
		t.Errorf("stored: %v", got)
	}
}

func TestExemplars(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	ex := func(id string, ts int64, v float64) exemplar.Exemplar {
		return exemplar.Exemplar{Labels: labels.FromStrings("id", id), Ts: ts, HasTs: true, Value: v}
	}
	long := ex(strings.Repeat("x", 200), at(0), 1)
	b := batch(
		floats(name("a"), float64(at(0)), 1),
		// Prometheus sends exemplars in entries of their own.
		series.Series{Labels: name("a"), Exemplars: []exemplar.Exemplar{ex("1", at(0), 1), long, ex("2", at(time.Millisecond), 2)}},
		series.Series{Labels: name("unknown"), Exemplars: []exemplar.Exemplar{ex("3", at(0), 1)}},
		series.Series{Labels: name("a"), Exemplars: []exemplar.Exemplar{ex("4", at(time.Hour), 1)}},
	)
	for range 2 { // duplicates are a success
		var got []string
		for _, r := range mustAppend(t, s, b) {
			if !r.Exemplar || r.Reason != series.Invalid {
				t.Errorf("not an invalid exemplar: %+v", r)
			}
			got = append(got, fmt.Sprintf("%d/%d", r.Series, r.Item))
		}
		if want := "1/1 2/0 3/0"; strings.Join(got, " ") != want {
			t.Fatalf("refused %v, want %s", got, want)
		}
	}
	q, err := s.ExemplarQuerier(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	res, err := q.Select(0, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "a")})
	if err != nil || len(res) != 1 || len(res[0].Exemplars) != 2 {
		t.Errorf("stored exemplars: %+v, %v", res, err)
	}
}

func TestAppendCounts(t *testing.T) {
	o := testOptions(t.TempDir())
	reg := prometheus.NewRegistry()
	o.Registerer = reg
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(
		floats(name("a"), float64(at(0)), 1, float64(at(time.Hour)), 1),
		series.Series{Labels: name("h"), Samples: []series.Sample{{T: at(0), H: tsdbutil.GenerateTestHistogram(1)}}},
	))
	mfs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, mf := range mfs {
		for _, m := range mf.GetMetric() {
			key := mf.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for key, want := range map[string]float64{
		"starling_storage_appended_total float":      1,
		"starling_storage_appended_total histogram":  1,
		"starling_storage_refusals_total invalid":    1,
		"starling_storage_refusals_total conflict":   0,
		"starling_storage_wal_sync_duration_seconds": 1,
		"starling_storage_fenced failure":            0,
		"starling_storage_fenced disk_full":          0,
		"starling_storage_reopenings_total":          0,
		"prometheus_tsdb_head_series":                2,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s = %v, want %v", key, v, want)
		}
	}
}

func TestCancelledAppend(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Append(ctx, batch(floats(name("a"), float64(at(0)), 1))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestMovedSeriesIsNoticed(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	b := batch(floats(name("a"), float64(at(0)), 1))
	mustAppend(t, s, b)
	w := &write{batch: b, taken: span{lowest, at(0)}, refs: []promstorage.SeriesRef{1 << 40}}
	app := s.db.AppenderV2(context.Background())
	defer func() { _ = app.Rollback() }()
	if err := w.samples(app); !errors.Is(err, errSeriesMoved) {
		t.Errorf("got %v", err)
	}
}
