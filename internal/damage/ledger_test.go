package damage

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func openLedger(t *testing.T, dir string) (*Ledger, *prometheus.Registry) {
	t.Helper()
	r := prometheus.NewRegistry()
	l, err := Open(Options{DataDir: dir, Registerer: r, Now: func() time.Time { return time.Unix(1000, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	return l, r
}

func TestLedger(t *testing.T) {
	dir := t.TempDir()
	l, r := openLedger(t, dir)
	a := Range{MinTime: 10, MaxTime: 20, Kind: Block, Name: "x", Detail: "d", Found: time.Unix(5, 0).UTC()}
	b := Range{MinTime: math.MinInt64, MaxTime: 5, Kind: WAL, Name: "wal/00000001", Found: time.Unix(6, 0).UTC(), Suspect: true}
	wider := a
	wider.MinTime, wider.MaxTime = 15, 30
	for _, add := range []Range{a, b, wider} {
		if err := l.Add(add); err != nil {
			t.Fatal(err)
		}
	}
	a.MaxTime = 30
	for range 2 {
		if got := l.Ranges(); !slices.Equal(got, []Range{a, b}) {
			t.Errorf("ranges %+v", got)
		}
		for _, tc := range []struct {
			mint, maxt int64
			want       bool
		}{{0, 9, false}, {0, 10, true}, {30, 30, true}, {31, 40, false}, {math.MinInt64, 5, false}, {math.MinInt64, math.MaxInt64, true}} {
			if _, got := l.OutOfService(tc.mint, tc.maxt); got != tc.want {
				t.Errorf("out of service from %d to %d: %v", tc.mint, tc.maxt, got)
			}
		}
		l, _ = openLedger(t, dir)
	}
	const want = `
# HELP starling_storage_damaged_ranges Ranges of time for which this node may lack samples because of damage. Suspect ones come from a torn log and lack only what was not confirmed.
# TYPE starling_storage_damaged_ranges gauge
starling_storage_damaged_ranges{suspect="false"} 1
starling_storage_damaged_ranges{suspect="true"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "starling_storage_damaged_ranges"); err != nil {
		t.Error(err)
	}
	if err := l.Drop(func(r Range) bool { return r.Kind == Block }); err != nil {
		t.Fatal(err)
	}
	if l, _ = openLedger(t, dir); !slices.Equal(l.Ranges(), []Range{b}) {
		t.Errorf("after a drop: %+v", l.Ranges())
	}
	// The documented way to give damaged ranges up.
	if err := os.Remove(filepath.Join(dir, Dir, notesFile)); err != nil {
		t.Fatal(err)
	}
	if l, _ = openLedger(t, dir); len(l.Ranges()) != 0 {
		t.Errorf("without the file: %+v", l.Ranges())
	}
}

// TestBrokenLedger damages the notes at every byte: either they say the same, or everything
// is out of service, also after the next start.
func TestBrokenLedger(t *testing.T) {
	dir := t.TempDir()
	l, _ := openLedger(t, dir)
	if err := l.Add(Range{MinTime: 10, MaxTime: 20, Kind: Block, Name: "x", Found: time.Unix(5, 0)}); err != nil {
		t.Fatal(err)
	}
	whole := l.Ranges()
	path := filepath.Join(dir, Dir, notesFile)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(bad []byte) {
		t.Helper()
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			l, _ := openLedger(t, dir)
			if _, out := l.OutOfService(math.MaxInt64, math.MaxInt64); !out && !slices.Equal(l.Ranges(), whole) {
				t.Fatalf("%q says %+v", bad, l.Ranges())
			}
		}
	}
	for i := range file {
		bad := slices.Clone(file)
		bad[i] ^= 1 << (i % 8)
		check(bad)
		check(file[:i])
	}
}
