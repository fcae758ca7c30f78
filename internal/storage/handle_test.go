package storage

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

// byHandle is one sample of a series that a node remembers.
func byHandle(h *series.Handle, d time.Duration, v float64) *series.Batch {
	b := batch(floats(h.Labels, float64(at(d)), v))
	b.Series[0].Handle = h
	return b
}

// dropFromHead appends to another series and compacts until the head has dropped all others.
func dropFromHead(t *testing.T, s *Store) {
	t.Helper()
	for d := time.Duration(0); d <= 20*time.Minute; d += 10 * time.Second {
		mustAppend(t, s, batch(floats(name("other"), float64(at(d)), 1)))
	}
	if err := s.db.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := s.db.Head().NumSeries(); n != 1 {
		t.Fatalf("the head holds %d series, want the other one only", n)
	}
}

// TestHandleOutlivesItsSeries writes by a handle to a series that the head has dropped: it is
// made anew, in the log before its samples, and the handle is good again.
func TestHandleOutlivesItsSeries(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MinBlockDuration, o.OutOfOrderWindow, o.MaxFuture = time.Minute, 10*time.Minute, time.Hour
	s := mustOpen(t, o, hooks{})
	h := &series.Handle{Labels: name("a")}
	mustAppend(t, s, byHandle(h, 0, 1))
	mustAppend(t, s, byHandle(h, time.Second, 2))
	before := h.Stored()
	if before == 0 {
		t.Fatal("the handle remembers nothing")
	}
	dropFromHead(t, s)
	for i := range 2 {
		if got := mustAppend(t, s, byHandle(h, 20*time.Minute+time.Duration(i)*time.Second, 3)); len(got) > 0 {
			t.Fatalf("refused: %+v", got)
		}
	}
	if h.Stored() == before {
		t.Error("the handle remembers a series that is gone")
	}
	got := read(t, s)
	if want := 4 + 121; len(got) != want {
		t.Errorf("%d samples, want %d", len(got), want)
	}
	// What a killed process leaves. The TSDB syncs its blocks itself.
	crashed := testOptions(filepath.Join(t.TempDir(), "crashed"))
	if err := os.CopyFS(crashed.Dir, os.DirFS(o.Dir)); err != nil {
		t.Fatal(err)
	}
	if after := read(t, mustOpen(t, crashed, hooks{})); !maps.Equal(after, got) {
		t.Errorf("after a crash %d of %d samples are left", len(after), len(got))
	}
}

// TestHandleAndTheLimitOfSeries: a handle does not bring back a series that is one too many.
func TestHandleAndTheLimitOfSeries(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MinBlockDuration, o.OutOfOrderWindow, o.MaxFuture = time.Minute, 10*time.Minute, time.Hour
	o.MaxSeries = 2
	s := mustOpen(t, o, hooks{})
	h := &series.Handle{Labels: name("a")}
	mustAppend(t, s, byHandle(h, 0, 1))
	mustAppend(t, s, byHandle(h, time.Second, 1))
	dropFromHead(t, s)
	mustAppend(t, s, batch(floats(name("third"), float64(at(20*time.Minute)), 1)))
	wantLimit(t, mustAppend(t, s, byHandle(h, 20*time.Minute, 3)), [2]int{0, 0})
	if n := s.db.Head().NumSeries(); n != 2 {
		t.Errorf("%d series, the limit is 2", n)
	}
}

// TestHandleOfAnotherOpening: what a handle remembers of one opening of the logs may be
// another series in the next.
func TestHandleOfAnotherOpening(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	h := &series.Handle{Labels: name("a")}
	for i := range 2 {
		mustAppend(t, s, byHandle(h, time.Duration(i)*time.Second, 1))
	}
	next := mustOpen(t, testOptions(t.TempDir()), hooks{})
	next.opening = s.opening + 1
	mustAppend(t, next, batch(floats(name("b"), float64(at(0)), 7)))
	mustAppend(t, next, byHandle(h, time.Second, 8))
	got := read(t, next)
	for p, want := range map[point]string{{name("a").String(), at(time.Second)}: "8", {name("b").String(), at(0)}: "7"} {
		if got[p] != want {
			t.Errorf("%v is %q, want %s", p, got[p], want)
		}
	}
	if len(got) != 2 {
		t.Errorf("stored: %v", got)
	}
}

