package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/statefile"
)

var (
	_ raft.LogStore    = (*patientStore)(nil)
	_ raft.StableStore = (*patientStore)(nil)
)

// TestLogKeepsWhatFollowsASnapshot: from a log that says it is monotonic, Raft deletes all
// entries when it installs a snapshot, also those after it, which may be committed.
func TestLogKeepsWhatFollowsASnapshot(t *testing.T) {
	if _, ok := any(&patientStore{}).(raft.MonotonicLogStore); ok {
		t.Error("the log store is a raft.MonotonicLogStore")
	}
}

func noSnapshot() (index, term uint64, err error) { return 0, 0, nil }

// Random appends and truncations at both ends, reopened at random: the store holds what a
// plain slice holds.
func TestLogStore(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s, err := openLogStore(dir, noSnapshot)
		if err != nil {
			t.Fatal(err)
		}
		first, last := uint64(1), uint64(0)
		durable := uint64(0) // the last entry on disk: a truncation waits for what replaces it
		terms := map[uint64]uint64{}
		for step := range 60 {
			switch rng.IntN(5) {
			case 0, 1:
				var logs []*raft.Log
				for range 1 + rng.IntN(3) {
					last++
					terms[last] = rng.Uint64N(100)
					logs = append(logs, &raft.Log{Index: last, Term: terms[last], Data: []byte(fmt.Sprint(last))})
				}
				err = s.StoreLogs(logs)
				durable = last
			case 2: // as when another leader's entries replace these
				if last >= first {
					from := first + rng.Uint64N(last-first+1)
					err = s.DeleteRange(from, last)
					last = from - 1
				}
			case 3: // as after a snapshot, which leaves some
				if last > first {
					to := first + rng.Uint64N(last-first)
					err = s.DeleteRange(first, to)
					first, durable = to+1, last
				}
			default:
				s, err = openLogStore(dir, noSnapshot)
				last = durable
			}
			if err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
			checkLog(t, s, first, last, terms)
		}
	}
}

func checkLog(t *testing.T, s *logStore, first, last uint64, terms map[uint64]uint64) {
	t.Helper()
	gotFirst, _ := s.FirstIndex()
	gotLast, _ := s.LastIndex()
	if last < first {
		first, last = 0, 0
	}
	if gotFirst != first || gotLast != last {
		t.Fatalf("log from %d to %d, want %d to %d", gotFirst, gotLast, first, last)
	}
	var l raft.Log
	for i := first; i <= last && i > 0; i++ {
		if err := s.GetLog(i, &l); err != nil || l.Index != i || l.Term != terms[i] || string(l.Data) != fmt.Sprint(i) {
			t.Fatalf("entry %d: %+v, %v", i, l, err)
		}
	}
	for _, beyond := range []uint64{0, last + 1} {
		if err := s.GetLog(beyond, &l); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("entry %d: %v, want none", beyond, err)
		}
	}
}

// TestLogGivesWayToASnapshot: Raft installs a snapshot and leaves the log as it is, so
// that a crash after it cannot lose entries that the snapshot does not hold.
func TestLogGivesWayToASnapshot(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, last uint64 // in the log, in term 1
		snapTerm    uint64 // the snapshot ends at entry 10
		reopened    uint64 // the last entry after a restart
	}{
		{"ends before it", 1, 8, 1, 0},
		{"ends with it", 1, 10, 1, 10},
		{"goes on after it", 5, 12, 1, 12},
		{"begins after it", 11, 12, 1, 12},
		{"is another history", 5, 12, 2, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			open := func() *raftStore {
				s, err := openRaftStore(filepath.Join(dir, raftDir), hclog.NewNullLogger())
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := open()
			for i := c.first; i <= c.last; i++ {
				if err := s.log.StoreLog(&raft.Log{Index: i, Term: 1}); err != nil {
					t.Fatal(err)
				}
			}
			sink, err := s.snaps.Create(1, 10, c.snapTerm, raft.Configuration{}, 1, nil)
			if err == nil {
				err = sink.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			// What follows is stored without a restart in between, and with one.
			next := max(c.last, 10) + 1
			if err := s.log.StoreLog(&raft.Log{Index: next + 1, Term: 2}); !errors.Is(err, errNoGap) {
				t.Errorf("entry %d: %v, want it refused for the gap", next+1, err)
			}
			reopened := open()
			if err := s.log.StoreLog(&raft.Log{Index: next, Term: 2}); err != nil {
				t.Errorf("entry %d: %v", next, err)
			}
			if last, err := reopened.log.LastIndex(); err != nil || last != c.reopened {
				t.Errorf("the log ends at %d after a restart, %v; want %d", last, err, c.reopened)
			}
			if err := reopened.log.StoreLog(&raft.Log{Index: max(c.reopened, 10) + 1, Term: 2}); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}

func TestLogStoreHasNoGaps(t *testing.T) {
	s, err := openLogStore(t.TempDir(), noSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	// A log may begin anywhere, as after a snapshot.
	if err := s.StoreLogs([]*raft.Log{{Index: 7}, {Index: 8}, {Index: 9}}); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLog(&raft.Log{Index: 11}); !errors.Is(err, errNoGap) {
		t.Errorf("entry 11 after 9: %v", err)
	}
	if err := s.DeleteRange(8, 8); !errors.Is(err, errNoGap) {
		t.Errorf("entry 8 out of the middle: %v", err)
	}
}

func TestStableStore(t *testing.T) {
	dir := t.TempDir()
	s, err := openLogStore(dir, noSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SetUint64([]byte("term"), 1<<63), s.Set([]byte("vote"), []byte("a"))); err != nil {
		t.Fatal(err)
	}
	if s, err = openLogStore(dir, noSnapshot); err != nil {
		t.Fatal(err)
	}
	if v, err := s.GetUint64([]byte("term")); err != nil || v != 1<<63 {
		t.Errorf("term %d, %v", v, err)
	}
	if v, err := s.Get([]byte("vote")); err != nil || string(v) != "a" {
		t.Errorf("vote %q, %v", v, err)
	}
	if v, err := s.GetUint64([]byte("none")); err != nil || v != 0 {
		t.Errorf("a number that was never set: %d, %v", v, err)
	}
	if v, err := s.Get([]byte("none")); err != nil || v != nil {
		t.Errorf("a key that was never set: %q, %v", v, err)
	}
}

// TestLogWithAHoleEndsTheStart: Raft panics over a log that begins too late, and the node
// must not try again and again.
func TestLogWithAHoleEndsTheStart(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.start("n", ip(1), nil)
		w.eventually(time.Minute, "a table", func() bool { return n.c.Table() != nil })
		n.stop()
		var data logData
		dir := filepath.Join(w.dirs["n"], raftDir)
		if err := statefile.Load(dir, logFile, &data); err != nil {
			w.Fatal(err)
		}
		data.Entries = data.Entries[1:]
		if err := statefile.Save(dir, logFile, data); err != nil {
			w.Fatal(err)
		}
		n = w.start("n", ip(1), nil)
		<-n.done
		if !errors.Is(n.err, statefile.ErrDamaged) {
			w.Errorf("run: %v", n.err)
		}
		n.err = nil
	})
}
