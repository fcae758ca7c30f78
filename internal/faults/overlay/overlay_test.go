package overlay

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	at := Place{Repository: t.TempDir(), GOROOT: t.TempDir()}
	for _, f := range []string{filepath.Join(at.Repository, "a.go"), filepath.Join(at.GOROOT, "a.go")} {
		if err := os.WriteFile(f, []byte("one two two three"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name    string
		changes []Change
		want    map[string]string
		err     string
	}{
		{
			name:    "two changes of a file",
			changes: []Change{{File: "a.go", Old: "one", New: "1"}, {File: "a.go", Old: "three", New: "3"}},
			want:    map[string]string{filepath.Join(at.Repository, "a.go"): "1 two two 3"},
		},
		{
			name:    "Go's own file and a new one",
			changes: []Change{{File: "GOROOT/a.go", Old: "one", New: ""}, {File: "b.go", New: "new"}},
			want:    map[string]string{filepath.Join(at.GOROOT, "a.go"): " two two three", filepath.Join(at.Repository, "b.go"): "new"},
		},
		{name: "text is gone", changes: []Change{{File: "a.go", Old: "four"}}, err: "holds the text 0 times"},
		{name: "text is ambiguous", changes: []Change{{File: "a.go", Old: "two", New: "2"}}, err: "holds the text 2 times"},
		{name: "nothing changes", changes: []Change{{File: "a.go", Old: "one", New: "one"}}, err: "changes nothing"},
		{name: "no such file", changes: []Change{{File: "c.go", Old: "one"}}, err: "c.go"},
		{name: "new and there", changes: []Change{{File: "a.go", New: "new"}}, err: "must say what it replaces"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name, err := Write(t.TempDir(), at, tc.changes)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("Write = %v, want it to say %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkOverlay(t, name, tc.want)
		})
	}
}

func checkOverlay(t *testing.T, name string, want map[string]string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Replace map[string]string }
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Replace) != len(want) {
		t.Errorf("%d files are replaced, want %d", len(list.Replace), len(want))
	}
	for path, content := range want {
		got, err := os.ReadFile(list.Replace[path])
		if err != nil || string(got) != content {
			t.Errorf("%s becomes %q, %v, want %q", path, got, err, content)
		}
	}
}