// TestIntern: labels of a series that is there are those of the head, and its reference is
// remembered.
func TestIntern(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	ls := labels.FromStrings("__name__", "a", "job", "b")
	mustAppend(t, s, batch(floats(ls, float64(at(0)), 1)))
	same := labels.FromStrings("__name__", "a", "job", "b")
	first, second := interned(s, same), interned(s, ls)
	if !labels.Equal(first.Labels, ls) || !sharesMemory(first.Labels, second.Labels) || sharesMemory(first.Labels, same) {
		t.Error("labels are not those of the head")
	}
	if ref, _ := s.recall(&write{}, first); ref == 0 {
		t.Error("the reference is not remembered")
	}
	// Who creates a series has not logged it yet.
	own := &claim{done: make(chan struct{})}
	s.creator.take(ls.Hash(), own)
	if ref, absent := s.recall(&write{}, interned(s, same)); ref != 0 || absent {
		t.Errorf("reference %d of a series that is being created is remembered, or that there is none: %t", ref, absent)
	}
	s.creator.release([]uint64{ls.Hash()}, own)
	other := name("other")
	h := interned(s, other)
	if _, absent := s.recall(&write{}, h); !sharesMemory(h.Labels, other) || !absent {
		t.Error("labels of no series are not left alone, or it is not remembered that there is none")
	}
	if _, absent := s.recall(&write{moved: true}, h); absent {
		t.Error("what was remembered before the head dropped a series counts afterwards")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if h := interned(s, same); !sharesMemory(h.Labels, same) || h.Stored() != 0 {
		t.Error("a closed store interns")
	}
}

// TestMadeSinceItWasAbsent: a handle knows that there was no series, and another makes it, with
// the value that creation takes or another, before the handle is used.
func TestMadeSinceItWasAbsent(t *testing.T) {
	for _, v := range []float64{0, 1} {
		s := mustOpen(t, testOptions(t.TempDir()), hooks{})
		handles := make([]*series.Handle, 3)
		for i := range handles {
			handles[i] = interned(s, name("a"))
		}
		for i, h := range handles {
			if i == 2 { // which brings no sample that would create the series
				ex := exemplar.Exemplar{Labels: labels.FromStrings("trace_id", "1"), Ts: at(0), HasTs: true, Value: 1}
				if out := mustAppend(t, s, batch(series.Series{Labels: h.Labels, Handle: h, Exemplars: []exemplar.Exemplar{ex}})); len(out) > 0 {
					t.Errorf("an exemplar of a series that another has made: %v", out)
				}
			} else {
				mustAppend(t, s, byHandle(h, 0, v))
			}
			if ref, _ := s.recall(&write{}, h); ref == 0 {
				t.Errorf("handle %d does not remember the series", i)
			}
		}
		if out, err := s.Append(t.Context(), byHandle(handles[1], 0, 2)); err != nil || len(out.Refusals) != 1 {
			t.Errorf("another value for the same time: %v, %v", out, err)
		}
		mustAppend(t, s, byHandle(handles[1], time.Second, 3))
		got := read(t, s)
		if len(got) != 2 || s.db.Head().NumSeries() != 1 {
			t.Errorf("stored: %v, in %d series", got, s.db.Head().NumSeries())
		}
	}
}

// interned returns a handle that a request has made of a series.
func interned(s *Store, ls labels.Labels) *series.Handle {
	interner := s.Interner()
	defer interner.Close()
	h := &series.Handle{Labels: ls}
	interner.Intern(h)
	return h
}

// sharesMemory tells whether two label sets are the same bytes in memory.
func sharesMemory(a, b labels.Labels) bool {
	first := func(ls labels.Labels) (p *byte) {
		ls.Range(func(l labels.Label) {
			if p == nil {
				p = unsafe.StringData(l.Name)
			}
		})
		return p
	}
	return first(a) == first(b)
}
