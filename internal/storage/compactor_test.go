package storage

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/series"
)

// A block of out-of-order samples that overlaps the head must not be merged with blocks of
// in-order samples: the result counts as in-order, and a replay of the log would begin at
// its end.
func TestCompactionLeavesTheReplayAlone(t *testing.T) {
	o := testOptions(filepath.Join(t.TempDir(), "data"))
	o.MinBlockDuration = time.Hour
	o.MaxFuture = 10 * time.Hour
	s := mustOpen(t, o, hooks{})
	s.db.DisableCompactions()
	sr := series.Series{Labels: name("a")}
	for m := range 200 { // blocks of 12 and 13 h, and a head from 14 h on
		sr.Samples = append(sr.Samples, series.Sample{T: at(time.Duration(m) * time.Minute), V: float64(m)})
	}
	mustAppend(t, s, batch(sr))
	mustAppend(t, s, batch(sampleAt(name("a"), at(125*time.Minute)+1, at(185*time.Minute)+1)))
	want := read(t, s)
	if err := s.db.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	after := o
	after.Dir = filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(after.Dir, os.DirFS(o.Dir)); err != nil { // as a kill leaves it
		t.Fatal(err)
	}
	if got := read(t, mustOpen(t, after, hooks{})); !maps.Equal(got, want) {
		t.Errorf("%d samples after a restart, want %d", len(got), len(want))
	}
}
