package storage

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/series"
)

// What a sender may no longer bring a peer may hand over, to series that are known and to
// new ones, and it stays: over a restart, and over a compaction into blocks.
func TestImportTakesAnyAge(t *testing.T) {
	o := testOptions(t.TempDir())
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(sampleAt(name("known"), at(0))))
	old := batch(
		sampleAt(name("known"), at(-40*time.Hour), at(-20*time.Hour), at(-time.Minute)),
		sampleAt(name("new"), at(-30*time.Hour), at(-40*time.Hour)),
		series.Series{Labels: name("histogram"), Samples: []series.Sample{
			{T: at(-30 * time.Hour), H: tsdbutil.GenerateTestHistogram(1)},
			{T: at(-29 * time.Hour), FH: tsdbutil.GenerateTestFloatHistogram(2)},
		}},
	)
	wantTooOld(t, mustAppend(t, s, batch(old.Series[0])), 0, 1)
	if err := s.Import(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	want := 8
	check := func(when string) {
		t.Helper()
		if got := read(t, s); len(got) != want {
			t.Errorf("%s: %d samples, want %d: %v", when, len(got), want, got)
		}
	}
	check("after the import")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o, hooks{})
	check("after a restart")
	if err := s.db.CompactOOOHead(context.Background()); err != nil {
		t.Fatal(err)
	}
	check("after a compaction")
	if metas, _ := s.BlockMetas(); len(metas) < 4 {
		t.Errorf("%d blocks, want one for each range of time that was imported", len(metas))
	}
	if err := s.Import(t.Context(), old); err != nil {
		t.Errorf("a second import: %v", err)
	}
	check("after a second import")
}

func TestImportKeepsWhatIsThere(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
	if err := s.Import(t.Context(), batch(floats(name("a"), float64(at(0)), 2))); err != nil {
		t.Error(err)
	}
}

func TestImportRefusesWhatCannotBeStored(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	malformed := &histogram.Histogram{Count: 1, PositiveBuckets: []int64{1}}
	if err := s.Import(t.Context(), batch(series.Series{Labels: name("h"), Samples: []series.Sample{{T: at(0), H: malformed}}})); err == nil {
		t.Error("a malformed histogram was imported")
	}
}

// What others have taken has to be stored, also past the limit of series.
func TestImportKnowsNoLimitOfSeries(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MaxSeries = 1
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(sampleAt(name("a"), at(0))))
	if err := s.Import(t.Context(), batch(sampleAt(name("b"), at(0)), sampleAt(name("c"), at(-time.Hour)))); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s); len(got) != 3 {
		t.Errorf("%v", got)
	}
}
