package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestAnotherDiskIsNotOpened puts something else at the path of a fenced store, as when its
// disk is unmounted while the process runs. Opened there, it would serve without what it
// confirmed.
func TestAnotherDiskIsNotOpened(t *testing.T) {
	for _, tc := range []struct {
		name  string
		mode  SyncMode
		says  string
		place func(t *testing.T, dir, older string)
	}{
		{"an empty directory", SyncCommit, "is the disk mounted?", func(t *testing.T, dir, _ string) { mustMkdir(t, dir) }},
		{"an empty directory, without syncs", SyncOff, "is the disk mounted?", func(t *testing.T, dir, _ string) { mustMkdir(t, dir) }},
		{"no directory", SyncCommit, "is the disk mounted?", func(*testing.T, string, string) {}},
		{"an older copy", SyncCommit, "an older copy of the disk?", mustCopy},
		{"another store", SyncCommit, "another disk, or an older copy?", func(t *testing.T, dir, _ string) {
			mustMkdir(t, filepath.Join(dir, "wal"))
			mustMkdir(t, filepath.Join(dir, "wbl"))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(filepath.Join(t.TempDir(), "data"))
				o.WALSync = tc.mode
				s := mustOpen(t, o, hooks{})
				mustAppend(t, s, one("a", 0))
				mustAppend(t, s, one("a", -time.Minute)) // out of order
				older := filepath.Join(t.TempDir(), "older")
				mustCopy(t, older, o.Dir)
				mustAppend(t, s, one("a", time.Second))

				_ = s.fence.raise(errors.New("read-only file system"))
				away := o.Dir + ".away"
				if err := os.Rename(o.Dir, away); err != nil {
					t.Fatal(err)
				}
				tc.place(t, o.Dir, older)
				time.Sleep(time.Minute)
				synctest.Wait()
				if err := s.Ready(); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("ready: %v, want %q", err, tc.says)
				}
				if _, err := s.Append(context.Background(), one("a", 2*time.Second)); !errors.Is(err, ErrFenced) {
					t.Errorf("append: %v", err)
				}
				if got := read(t, s); len(got) != 3 {
					t.Errorf("without its disk it reads %v", got)
				}

				if err := errors.Join(os.RemoveAll(o.Dir), os.Rename(away, o.Dir)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(lastPause + time.Second)
				synctest.Wait()
				if err := s.Ready(); err != nil {
					t.Errorf("ready with its disk: %v", err)
				}
				mustAppend(t, s, one("a", 2*time.Second))
				if got := read(t, s); len(got) != 4 {
					t.Errorf("stored: %v", got)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestMarkOfARemovedSegment: the TSDB removes segments, a fenced one too.
func TestMarkOfARemovedSegment(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"00000003": 10, "00000005": 10, "00000007" + keptSuffix: 10, "checkpoint.00000002": 0} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		m  mark
		ok bool
	}{
		{mark{dir, -1, 0}, true},
		{mark{dir, 3, 10}, true},
		{mark{dir, 3, 11}, false},
		{mark{dir, 4, 11}, true}, // its content is in a block
		{mark{dir, 5, 9}, true},
		{mark{dir, 6, 1}, false},
		{mark{dir, 7, 10}, true}, // being mended
		{mark{dir, 7, 11}, false},
	} {
		if err := tc.m.check(); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.m, err)
		}
	}
}

func mustMkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
}

func mustCopy(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
