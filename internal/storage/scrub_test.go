package storage

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/starling-tsdb/starling/internal/damage"
)

// chunksOf reads all chunks that overlap a range.
func chunksOf(s *Store, mint, maxt int64) (n int, err error) {
	q, err := s.ChunkQuerier(mint, maxt)
	if err != nil {
		return 0, err
	}
	defer q.Close()
	set := q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		it := set.At().Iterator(nil)
		for it.Next() {
			n++
		}
		if err := it.Err(); err != nil {
			return n, err
		}
	}
	return n, set.Err()
}

// flipAll changes a file in place, beneath those who have it mapped, from an offset on.
func flipAll(t *testing.T, path string, from int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := from; i < len(b); i++ {
		b[i] ^= 0xff
	}
	if _, err := f.WriteAt(b[from:], int64(from)); err != nil {
		t.Fatal(err)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	return files
}

// running opens a copy of a specimen without anything that changes it by itself.
func running(t *testing.T, sp *specimen) (Options, *Store) {
	t.Helper()
	o := damagedOptions(filepath.Join(t.TempDir(), "data"))
	if err := os.CopyFS(o.Dir, os.DirFS(sp.dir)); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o, hooks{})
	s.db.DisableCompactions()
	return o, s
}

// TestDamageWhileRunning breaks chunks of a block beneath an open store. The read that meets
// them, or the scrub, notes the block; the rest stays in service; the next start moves it
// away; and a block that is put back whole is in service again.
func TestDamageWhileRunning(t *testing.T) {
	sp := newSpecimen(t, true)
	for name, find := range map[string]func(s *Store) error{
		"read": func(s *Store) error {
			_, err := chunksOf(s, math.MinInt64, math.MaxInt64)
			if err == nil {
				return errors.New("broken chunks were read")
			}
			return nil
		},
		"scrub": func(s *Store) error { return s.damage.ScrubOnce(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			o, s := running(t, sp)
			block := s.db.Blocks()[0]
			meta := block.Meta()
			backup := filepath.Join(t.TempDir(), "backup")
			if err := os.CopyFS(backup, os.DirFS(block.Dir())); err != nil {
				t.Fatal(err)
			}
			flipAll(t, glob(t, filepath.Join(block.Dir(), "chunks", "*"))[0], 8)
			if err := find(s); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second store has moved it away
				rs := s.Damage()
				if len(rs) != 1 || rs[0].Kind != damage.Block || rs[0].Name != meta.ULID.String() || rs[0].MinTime != meta.MinTime || rs[0].MaxTime != meta.MaxTime-1 {
					t.Fatalf("damage %v, want that of %+v", rs, meta)
				}
				if _, err := chunksOf(s, meta.MinTime, meta.MinTime); !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "\n") {
					t.Errorf("a read of the block's time: %v", err)
				}
				if n, err := chunksOf(s, meta.MaxTime+1, math.MaxInt64); n == 0 || err != nil {
					t.Errorf("a read of another time: %d chunks, %v", n, err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = mustOpen(t, o, hooks{})
			}
			glob(t, filepath.Join(o.Dir, damage.Dir, meta.ULID.String()+"-*", "meta.json"))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(o.Dir, meta.ULID.String()), os.DirFS(backup)); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, o, hooks{})
			if rs := s.Damage(); len(rs) > 0 {
				t.Errorf("damage after the block was put back: %v", rs)
			}
			sp.compare(t, s, read(t, s))
		})
	}
}

// TestDamagedHeadChunks breaks the mapped chunks of the head beneath an open store. The TSDB
// panics when it reads them. The next start makes them anew from the logs.
func TestDamagedHeadChunks(t *testing.T) {
	sp := newSpecimen(t, true)
	o, s := running(t, sp)
	for _, f := range glob(t, filepath.Join(o.Dir, "chunks_head", "*")) {
		flipAll(t, f, 8)
	}
	if _, err := chunksOf(s, math.MinInt64, math.MaxInt64); err == nil {
		t.Fatal("broken head chunks were read")
	}
	rs := s.Damage()
	if len(rs) != 1 || rs[0].Kind != damage.HeadChunks || rs[0].MinTime > s.db.Head().MinTime() || rs[0].MaxTime < s.db.Head().MaxTime() {
		t.Fatalf("damage %v, want all of the head's, %d to %d", rs, s.db.Head().MinTime(), s.db.Head().MaxTime())
	}
	if _, err := chunksOf(s, at(7*time.Minute), at(8*time.Minute)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a read of the head: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o, hooks{})
	if rs := s.Damage(); len(rs) > 0 {
		t.Errorf("damage after a restart: %v", rs)
	}
	sp.compare(t, s, read(t, s))
}

// TestTornTailIsSuspect cuts the last record of a log short.
func TestTornTailIsSuspect(t *testing.T) {
	for _, tc := range []struct {
		mode SyncMode
		want bool
	}{{SyncCommit, true}, {SyncInterval, false}, {SyncOff, false}} {
		for _, log := range []string{"wal", "wbl"} {
			t.Run(string(tc.mode)+" "+log, func(t *testing.T) {
				o := testOptions(filepath.Join(t.TempDir(), "data"))
				o.WALSync = tc.mode
				s := mustOpen(t, o, hooks{})
				mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1.1)))
				mustAppend(t, s, batch(floats(name("a"), float64(at(-time.Minute)), 2.2)))
				after := o
				after.Dir = filepath.Join(t.TempDir(), "data")
				if err := os.CopyFS(after.Dir, os.DirFS(o.Dir)); err != nil {
					t.Fatal(err)
				}
				last := wlog.SegmentName(filepath.Join(after.Dir, log), 0)
				info, err := os.Stat(last)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(last, info.Size()-3); err != nil {
					t.Fatal(err)
				}
				s = mustOpen(t, after, hooks{})
				rs := s.Damage()
				if len(rs) != 1 || rs[0].Suspect != tc.want || string(rs[0].Kind) != log || !rs[0].Overlaps(at(0), at(0)) || !rs[0].Overlaps(at(-time.Minute), at(-time.Minute)) {
					t.Errorf("damage %+v", rs)
				}
				if _, err := chunksOf(s, at(0), at(0)); errors.Is(err, ErrDamaged) == tc.want {
					t.Errorf("a read: %v", err)
				}
			})
		}
	}
}

// TestLostSeriesNumbersAreNotUsedAgain takes away the record of a series whose samples are
// in the out-of-order log: the TSDB would give its number to the next new series.
func TestLostSeriesNumbersAreNotUsedAgain(t *testing.T) {
	o := testOptions(filepath.Join(t.TempDir(), "data"))
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(floats(name("first"), float64(at(0)), 1)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(floats(name("lost"), float64(at(0)), 1)))
	mustAppend(t, s, batch(floats(name("lost"), float64(at(-time.Minute)), 1)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(wlog.SegmentName(filepath.Join(o.Dir, "wal"), 1)); err != nil {
		t.Fatal(err)
	}
	for _, fresh := range []string{"fresh0", "fresh1"} {
		s = mustOpen(t, o, hooks{})
		mustAppend(t, s, batch(floats(name(fresh), float64(at(time.Second)), 1)))
		got, err := readRest(s)
		if err != nil {
			t.Fatal(err)
		}
		for p := range got {
			if strings.Contains(p.series, "fresh") && p.t != at(time.Second) {
				t.Errorf("%v was never written", p)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
