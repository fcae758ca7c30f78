package storage

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// floatChunk is a chunk of samples with one value.
func floatChunk(t testing.TB, v float64, ts ...int64) chunks.Meta {
	t.Helper()
	c := chunkenc.NewXORChunk()
	app, err := c.Appender()
	if err != nil {
		t.Fatal(err)
	}
	for _, ts := range ts {
		app.Append(0, ts, v)
	}
	return chunks.Meta{Chunk: c, MinTime: ts[0], MaxTime: ts[len(ts)-1]}
}

func chunkSeries(ls labels.Labels, chks ...chunks.Meta) promstorage.ChunkSeries {
	return &promstorage.ChunkSeriesEntry{Lset: ls, ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
		return promstorage.NewListChunkSeriesIterator(chks...)
	}}
}

func chunkSetOf(ss ...promstorage.ChunkSeries) *listedSet {
	return &listedSet{rest: ss}
}

// TestImportedOverlaps imports chunks that overlap each other and the window, and then the
// window once more, with other values and with more.
func TestImportedOverlaps(t *testing.T) {
	s := mustOpen(t, importOptions(filepath.Join(t.TempDir(), "data")), hooks{fsync: newDisk().fsync})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
	base := at(-3 * time.Hour)
	again := floatChunk(t, 1, base+150, base+250, base+300)
	n, err := s.ImportBlock(t.Context(), base+100, base+450, chunkSetOf(chunkSeries(name("a"),
		floatChunk(t, 1, base, base+100, base+200), again, again, floatChunk(t, 1, base+400, base+500), floatChunk(t, 1, base+600),
	), chunkSeries(name("b"), floatChunk(t, 1, base)), chunkSeries(name("c"), floatChunk(t, 1, base+450-1))))
	if err != nil || n != 7 {
		t.Errorf("%d samples, %v", n, err)
	}
	want := map[point]string{{name("c").String(), base + 449}: "1"}
	for _, ts := range []int64{100, 150, 200, 250, 300, 400} {
		want[point{name("a").String(), base + ts}] = "1"
	}
	live := point{name("live").String(), at(0)}
	want[live] = "1"
	if got := read(t, s); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	n, err = s.ImportBlock(t.Context(), base, base+1000, chunkSetOf(chunkSeries(name("a"),
		floatChunk(t, 2, base+100, base+120, base+200, base+300, base+500))))
	if err != nil || n != 5 {
		t.Errorf("%d samples, %v", n, err)
	}
	for range 2 { // before compaction, and afterwards
		got := read(t, s)
		for p, v := range got {
			if p.t == base+120 || p.t == base+500 {
				delete(got, p)
			}
			if v != want[p] && v != "2" {
				t.Errorf("%v is %s", p, v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%v, want the times of %v", got, want)
		}
		if err := s.db.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if metas, _ := s.BlockMetas(); len(metas) != 1 {
		t.Errorf("%d blocks", len(metas))
	}
}

// TestImportLeavesTheReplayAlone imports into a store without a sample, which then takes
// older ones in order, and is killed.
func TestImportLeavesTheReplayAlone(t *testing.T) {
	from := giver(t, 9*time.Hour)
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := mustOpen(t, o, hooks{fsync: newDisk().fsync})
	s.db.DisableCompactions()
	for h := time.Duration(-11); h < -3; h++ {
		mustImport(t, s, from, at(h*time.Hour), at((h+1)*time.Hour))
	}
	if until := s.ImportableUntil(); until != at(-3*time.Hour) {
		t.Errorf("importable until %s", formatTime(until))
	}
	old := batch(sampleAt(name("old"), at(-11*time.Hour), at(-10*time.Hour), at(-3*time.Hour-time.Minute), at(0)))
	if err := s.Import(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	want := read(t, s)
	for _, compacts := range []bool{false, true} {
		if compacts {
			if err := s.db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		after := o
		after.Dir = filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(after.Dir, os.DirFS(o.Dir)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, mustOpen(t, after, hooks{})); !maps.Equal(got, want) {
			t.Errorf("compacted %v: %d samples after a restart, want %d", compacts, len(got), len(want))
		}
	}
}
