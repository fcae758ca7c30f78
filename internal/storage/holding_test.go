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
