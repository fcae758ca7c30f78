package placement

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The golden files pin the placement for good: a difference means that every node would
// look for its data elsewhere. They change only together with KeyVersion.

type goldenKey struct {
	Tenant string            `json:"tenant"`
	Labels map[string]string `json:"labels,omitempty"`
	Family string            `json:"family,omitempty"`
	Key    string            `json:"key"`
}

type goldenLayout struct {
	// Slots are written as in layout.
	Slots  string `json:"slots"`
	Copies int    `json:"copies"`
	// Owners are those of key 0, then of each golden key in order.
	Owners []string `json:"owners"`
}

func goldenKeys() []goldenKey {
	long := strings.Repeat("0123456789abcdef", 40)
	keys := []goldenKey{
		{},
		{Labels: map[string]string{"__name__": "up"}},
		{Labels: map[string]string{"__name__": "up", "instance": "10.0.0.1:9100", "job": "node"}},
		{Tenant: "acme", Labels: map[string]string{"__name__": "up", "instance": "10.0.0.1:9100", "job": "node"}},
		{Labels: map[string]string{"__name__": "node_cpu_seconds_total", "cpu": "63", "instance": "10.0.0.1:9100", "job": "node", "mode": "idle"}},
		{Labels: map[string]string{"__name__": "http_seconds_bucket", "job": "api", "le": "0.5"}},
		{Labels: map[string]string{"__name__": "http_seconds_bucket", "job": "api", "le": "+Inf"}},
		{Labels: map[string]string{"__name__": "gc_seconds", "job": "api", "quantile": "0.99"}},
		{Labels: map[string]string{"__name__": "température", "ville": "Zürich", "unité.si": "°C"}},
		{Labels: map[string]string{"__name__": "long", "value": long}},
		{Family: "up"},
		{Tenant: "acme", Family: "http_seconds"},
	}
	for i, k := range keys {
		key := FamilyKey(k.Tenant, k.Family)
		if k.Family == "" {
			key = Key(k.Tenant, labels.FromMap(k.Labels))
		}
		keys[i].Key = fmt.Sprintf("%016x", key)
	}
	return keys
}

func goldenLayouts(t *testing.T, keys []goldenKey) []goldenLayout {
	t.Helper()
	layouts := []goldenLayout{
		{Slots: ".", Copies: 3},
		{Slots: ". . .", Copies: 3},
		{Slots: ". . . . .", Copies: 3},
		{Slots: ". - . . - .", Copies: 3},
		{Slots: strings.TrimSpace(strings.Repeat(". ", 19)), Copies: 3},
		{Slots: strings.TrimSpace(strings.Repeat(". ", 100)), Copies: 5},
		{Slots: "a b c a b c", Copies: 3},
		{Slots: "a - c a b c b . .", Copies: 3},
		{Slots: "a a a a b b b b c", Copies: 3},
		{Slots: "a b a b", Copies: 3},
		// Uneven, and spread as if they were even.
		{Slots: "a a b b c", Copies: 3},
		{Slots: "a a a b b b c c c d", Copies: 3},
		// Too small zones, which take a share of the keys, and count as one.
		{Slots: "a a a a a a a b b c", Copies: 3},
		{Slots: "a a a a a a a a a a a a a a a a a a a a - b b c", Copies: 3},
		{Slots: "a a a a a b b b b b c d", Copies: 3},
		{Slots: "a a a a a a a a a b", Copies: 2},
		// Beyond the attempts for nearly every key.
		{Slots: strings.Repeat("- ", 200) + ". . -", Copies: 1},
	}
	for i, l := range layouts {
		m := NewMap(layout(l.Slots), l.Copies)
		for _, k := range append([]goldenKey{{Key: "0"}}, keys...) {
			key, err := strconv.ParseUint(k.Key, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			owners := strings.Trim(fmt.Sprint(m.Owners(key, nil)), "[]")
			layouts[i].Owners = append(layouts[i].Owners, owners)
		}
	}
	return layouts
}

func TestGolden(t *testing.T) {
	keys := goldenKeys()
	compareGolden(t, "keys.json", struct {
		KeyVersion int         `json:"keyVersion"`
		Keys       []goldenKey `json:"keys"`
	}{KeyVersion, keys})
	compareGolden(t, "owners.json", struct {
		KeyVersion int            `json:"keyVersion"`
		Layouts    []goldenLayout `json:"layouts"`
	}{KeyVersion, goldenLayouts(t, keys)})
}

func compareGolden(t *testing.T, name string, v any) {
	t.Helper()
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "testdata", "placement", name)
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		g, w := "end of file", "end of file"
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if g != w {
			t.Fatalf("%s:%d: computed %q, the file says %q: data would move", path, i+1, g, w)
		}
	}
}
