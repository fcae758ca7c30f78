package storage

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
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

// TestCompactionWaitsForAppends has an append begin while its sample is new and end when the
// head's first block is due, which the sample belongs to.
func TestCompactionWaitsForAppends(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(filepath.Join(dir, "data"))
		o.MinBlockDuration = time.Hour
		o.MaxFuture = 10 * time.Hour
		s := mustOpen(t, o, hooks{})
		s.db.DisableCompactions()
		mustAppend(t, s, batch(sampleAt(name("a"), at(0), at(30*time.Minute))))
		mustAppend(t, s, batch(sampleAt(name("b"), at(0))))

		if err := s.commits.take(t.Context(), s.fence); err != nil {
			t.Fatal(err)
		}
		appended, compacted := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := s.Append(t.Context(), batch(sampleAt(name("b"), at(31*time.Minute))))
			appended <- err
		}()
		synctest.Wait()
		app := s.db.Appender(t.Context())
		if _, err := app.Append(0, name("a"), at(200*time.Minute), 1); err != nil {
			t.Fatal(err)
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		go func() { compacted <- s.db.Compact(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-compacted:
			t.Errorf("the head was compacted while an append to it was under way: %v, %d blocks", err, len(s.db.Blocks()))
			compacted <- err
		default:
		}
		s.commits.give()
		for _, ended := range []chan error{appended, compacted} {
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
		if len(s.db.Blocks()) == 0 {
			t.Error("no block was cut")
		}
		want := read(t, s)
		if len(want) != 5 {
			t.Errorf("%d samples, want 5", len(want))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := read(t, mustOpen(t, o, hooks{})); !maps.Equal(got, want) {
			t.Errorf("%d samples after a restart, want %d", len(got), len(want))
		}
	})
}
