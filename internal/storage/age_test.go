package storage

import (
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/series"
)

// age is how old a sample may be in a head that is empty: the window and a block, both 2 h.
const age = 4 * time.Hour

func sampleAt(ls labels.Labels, ts ...int64) series.Series {
	sr := series.Series{Labels: ls}
	for _, t := range ts {
		sr.Samples = append(sr.Samples, series.Sample{T: t, V: 1})
	}
	return sr
}

// wantTooOld checks that the refusals are those of the samples with the given indexes in the
// batch's first series, for their age.
func wantTooOld(t *testing.T, got []series.Refusal, items ...int) {
	t.Helper()
	if len(got) != len(items) {
		t.Errorf("refused %+v, want the samples %v", got, items)
		return
	}
	for i, r := range got {
		if r.Series != 0 || r.Item != items[i] || r.Reason != series.Invalid || !strings.Contains(r.Message, promstorage.ErrTooOldSample.Error()) {
			t.Errorf("%+v, want sample %d refused as too old", r, items[i])
		}
	}
}

// A sample from near the beginning of time makes the TSDB's arithmetic overflow if it is
// the first: it refuses everything from then on.
func TestAncientSampleDoesNotPoisonAnEmptyHead(t *testing.T) {
	for _, ancient := range []int64{
		math.MinInt64, math.MinInt64 + 1, math.MinInt64 + time.Hour.Milliseconds(),
		math.MinInt64 / 2, -1, 0, at(-age) - 1,
	} {
		s := mustOpen(t, testOptions(t.TempDir()), hooks{})
		wantTooOld(t, mustAppend(t, s, batch(sampleAt(name("old"), ancient))), 0)
		wantTooOld(t, mustAppend(t, s, batch(sampleAt(name("mixed"), ancient, at(0)))), 0)
		if got := mustAppend(t, s, batch(sampleAt(name("new"), at(0), at(-time.Hour)))); len(got) != 0 {
			t.Errorf("after a sample at %d, normal ones are refused: %+v", ancient, got)
		}
		// The head answers the same when it is not empty any more.
		wantTooOld(t, mustAppend(t, s, batch(sampleAt(name("old"), ancient))), 0)
		if got := read(t, s); len(got) != 3 {
			t.Errorf("stored: %v", got)
		}
	}
}

func TestAgeInAnEmptyHead(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	// The whole batch is judged alike, though its first sample makes the head non-empty.
	wantTooOld(t, mustAppend(t, s, batch(sampleAt(name("a"), at(-age), at(-age)-1))), 1)
	if got := mustAppend(t, s, batch(sampleAt(name("a"), at(0)))); len(got) != 0 {
		t.Errorf("a normal sample after the oldest that is taken: %+v", got)
	}
}

// A head is empty, too, after a restart long after the last write: the clock judges as well.
func TestAgeInAnEmptyHeadBehindBlocks(t *testing.T) {
	o := testOptions(t.TempDir())
	stored := at(-24 * time.Hour)
	_, err := tsdb.CreateBlock([]promstorage.Series{
		promstorage.NewListSeries(name("a"), chunks.GenerateSamples(int(stored), 1)),
	}, o.Dir, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o, hooks{})
	wantTooOld(t, mustAppend(t, s, batch(sampleAt(name("a"), math.MinInt64, stored+1, at(0)))), 0, 1)
	if got := read(t, s); len(got) != 2 {
		t.Errorf("stored: %v", got)
	}
}

// Who sets the window to decades may write samples of 1970, at whatever time it is.
func TestWideWindowTakes1970(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, now := range []time.Time{start, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)} {
		for _, window := range []time.Duration{90 * year, math.MaxInt64} {
			o := testOptions(t.TempDir())
			o.OutOfOrderWindow = window
			o.MinBlockDuration = 24 * time.Hour
			o.MaxFuture = math.MaxInt64 / 2
			o.RetentionTime = 99 * year
			o.Now = func() time.Time { return now }
			s := mustOpen(t, o, hooks{})
			if got := mustAppend(t, s, batch(sampleAt(name("a"), 0, at(0), 1))); len(got) != 0 {
				t.Errorf("at %s with a window of %s: %+v", now, window, got)
			}
			wantTooOld(t, mustAppend(t, s, batch(sampleAt(name("a"), math.MinInt64))), 0)
		}
	}
}

func TestAncientExemplarIsRefused(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	mustAppend(t, s, batch(sampleAt(name("a"), at(0))))
	got := mustAppend(t, s, batch(series.Series{Labels: name("a"), Exemplars: []exemplar.Exemplar{
		{Labels: labels.FromStrings("id", "1"), Ts: math.MinInt64, HasTs: true},
	}}))
	if len(got) != 1 || !got[0].Exemplar || got[0].Reason != series.Invalid {
		t.Errorf("refused %+v, want the exemplar", got)
	}
}
