package gaps

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

const hour = int64(time.Hour / time.Millisecond)

func mustOpen(t *testing.T, dir string) *Book {
	t.Helper()
	b, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func mustNote(t *testing.T, b *Book, peer table.NodeID, since int64) {
	t.Helper()
	if err := b.Note(t.Context(), peer, since); err != nil {
		t.Fatal(err)
	}
}

func mustAdvance(t *testing.T, b *Book, number uint64, until int64) (int64, bool) {
	t.Helper()
	since, open, err := b.Advance(t.Context(), "p", number, until)
	if err != nil {
		t.Fatal(err)
	}
	return since, open
}

func want(t *testing.T, what string, got, want []proof.Gap) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestNoteIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gaps")
	b := mustOpen(t, dir)
	want(t, "a new book", b.Offered(), []proof.Gap{})
	mustNote(t, b, "p", 5*hour)
	first := 5*hour - slack.Milliseconds()
	want(t, "after a note", b.Offered(), []proof.Gap{{Peer: "p", Since: first}})
	mustNote(t, b, "p", 6*hour)
	want(t, "after a later one", b.Offered(), []proof.Gap{{Peer: "p", Since: first}})
	mustNote(t, b, "p", 4*hour)
	second := 4*hour - slack.Milliseconds()
	want(t, "after an earlier one", b.Offered(), []proof.Gap{{Peer: "p", Since: second}})
	for _, again := range []*Book{b, mustOpen(t, dir)} {
		want(t, "all", again.Open(), []proof.Gap{{Peer: "p", Since: second}})
		want(t, "offered", again.Offered(), again.Open())
	}
}

func TestNoteOfTheBeginningOfTime(t *testing.T) {
	b := mustOpen(t, t.TempDir())
	mustNote(t, b, "p", math.MinInt64+1)
	want(t, "no overflow", b.Open(), []proof.Gap{{Peer: "p", Since: math.MinInt64}})
}

// While a hand-off reads the store nothing is offered: who relies on a gap has to say so.
func TestHandOff(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir)
	if _, _, open := b.Begin("p", 0); open {
		t.Fatal("a hand-off began without a gap")
	}
	mustNote(t, b, "p", 5*hour)
	number, since, open := b.Begin("p", 0)
	if !open || since != 5*hour-slack.Milliseconds() {
		t.Fatalf("began at %d, open %v", since, open)
	}
	want(t, "offered in a hand-off", b.Offered(), []proof.Gap{})
	want(t, "still open", b.Open(), []proof.Gap{{Peer: "p", Since: since}})

	if since, open := mustAdvance(t, b, number, 6*hour); since != 6*hour || !open {
		t.Errorf("after the first window: since %d, open %v", since, open)
	}
	want(t, "on disk", mustOpen(t, dir).Open(), []proof.Gap{{Peer: "p", Since: 6 * hour}})

	// A write relies on the gap while the last window is on its way.
	first := number
	number, _, _ = b.Begin("p", number)
	if _, _, err := b.Advance(t.Context(), "p", first, math.MaxInt64); !errors.Is(err, ErrSession) {
		t.Errorf("the window before advanced: %v", err)
	}
	mustNote(t, b, "p", 7*hour)
	if since, open := mustAdvance(t, b, number, math.MaxInt64); since != 7*hour || !open {
		t.Errorf("after a miss: since %d, open %v", since, open)
	}
	number, _, _ = b.Begin("p", number)
	if _, open := mustAdvance(t, b, number, math.MaxInt64); open {
		t.Error("the gap is open though nothing was missed")
	}
	for _, again := range []*Book{b, mustOpen(t, dir)} {
		want(t, "after it closed", again.Open(), []proof.Gap{})
	}
	mustNote(t, b, "p", 8*hour)
	want(t, "a new gap", b.Offered(), b.Open())
}

func TestMissBeforeTheWindowEnds(t *testing.T) {
	b := mustOpen(t, t.TempDir())
	mustNote(t, b, "p", 5*hour)
	number, _, _ := b.Begin("p", 0)
	mustNote(t, b, "p", 5*hour+1)
	if since, _ := mustAdvance(t, b, number, 6*hour); since != 5*hour+1 {
		t.Errorf("the gap begins at %d, want at what was missed", since)
	}
}

