package statefile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	var got map[string]int
	if err := Load(dir, "f", &got); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	for _, v := range []int{1, 2} {
		if err := Save(dir, "f", map[string]int{"a": v}); err != nil {
			t.Fatal(err)
		}
		if err := Load(dir, "f", &got); err != nil || got["a"] != v {
			t.Errorf("%v, %v; want %d", got, err, v)
		}
	}
	if err := os.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
	if err := Load(dir, "g", &got); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file under another name: %v", err)
	}
}

// What cannot be written leaves what was there, and nothing else.
func TestFailedWrite(t *testing.T) {
	full := errors.New("no space left on device")
	for name, fails := range map[string]func(*os.File) error{
		"file":      func(*os.File) error { return full },
		"directory": failOn(2, full),
	} {
		path := filepath.Join(t.TempDir(), "f")
		if err := Replace(path, []byte("before")); err != nil {
			t.Fatal(err)
		}
		if err := ReplaceWith(path, strings.NewReader("after"), fails); !errors.Is(err, full) {
			t.Errorf("%s: %v", name, err)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 1 || entries[0].Name() != "f" {
			t.Errorf("%s: left are %v, %v", name, entries, err)
		}
	}
}

// failOn fails at the n-th sync.
func failOn(n int, err error) func(*os.File) error {
	return func(f *os.File) error {
		if n--; n == 0 {
			return err
		}
		return f.Sync()
	}
}

// What is private is so whatever was there before, a leftover included.
func TestReplacePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, p := range []string{path, path + ".tmp"} {
		if err := os.WriteFile(p, []byte("before"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := ReplacePrivate(path, []byte("after")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "after" || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has %q, mode %v, %v", b, info.Mode(), err)
	}
}

// A name that comes from elsewhere leads to no other place than the directory, and neither does a link
// in there.
func TestNamesLeadNowhereElse(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(above, "outside")
	if err := Save(above, "outside", 1); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(outside)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"", ".", "..", "/", "../outside", "x/../../outside", "x-../../outside", "x-/../outside", "./f", "f/", "a/b", outside, "..\x00", "f\x00", "../outside\x00f",
	} {
		if err := Save(dir, name, 2); err == nil {
			t.Errorf("%q is saved", name)
		}
		var got int
		if err := Load(dir, name, &got); err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrDamaged) {
			t.Errorf("%q is loaded: %v", name, err)
		}
	}
	// Links that lead out, at the name and at the one that is written aside.
	for _, name := range []string{"outside", "outside.tmp"} {
		if err := os.Symlink(outside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var got int
	if err := Load(dir, "outside", &got); err == nil || got != 0 {
		t.Errorf("a link that leads out is followed: %d, %v", got, err)
	}
	if err := Save(dir, "outside", 2); err == nil {
		t.Error("a link that leads out is written through")
	}
	if after, err := os.ReadFile(outside); err != nil || !bytes.Equal(before, after) {
		t.Errorf("what is outside has become %q, %v", after, err)
	}
	entries, err := os.ReadDir(above)
	if err != nil || len(entries) != 2 {
		t.Errorf("above the directory are %v, %v", entries, err)
	}
	// Names that look odd and are some.
	for _, name := range []string{"..f", "gap-01ABC", "f..", "~", "-"} {
		if err := errors.Join(Save(dir, name, 3), Load(dir, name, &got)); err != nil || got != 3 {
			t.Errorf("%q: %d, %v", name, got, err)
		}
		got = 0
	}
}
