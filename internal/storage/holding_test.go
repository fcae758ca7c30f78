package storage

import (
	"math"
	"testing"
	"time"
)

func TestHolding(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	empty, err := s.Holding()
	if err != nil || empty.Series != 0 || empty.Oldest != math.MaxInt64 {
		t.Fatalf("an empty store: %+v, %v", empty, err)
	}
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1), floats(name("b"), float64(at(0)), 1)))
	head, err := s.Holding()
	if err != nil || head.Series != 2 || head.Oldest != at(0) || head.Bytes <= empty.Bytes {
		t.Errorf("two series: %+v, %v; empty it was %+v", head, err, empty)
	}
	mustAppend(t, s, batch(floats(name("a"), float64(at(-time.Hour)), 1)))
	if h, err := s.Holding(); err != nil || h.Oldest != at(-time.Hour) {
		t.Errorf("with an older sample: %+v, %v", h, err)
	}
	if err := s.Import(t.Context(), batch(floats(name("a"), float64(at(-100*time.Hour)), 1))); err != nil {
		t.Fatal(err)
	}
	if h, err := s.Holding(); err != nil || h.Oldest > at(-100*time.Hour) || h.Bytes <= head.Bytes {
		t.Errorf("with a block: %+v, %v; without it was %+v", h, err, head)
	}
}

// Each block has its time, and what is in memory.
func TestExtents(t *testing.T) {
	from := giver(t, 2*time.Hour)
	s := mustOpen(t, importOptions(t.TempDir()), hooks{})
	mustAppend(t, s, batch(sampleAt(name("live"), at(-time.Minute)), sampleAt(name("live"), at(0))))
	for h := time.Duration(-11); h < -9; h++ {
		mustImport(t, s, from, at(h*time.Hour), at((h+1)*time.Hour))
	}
	h, err := s.Holding()
	if err != nil || len(h.Extents) != 3 {
		t.Fatalf("%+v, %v", h, err)
	}
	bytes := uint64(0)
	for i, e := range h.Extents {
		bytes += e.Bytes
		want := Extent{Min: at(-time.Minute), Max: at(0), Bytes: e.Bytes}
		if i > 0 {
			want.Min, want.Max = at(time.Duration(-12+i)*time.Hour), at(time.Duration(-11+i)*time.Hour)-1
		}
		if e != want || e.Bytes == 0 {
			t.Errorf("extent %d is %+v, want %+v", i, e, want)
		}
	}
	if bytes != h.Bytes {
		t.Errorf("%d bytes, and %d in all extents", h.Bytes, bytes)
	}
}
