package storage

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/damage"
)

// TestMendBlock breaks a block beneath an open store, takes it out of service, imports what
// a whole store holds of its time, and drops the note, step by step.
func TestMendBlock(t *testing.T) {
	sp := newSpecimen(t, true)
	_, whole := running(t, sp)
	o, s := running(t, sp)
	block := s.db.Blocks()[0]
	meta := block.Meta()
	flipAll(t, glob(t, filepath.Join(block.Dir(), "chunks", "*"))[0], 8)
	if err := s.damage.ScrubOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := s.Damage()[0]
	for range 2 { // the second time there is nothing to do
		if err := s.Isolate(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	glob(t, filepath.Join(o.Dir, damage.Dir, meta.ULID.String()+"-*", "meta.json"))
	if s.compactor.loaded(meta.ULID) {
		t.Fatal("the damaged block is in service")
	}
	q, err := whole.ChunkQuerier(meta.MinTime, meta.MaxTime-1)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	all := q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	if n, err := s.ImportBlock(t.Context(), meta.MinTime, meta.MaxTime, all); err != nil || n == 0 {
		t.Fatalf("%d samples, %v", n, err)
	}
	findings := s.Findings()
	middle := (meta.MinTime + meta.MaxTime) / 2
	if err := s.Mended(r, middle, findings); err != nil {
		t.Fatal(err)
	}
	if _, err := chunksOf(s, meta.MinTime, middle-1); err != nil {
		t.Errorf("a read of what is mended: %v", err)
	}
	if _, err := chunksOf(s, middle, middle); !errors.Is(err, ErrDamaged) {
		t.Errorf("a read of what is not: %v", err)
	}
	rest := s.Damage()[0]
	if err := s.NoteDamage(damage.Range{MinTime: 1, MaxTime: 2, Kind: damage.WBL, Name: "wbl/00000000"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Mended(rest, meta.MaxTime, findings); !errors.Is(err, damage.ErrFoundMore) || len(s.Damage()) != 2 {
		t.Errorf("after another finding: %v, damage %v", err, s.Damage())
	}
	for _, r := range s.Damage() {
		if err := s.Mended(r, math.MaxInt64, s.Findings()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // in the second store it has to be on disk
		if rs := s.Damage(); len(rs) > 0 {
			t.Errorf("damage after all was made good: %v", rs)
		}
		sp.compare(t, s, read(t, s))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, o, hooks{})
	}
}

// TestIsolateHeadChunks has the storage open itself again, once.
func TestIsolateHeadChunks(t *testing.T) {
	sp := newSpecimen(t, true)
	synctest.Test(t, func(t *testing.T) {
		o, s := running(t, sp)
		for _, f := range glob(t, filepath.Join(o.Dir, "chunks_head", "*")) {
			flipAll(t, f, 8)
		}
		if _, err := chunksOf(s, math.MinInt64, math.MaxInt64); err == nil {
			t.Fatal("broken head chunks were read")
		}
		r := s.Damage()[0]
		if err := s.Isolate(t.Context(), r); !errors.Is(err, ErrFenced) {
			t.Fatalf("isolate: %v", err)
		}
		time.Sleep(2 * firstPause)
		synctest.Wait()
		if rs := s.Damage(); len(rs) > 0 {
			t.Errorf("damage after the storage was opened again: %v", rs)
		}
		sp.compare(t, s, read(t, s))
		if err := s.Isolate(context.Background(), r); err != nil {
			t.Errorf("once more: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
