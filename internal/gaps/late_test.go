package gaps

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

func mustNoteLate(t *testing.T, b *Book, peer table.NodeID, since int64) (ticket uint64) {
	t.Helper()
	ticket, err := b.NoteLate(t.Context(), peer, since)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

// late tries something on a book that has one late note for p, of 5 h.
func late(t *testing.T, try func(t *testing.T, b *Book, dir string, ticket uint64)) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "gaps")
		b := mustOpen(t, dir)
		try(t, b, dir, mustNoteLate(t, b, "p", 5*hour))
	})
}

var (
	none     = []proof.Gap{}
	firmGap  = []proof.Gap{{Peer: "p", Since: 5*hour - slack.Milliseconds()}}
	lateGap  = []proof.Gap{{Peer: "p", Since: 5*hour - slack.Milliseconds(), Late: true}}
	gapTimes = []int64{5*hour - 1, 5 * hour, 6 * hour}
)

// firm checks that a gap is as any other.
func firm(t *testing.T, b *Book) {
	t.Helper()
	want(t, "noted", b.Noted(), firmGap)
	want(t, "open", b.Open(), firmGap)
	want(t, "offered", b.Offered(), firmGap)
}

// A late note counts for queries, and nobody may rely on it but who asked for it.
func TestLateNoteIsNoOffer(t *testing.T) {
	late(t, func(t *testing.T, b *Book, dir string, _ uint64) {
		want(t, "noted", b.Noted(), lateGap)
		want(t, "open", b.Open(), none)
		want(t, "offered", b.Offered(), none)
		if _, _, open := b.Begin("p", 0); open {
			t.Error("a gap is handed off that may vanish")
		}
		firm(t, mustOpen(t, dir))
	})
}

// A gap vanishes with the last of its notes, and from the disk a little later.
func TestLateNotesAreWithdrawn(t *testing.T) {
	late(t, func(t *testing.T, b *Book, dir string, first uint64) {
		var tickets []uint64
		for _, since := range gapTimes {
			tickets = append(tickets, mustNoteLate(t, b, "p", since))
		}
		for _, ticket := range append(tickets, first+99, 0, tickets[0]) {
			b.Withdraw("p", ticket)
			b.Withdraw("q", ticket)
			want(t, "noted", b.Noted(), lateGap)
		}
		b.Withdraw("p", mustNoteLate(t, b, "p", 5*hour))
		want(t, "noted", b.Noted(), lateGap)
		b.Withdraw("p", first)
		want(t, "withdrawn", b.Noted(), none)
		time.Sleep(linger / 2)
		again := mustNoteLate(t, b, "p", 5*hour)
		want(t, "noted again", b.Noted(), lateGap)
		b.Withdraw("p", first)
		want(t, "withdrawn by an old ticket", b.Noted(), lateGap)
		b.Withdraw("p", again)
		firm(t, mustOpen(t, dir))
		time.Sleep(linger + 1)
		want(t, "on disk", mustOpen(t, dir).Noted(), none)
		b.Withdraw("p", again)
		mustNote(t, b, "p", 5*hour)
		firm(t, b)
	})
}

// A note that comes as the file is about to be removed keeps it.
func TestLateNoteBeforeTheFileGoes(t *testing.T) {
	late(t, func(t *testing.T, b *Book, dir string, ticket uint64) {
		b.Withdraw("p", ticket)
		b.writing <- struct{}{}
		go func() { mustNoteLate(t, b, "p", 5*hour) }()
		time.Sleep(linger + 1)
		b.unlockFile()
		synctest.Wait()
		want(t, "noted", b.Noted(), lateGap)
		firm(t, mustOpen(t, dir))
	})
}