func TestOldSessionsChangeNothing(t *testing.T) {
	b := mustOpen(t, t.TempDir())
	mustNote(t, b, "p", 5*hour)
	old, _, _ := b.Begin("p", 0)
	number, _, _ := b.Begin("p", 0)
	if old == number {
		t.Fatal("two hand-offs have one session")
	}
	if _, _, err := b.Advance(t.Context(), "p", old, math.MaxInt64); !errors.Is(err, ErrSession) {
		t.Errorf("an old session advanced: %v", err)
	}
	if err := b.Alive("p", old); !errors.Is(err, ErrSession) {
		t.Errorf("an old session is alive: %v", err)
	}
	if err := b.Alive("p", number); err != nil {
		t.Error(err)
	}
	if len(b.Open()) != 1 {
		t.Error("the gap was closed")
	}
}

func TestSilenceEndsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustOpen(t, t.TempDir())
		mustNote(t, b, "p", 5*hour)
		number, _, _ := b.Begin("p", 0)
		<-time.After(sessionTimeout - time.Second)
		if err := b.Alive("p", number); err != nil {
			t.Fatal(err)
		}
		<-time.After(sessionTimeout - time.Second)
		want(t, "in a session", b.Offered(), []proof.Gap{})
		<-time.After(2 * time.Second)
		want(t, "after it", b.Offered(), b.Open())
		if _, _, err := b.Advance(t.Context(), "p", number, math.MaxInt64); !errors.Is(err, ErrSession) {
			t.Errorf("a session that has timed out advanced: %v", err)
		}
	})
}

func TestNoteThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gaps")
	b := mustOpen(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := b.Note(t.Context(), "p", hour); err == nil {
		t.Error("a note without a file is no error")
	}
	want(t, "offered", b.Offered(), []proof.Gap{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.writing <- struct{}{}
	if err := b.Note(ctx, "p", hour); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the disk: %v", err)
	}
}

// A change that failed may lie on disk: what it says must not be relied on.
func TestFailedAdvance(t *testing.T) {
	for _, until := range []int64{6 * hour, math.MaxInt64} {
		dir := filepath.Join(t.TempDir(), "gaps")
		b := mustOpen(t, dir)
		mustNote(t, b, "p", 5*hour)
		before := b.Open()
		number, _, _ := b.Begin("p", 0)
		// The file is gone, and so is the directory that should be synced after that.
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Advance(t.Context(), "p", number, until); err == nil {
			t.Fatal("advanced without a directory")
		}
		b.Close()
		want(t, "open", b.Open(), before)
		if err := b.Note(t.Context(), "p", 5*hour); err == nil {
			t.Error("a note is answered that may not be on disk")
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		mustNote(t, b, "p", 7*hour)
		want(t, "on disk again", mustOpen(t, dir).Open(), before)
	}
}

// Whatever happens to a note, the gap does not become smaller.
func TestDamagedNote(t *testing.T) {
	dir := t.TempDir()
	mustNote(t, mustOpen(t, dir), "p", 5*hour)
	path := filepath.Join(dir, filePrefix+"p")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		flipped := slices.Clone(whole)
		flipped[i] ^= 0x20
		for what, content := range map[string][]byte{"flipped": flipped, "truncated": whole[:i]} {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
			b := mustOpen(t, dir)
			if got := b.Open(); len(got) != 1 || got[0].Peer != "p" || got[0].Since > 5*hour-slack.Milliseconds() {
				t.Fatalf("byte %d %s: %v", i, what, got)
			}
			if _, _, open := b.Begin("p", 0); !open {
				t.Fatalf("byte %d %s: no hand-off", i, what)
			}
		}
	}
}

func FuzzNote(f *testing.F) {
	dir := f.TempDir()
	b, err := Open(Options{Dir: dir})
	if err != nil {
		f.Fatal(err)
	}
	if err := b.Note(f.Context(), "p", hour); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, filePrefix+"p")
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("starling gap-p 1 crc32c=00000000\n{}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, filePrefix+"p"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := mustOpen(t, dir).Open(); len(got) != 1 || got[0].Peer != "p" {
			t.Fatalf("the gap became %v", got)
		}
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	b, err := Open(Options{Dir: t.TempDir(), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	mustNote(t, b, "p", 5*hour)
	if n, err := testutil.GatherAndCount(registry, "starling_gaps_open", "starling_gap_since_timestamp_seconds", "starling_gap_opened_timestamp_seconds"); err != nil || n != 3 {
		t.Errorf("%d series, error %v", n, err)
	}
}

// A note that is being saved while a window begins is seen by the one or the other: the window
// begins at the note, or the gap stays open there.
func TestNoteWhileAWindowBegins(t *testing.T) {
	b, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const early, late, end = 1_000_000_000, 2_000_000_000, 3_000_000_000
	for range 50 {
		if err := b.Note(t.Context(), "peer", late); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		var since, session = int64(0), uint64(0)
		both.Go(func() {
			if err := b.Note(t.Context(), "peer", early); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() { session, since, _ = b.Begin("peer", 0) })
		both.Wait()
		rest, open, err := b.Advance(t.Context(), "peer", session, end)
		if err != nil {
			t.Fatal(err)
		}
		if since > early && (!open || rest > early) {
			t.Fatalf("a window from %d misses the note of %d, and the gap now begins at %d", since, early, rest)
		}
		// Close the gap for the next round.
		for open {
			session, _, _ = b.Begin("peer", session)
			if _, open, err = b.Advance(t.Context(), "peer", session, 1<<63-1); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The note of a peer that is no member any more goes, from disk as well, whatever is under way.
func TestKeep(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, b *Book, dir string){
		"a gap":            func(*testing.T, *Book, string) {},
		"with a hand-off":  func(_ *testing.T, b *Book, _ string) { b.Begin("p", 0) },
		"the file is gone": func(_ *testing.T, _ *Book, dir string) { os.Remove(filepath.Join(dir, filePrefix+"p")) },
		"unsure": func(t *testing.T, b *Book, dir string) {
			failing(t, dir, func() {
				if err := b.Note(t.Context(), "p", 3*hour); err == nil {
					t.Fatal("a note is answered that is not on disk")
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "gaps")
				b := mustOpen(t, dir)
				mustNote(t, b, "p", 5*hour)
				mustNote(t, b, "q", 6*hour)
				prepare(t, b, dir)
				number, _, _ := b.Begin("p", 0)
				b.Keep(func(id table.NodeID) bool { return id != "p" })
				kept := []proof.Gap{{Peer: "q", Since: 6*hour - slack.Milliseconds()}}
				for _, again := range []*Book{b, mustOpen(t, dir)} {
					want(t, "open", again.Open(), kept)
					want(t, "offered", again.Offered(), kept)
				}
				if _, _, err := b.Advance(t.Context(), "p", number, math.MaxInt64); !errors.Is(err, ErrSession) {
					t.Errorf("the hand-off goes on: %v", err)
				}
				if _, _, open := b.Begin("p", number); open {
					t.Error("a hand-off begins without a gap")
				}

				// The peer may be a member again. What was noted before does not count then,
				// and the clock of the session that was dropped changes nothing.
				mustNote(t, b, "p", 7*hour)
				again := append([]proof.Gap{{Peer: "p", Since: 7*hour - slack.Milliseconds()}}, kept...)
				b.Begin("p", 0)
				<-time.After(sessionTimeout - time.Second)
				want(t, "offered in the new hand-off", b.Offered(), kept)
				<-time.After(2 * time.Second)
				for _, opened := range []*Book{b, mustOpen(t, dir)} {
					want(t, "noted again", opened.Offered(), again)
				}
			})
		})
	}
}

// failing runs f while the directory cannot be written.
func failing(t *testing.T, dir string, f func()) {
	t.Helper()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	f()
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
}

// A note that could not be dropped is not relied on, and dropped with the next table.
func TestKeepTriesAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gaps")
	b := mustOpen(t, dir)
	mustNote(t, b, "p", 5*hour)
	failing(t, dir, func() { b.Keep(func(table.NodeID) bool { return false }) })
	want(t, "offered", b.Offered(), []proof.Gap{})
	if n := len(b.Open()); n != 1 {
		t.Errorf("%d gaps are open, want the one that is on disk", n)
	}
	b.Keep(func(table.NodeID) bool { return false })
	for _, again := range []*Book{b, mustOpen(t, dir)} {
		want(t, "open", again.Open(), []proof.Gap{})
	}
}

// Whatever is under way for a peer when it is dropped: what holds afterwards is what lies on
// disk.
func TestKeepAmongOthers(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir)
	for range 50 {
		mustNote(t, b, "p", 5*hour)
		number, _, _ := b.Begin("p", 0)
		var all sync.WaitGroup
		all.Go(func() { b.Keep(func(table.NodeID) bool { return false }) })
		all.Go(func() {
			if err := b.Note(t.Context(), "p", hour); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if _, _, err := b.Advance(t.Context(), "p", number, 9*hour); err != nil && !errors.Is(err, ErrSession) {
				t.Error(err)
			}
		})
		all.Go(func() { b.Begin("p", 0) })
		all.Wait()
		want(t, "on disk", mustOpen(t, dir).Open(), b.Open())
	}
}
