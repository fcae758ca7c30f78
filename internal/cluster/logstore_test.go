package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"
)

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// Random appends and truncations at both ends, reopened at random: the store holds what a
// plain slice holds.
func TestLogStore(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s, err := openLogStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		first, last := uint64(1), uint64(0)
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
			case 2: // as when another leader's entries replace these
				if last >= first {
					from := first + rng.Uint64N(last-first+1)
					err = s.DeleteRange(from, last)
					last = from - 1
				}
			case 3: // as after a snapshot
				if last >= first {
					to := first + rng.Uint64N(last-first+1)
					err = s.DeleteRange(first, to)
					first = to + 1
				}
			default:
				s, err = openLogStore(dir)
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

func TestLogStoreHasNoGaps(t *testing.T) {
	s, err := openLogStore(t.TempDir())
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
	s, err := openLogStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SetUint64([]byte("term"), 1<<63), s.Set([]byte("vote"), []byte("a"))); err != nil {
		t.Fatal(err)
	}
	if s, err = openLogStore(dir); err != nil {
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