// Whatever makes a gap firm, no ticket of before closes it.
func TestLateNoteBecomesFirm(t *testing.T) {
	for name, happens := range map[string]func(t *testing.T, b *Book, dir string, ticket uint64) *Book{
		"nothing": func(_ *testing.T, b *Book, _ string, _ uint64) *Book {
			time.Sleep(lateness + 1)
			return b
		},
		"another note": func(t *testing.T, b *Book, _ string, _ uint64) *Book {
			mustNote(t, b, "p", 6*hour)
			return b
		},
		"another note, while it lingers": func(t *testing.T, b *Book, _ string, ticket uint64) *Book {
			b.Withdraw("p", ticket)
			mustNote(t, b, "p", 5*hour+1)
			return b
		},
		"one note of two is withdrawn": func(t *testing.T, b *Book, _ string, ticket uint64) *Book {
			time.Sleep(lateness / 2)
			mustNoteLate(t, b, "p", 6*hour)
			b.Withdraw("p", ticket)
			time.Sleep(lateness + 1)
			return b
		},
		"a restart": func(t *testing.T, b *Book, dir string, _ uint64) *Book {
			b.Close()
			return mustOpen(t, dir)
		},
		"the file was not removed": func(t *testing.T, b *Book, dir string, ticket uint64) *Book {
			b.Withdraw("p", ticket)
			failing(t, dir, func() { time.Sleep(linger + 1) })
			want(t, "noted, though it was withdrawn", b.Noted(), none)
			b.Withdraw("p", mustNoteLate(t, b, "p", 5*hour))
			want(t, "noted, though it was withdrawn again", b.Noted(), none)
			mustNote(t, b, "p", 5*hour)
			return b
		},
		"an earlier note cannot be saved": func(t *testing.T, b *Book, dir string, _ uint64) *Book {
			failing(t, dir, func() {
				if _, err := b.NoteLate(t.Context(), "p", hour); err == nil {
					t.Error("a note is answered that is not on disk")
				}
			})
			want(t, "offered, though it is late", b.Offered(), none)
			time.Sleep(lateness + 1)
			want(t, "offered, though nobody knows what is on disk", b.Offered(), none)
			mustNote(t, b, "p", 5*hour)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			late(t, func(t *testing.T, b *Book, dir string, ticket uint64) {
				b = happens(t, b, dir, ticket)
				firm(t, b)
				b.Withdraw("p", ticket)
				time.Sleep(2 * (lateness + linger))
				firm(t, b)
				if again := mustNoteLate(t, b, "p", 7*hour); again != 0 {
					t.Errorf("a note of a firm gap has the ticket %d", again)
				}
				firm(t, mustOpen(t, dir))
			})
		})
	}
}

// A late note for a hand-off that is under way keeps the gap open.
func TestLateNoteWhileHandingOff(t *testing.T) {
	b := mustOpen(t, t.TempDir())
	mustNote(t, b, "p", 5*hour)
	number, _, _ := b.Begin("p", 0)
	if ticket := mustNoteLate(t, b, "p", 5*hour+1); ticket != 0 {
		t.Errorf("it can be withdrawn by %d", ticket)
	}
	if since, open := mustAdvance(t, b, number, 9*hour); since != 5*hour+1 || !open {
		t.Errorf("the gap begins at %d, open %v: want it at what was missed", since, open)
	}
}

// A gap that lingers is used again, unless it begins long before what is late.
func TestLingeringGap(t *testing.T) {
	late(t, func(t *testing.T, b *Book, dir string, ticket uint64) {
		info := func() os.FileInfo {
			info, err := os.Stat(filepath.Join(dir, filePrefix+"p"))
			if err != nil {
				t.Fatal(err)
			}
			return info
		}
		before := info()
		for _, since := range []int64{5 * hour, 5*hour + drift.Milliseconds()} {
			b.Withdraw("p", ticket)
			ticket = mustNoteLate(t, b, "p", since)
			want(t, "noted", b.Noted(), lateGap)
		}
		if !os.SameFile(before, info()) {
			t.Error("it was saved again")
		}
		b.Withdraw("p", ticket)
		ticket = mustNoteLate(t, b, "p", 7*hour)
		want(t, "much later", b.Noted(), []proof.Gap{{Peer: "p", Since: 7*hour - slack.Milliseconds(), Late: true}})
		b.Withdraw("p", ticket)
		mustNoteLate(t, b, "p", 3*hour)
		want(t, "earlier", mustOpen(t, dir).Noted(), []proof.Gap{{Peer: "p", Since: 3*hour - slack.Milliseconds()}})
	})
}

// A late note of a peer that is no member any more goes, too.
func TestKeepOfLateNotes(t *testing.T) {
	late(t, func(t *testing.T, b *Book, dir string, ticket uint64) {
		b.Keep(func(table.NodeID) bool { return false })
		for _, again := range []*Book{b, mustOpen(t, dir)} {
			want(t, "noted", again.Noted(), none)
		}
		b.Withdraw("p", ticket)
		mustNoteLate(t, b, "p", 5*hour)
		time.Sleep(lateness + 1)
		firm(t, b)
	})
}

func TestLateMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		b, err := Open(Options{Dir: t.TempDir(), Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		mustNoteLate(t, b, "p", hour)
		mustNoteLate(t, b, "p", hour)
		if n := b.lateNotes()["p"]; n != 2 {
			t.Errorf("%d late notes, want 2", n)
		}
		for name, want := range map[string]int{"starling_gap_late_notes": 1, "starling_gaps_open": 0} {
			if n, err := testutil.GatherAndCount(registry, name); err != nil || n != want {
				t.Errorf("%s: %d series, %v; want %d", name, n, err, want)
			}
		}
		time.Sleep(lateness + 1)
		for name, want := range map[string]int{"starling_gap_late_notes": 0, "starling_gaps_open": 1} {
			if n, err := testutil.GatherAndCount(registry, name); err != nil || n != want {
				t.Errorf("late no more, %s: %d series, %v; want %d", name, n, err, want)
			}
		}
	})
}
