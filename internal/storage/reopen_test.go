package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/series"
)

// TestTornTailKeepsOutOfOrderSamples cuts the newest record of the write-ahead log, as a
// crash in the middle of a write does. The TSDB repairs that, but has not replayed the
// out-of-order log then.
func TestTornTailKeepsOutOfOrderSamples(t *testing.T) {
	d := newDisk()
	o := testOptions(t.TempDir())
	s := mustOpen(t, o, hooks{fsync: d.fsync})
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
	mustAppend(t, s, batch(floats(name("a"), float64(at(-time.Minute)), 2)))
	mustAppend(t, s, batch(floats(name("a"), float64(at(time.Minute)), 3.3)))

	after := testOptions(d.image(t, o.Dir))
	after.Registerer = prometheus.NewRegistry()
	wal := filepath.Join(after.Dir, "wal", "00000000")
	info, err := os.Stat(wal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(wal, info.Size()-3); err != nil {
		t.Fatal(err)
	}
	got := read(t, mustOpen(t, after, hooks{}))
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{{0, "1"}, {-time.Minute, "2"}} {
		if v := got[point{name("a").String(), at(tc.d)}]; v != tc.want {
			t.Errorf("at %s: %q, want %s", tc.d, v, tc.want)
		}
	}
}

// TestTornTailKeepsWholeChunks tears the log of a head with many chunks: closing the storage
// between the two openings writes some of them to files, which the second one takes for
// those of the out-of-order log.
func TestTornTailKeepsWholeChunks(t *testing.T) {
	d := newDisk()
	o := testOptions(t.TempDir())
	s := mustOpen(t, o, hooks{fsync: d.fsync})
	for i := range 300 {
		b := &series.Batch{}
		for j := range 5 {
			in := time.Duration(i) * 10 * time.Millisecond
			b.Series = append(b.Series, floats(name(fmt.Sprint("s", j)), float64(at(in)), float64(i)*1.1, float64(at(in-time.Minute)), float64(i)))
		}
		mustAppend(t, s, b)
	}
	want := read(t, s)
	mustAppend(t, s, batch(floats(name("last"), float64(at(0)), 3.3)))

	after := testOptions(d.image(t, o.Dir))
	wal := filepath.Join(after.Dir, "wal", "00000000")
	info, err := os.Stat(wal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(wal, info.Size()-3); err != nil {
		t.Fatal(err)
	}
	if got := read(t, mustOpen(t, after, hooks{})); !maps.Equal(got, want) {
		t.Errorf("%d of %d samples are left", len(got), len(want))
	}
}

// TestPowerLossAfterARepair cuts the power after samples were acknowledged that follow a
// torn record: what the repair has removed must not come back, and cut them off.
func TestPowerLossAfterARepair(t *testing.T) {
	d := newDisk()
	o := testOptions(t.TempDir())
	s := mustOpen(t, o, hooks{fsync: d.fsync})
	mustAppend(t, s, one("a", 0))
	mustAppend(t, s, one("a", -time.Minute))

	after := testOptions(d.image(t, o.Dir))
	for _, dir := range []string{"wal", "wbl"} {
		f, err := os.OpenFile(filepath.Join(after.Dir, dir, "00000000"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte{1, 0, 200, 1, 2, 3, 4, 5}); err != nil { // 200 bytes and their checksum follow
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d = newDisk()
	s = mustOpen(t, after, hooks{fsync: d.fsync})
	mustAppend(t, s, one("a", time.Minute))
	mustAppend(t, s, one("a", -2*time.Minute))
	if got := read(t, mustOpen(t, testOptions(d.image(t, after.Dir)), hooks{})); len(got) != 4 {
		t.Errorf("a power loss leaves %v of four acknowledged samples", got)
	}
}

// TestCompaction lets the TSDB cut blocks, rotate and truncate both logs beneath the store.
func TestCompaction(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MinBlockDuration = time.Minute
	o.OutOfOrderWindow = 10 * time.Minute
	o.MaxFuture = time.Hour
	s := mustOpen(t, o, hooks{segmentSize: 32 << 10})
	const rounds, perRound = 6, 60
	for r := range rounds {
		for i := range perRound {
			d := time.Duration(r*perRound+i) * 2 * time.Second
			got := mustAppend(t, s, batch(floats(name("a"), float64(at(d)), 1, float64(at(d-time.Minute)+1), 2)))
			if len(got) > 0 {
				t.Fatalf("refused: %+v", got)
			}
		}
		if err := errors.Join(s.db.Compact(context.Background()), s.db.CompactOOOHead(context.Background())); err != nil {
			t.Fatal(err)
		}
		if err := s.Ready(); err != nil {
			t.Fatal(err)
		}
	}
	if bs, err := s.BlockMetas(); err != nil || len(bs) < 3 {
		t.Errorf("want several blocks, got %v, %v", bs, err)
	}
	for _, l := range s.sync.logs {
		if len(l.held) != 1 {
			t.Errorf("%d descriptors are held in %s, want that of the newest segment", len(l.held), l.path)
		}
	}
	for range 2 {
		if n := len(read(t, s)); n != 2*rounds*perRound {
			t.Errorf("%d samples, want %d", n, 2*rounds*perRound)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, o, hooks{})
	}
}
