package keyring

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func key(n byte, size int) []byte { return bytes.Repeat([]byte{n}, size) }

func text(key []byte) string { return base64.StdEncoding.EncodeToString(key) }

func open(t *testing.T, keys ...[]byte) (*Ring, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyring.json")
	var texts []string
	for _, k := range keys {
		texts = append(texts, fmt.Sprintf("%q", text(k)))
	}
	if err := os.WriteFile(path, []byte("["+strings.Join(texts, ",")+"]"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return r, path
}

// want has the ring, memberlist's and the file hold these keys, the first one in use.
func want(t *testing.T, r *Ring, path string, keys ...[]byte) {
	t.Helper()
	var prints []string
	for _, k := range keys {
		prints = append(prints, Fingerprint(k))
	}
	if got := r.Fingerprints(); !slices.Equal(got, prints) {
		t.Errorf("fingerprints %v, want %v", got, prints)
	}
	if !slices.EqualFunc(r.Memberlist().GetKeys(), keys, bytes.Equal) {
		t.Errorf("memberlist has %d keys, or others, want %d", len(r.Memberlist().GetKeys()), len(keys))
	}
	again, err := Open(path)
	if err != nil || !slices.EqualFunc(again.keys, keys, bytes.Equal) {
		t.Errorf("the file has other keys, %v", err)
	}
}

func TestRotation(t *testing.T) {
	a, b, c, d := key(1, 16), key(2, 24), key(3, 32), key(4, 32)
	r, path := open(t, a)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.Add(b))
	must(r.Add(b))
	must(r.Add(c))
	must(r.Add(d))
	want(t, r, path, a, b, c, d)
	must(r.Use(Fingerprint(c)))
	want(t, r, path, c, a, b, d)
	must(r.Use(Fingerprint(c)))
	must(r.Remove(Fingerprint(a)))
	must(r.Remove(Fingerprint(a)))
	want(t, r, path, c, b, d)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v, %v", info.Mode(), err)
	}
	for what, err := range map[string]error{
		"removed the key in use": r.Remove(Fingerprint(c)),
		"used a key it lacks":    r.Use(Fingerprint(a)),
		"added a short key":      r.Add(key(5, 31)),
	} {
		if err == nil {
			t.Error(what)
		}
	}
	want(t, r, path, c, b, d)
}

// What cannot be written is not in use either.
func TestFailedWriteChangesNothing(t *testing.T) {
	a, b := key(1, 32), key(2, 32)
	r, path := open(t, a, b)
	r.path = filepath.Join(t.TempDir(), "none", "keyring.json")
	if r.Add(key(3, 32)) == nil || r.Use(Fingerprint(b)) == nil || r.Remove(Fingerprint(b)) == nil {
		t.Error("a change succeeded that is in no file")
	}
	want(t, r, path, a, b)
}

// memberlist reads the keys while they change, also one in their middle.
func TestRemoveWhileMemberlistReads(t *testing.T) {
	r, _ := open(t, key(1, 32), key(2, 16), key(3, 32), key(4, 16))
	var reading sync.WaitGroup
	stop := make(chan struct{})
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, k := range r.Memberlist().GetKeys() {
				if len(k) == 0 || !bytes.Equal(k, key(k[0], len(k))) {
					t.Error("memberlist read a key that is none")
				}
			}
		}
	})
	for range 50 {
		if err := r.Remove(Fingerprint(key(2, 16))); err != nil {
			t.Fatal(err)
		}
		if err := r.Add(key(2, 16)); err != nil {
			t.Fatal(err)
		}
		if err := r.Remove(Fingerprint(key(3, 32))); err != nil {
			t.Fatal(err)
		}
		if err := r.Add(key(3, 32)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	reading.Wait()
}

func TestBadFiles(t *testing.T) {
	secret := text(key(7, 32))
	for name, content := range map[string]string{
		"empty": "", "no list": `{"a":1}`, "no keys": "[]", "one key alone": fmt.Sprintf("%q", secret),
		"no base64": `["` + secret + `!"]`, "short": fmt.Sprintf("[%q, %q]", secret, text(key(1, 5))), "twice": fmt.Sprintf("[%q, %q]", secret, secret),
		"half": fmt.Sprintf("[%q, ", secret),
	} {
		path := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if err == nil {
			t.Errorf("%s: opened", name)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error has the key in it", name)
		}
	}
}

func TestReadable(t *testing.T) {
	_, path := open(t, key(1, 32))
	for mode, want := range map[os.FileMode]os.FileMode{0o600: 0, 0o400: 0, 0o640: 0o640, 0o604: 0o604} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if got, err := Readable(path); err != nil || got != want {
			t.Errorf("mode %o: %o, %v, want %o", mode, got, err, want)
		}
	}
}

func TestNamed(t *testing.T) {
	k := key(9, 32)
	for in, want := range map[string]string{
		text(k): Fingerprint(k), Fingerprint(k): Fingerprint(k), strings.ToUpper(Fingerprint(k)) + "\n": Fingerprint(k),
		"12345": "", "": "", text(key(9, 15)): "",
	} {
		got, err := Named(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Named(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}
