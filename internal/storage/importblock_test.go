package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/series"
)

// importOptions let a head of a few hours hold everything.
func importOptions(dir string) Options {
	o := testOptions(dir)
	o.MinBlockDuration = time.Hour
	o.MaxFuture = 100 * time.Hour
	o.Features = []string{"st-storage"} // start timestamps, in chunks of their own encodings
	return o
}

// giver is a store with samples of all kinds from -11 h on, a minute apart, for as long.
func giver(t testing.TB, length time.Duration) *Store {
	t.Helper()
	s := mustOpen(t, importOptions(filepath.Join(t.TempDir(), "giver")), hooks{fsync: newDisk().fsync})
	s.db.DisableCompactions()
	for m := range int64(length / time.Minute) {
		ts, last := at(-11*time.Hour)+m*60_000, float64(m)
		if m%100 == 99 {
			last = math.Float64frombits(value.StaleNaN)
		}
		b := new(series.Batch)
		for i, p := range []series.Sample{
			{T: ts, V: float64(m)},
			{T: ts + 7, V: last},
			{T: ts, V: float64(m), ST: at(-12 * time.Hour)},
			{T: ts, H: tsdbutil.GenerateTestHistogram(m)},
			{T: ts, FH: tsdbutil.GenerateTestFloatHistogram(m), ST: at(-12 * time.Hour)},
		} {
			ls := labels.FromStrings("__name__", fmt.Sprintf("s%d", i), "zone", fmt.Sprintf("z%d", i%2))
			b.Series = append(b.Series, series.Series{Labels: ls, Samples: []series.Sample{p}})
		}
		if err := s.Import(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// windowOf is what a giver holds of a window, as chunks.
func windowOf(t testing.TB, s *Store, mint, maxt int64) promstorage.ChunkSeriesSet {
	t.Helper()
	q, err := s.ChunkQuerier(mint, maxt-1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q.Select(context.Background(), true, nil, everything())
}

// mustImport imports a window.
func mustImport(t testing.TB, s, from *Store, mint, maxt int64) int {
	t.Helper()
	n, err := s.ImportBlock(context.Background(), mint, maxt, windowOf(t, from, mint, maxt))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// within returns the points of a range of time, the end excluded.
func between(points map[point]string, mint, maxt int64) map[point]string {
	got := maps.Clone(points)
	maps.DeleteFunc(got, func(p point, _ string) bool { return p.t < mint || p.t >= maxt })
	return got
}

// leftovers are the directories of unfinished blocks.
func leftovers(t testing.TB, dir string) []string {
	t.Helper()
	var found []string
	for _, suffix := range []string{creationSuffix, deletionSuffix} {
		left, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, left...)
	}
	return found
}

func startTimestamps(t *testing.T, s *Store) (n int) {
	t.Helper()
	q, err := s.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for set := q.Select(context.Background(), true, nil, everything()); set.Next(); {
		for it := set.At().Iterator(nil); it.Next() != chunkenc.ValNone; {
			if it.AtST() == at(-12*time.Hour) {
				n++
			}
		}
	}
	return n
}

// TestImportBlock imports windows of several lengths, one of which does not begin or end
// where a block does, and finds every sample of every kind: at once, after a restart, after
// compaction, and read as promtool does.
func TestImportBlock(t *testing.T) {
	from := giver(t, 11*time.Hour)
	want := read(t, from)
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := mustOpen(t, o, hooks{fsync: newDisk().fsync})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0), at(80*time.Minute))))
	n := 0
	for _, w := range [][2]time.Duration{
		{-11 * time.Hour, -9 * time.Hour}, {-9 * time.Hour, -9*time.Hour + 90*time.Second},
		{-9*time.Hour + 90*time.Second, -6 * time.Hour}, {-6 * time.Hour, -3 * time.Hour},
		{-3 * time.Hour, -2 * time.Hour}, {-2 * time.Hour, -time.Hour},
	} {
		n += mustImport(t, s, from, at(w[0]), at(w[1]))
	}
	if until := s.ImportableUntil(); until != at(0) {
		t.Errorf("importable until %s", formatTime(until))
	}
	want = between(want, at(-11*time.Hour), at(-time.Hour))
	if n != len(want) {
		t.Errorf("%d samples imported, want %d", n, len(want))
	}
	want[point{name("live").String(), at(0)}], want[point{name("live").String(), at(80 * time.Minute)}] = "1", "1"
	check := func(when string, s *Store) {
		t.Helper()
		if got := read(t, s); !maps.Equal(got, want) {
			t.Errorf("%s: %d samples, want %d", when, len(got), len(want))
		}
		if got := startTimestamps(t, s); got != 2*600 {
			t.Errorf("%s: %d start timestamps", when, got)
		}
		if left := leftovers(t, o.Dir); len(left) > 0 {
			t.Errorf("%s: %v", when, left)
		}
		if err := s.damage.ScrubOnce(context.Background()); err != nil || len(s.Damage()) > 0 {
			t.Errorf("%s: damage %v, %v", when, s.Damage(), err)
		}
	}
	check("after the import", s)
	metas, err := s.BlockMetas()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metas {
		if m.MinTime%3_600_000 != 0 || m.MaxTime%3_600_000 != 0 || !m.Compaction.FromOutOfOrder() {
			t.Errorf("a block of %d to %d, hints %v", m.MinTime, m.MaxTime, m.Compaction.Hints)
		}
	}
	for range 2 { // the second one knows what the scrub has verified
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, o, hooks{fsync: newDisk().fsync})
		check("after a restart", s)
	}
	if err := s.db.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	compacted, err := s.BlockMetas()
	if err != nil || len(compacted) >= len(metas) {
		t.Errorf("%d blocks are %d after compaction, %v", len(metas), len(compacted), err)
	}
	check("after compaction", s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	readOnly(t, o.Dir, len(want)-2)
}

// readOnly reads a directory's blocks as promtool does.
func readOnly(t *testing.T, dir string, samples int) {
	t.Helper()
	db, err := tsdb.OpenDBReadOnly(dir, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	blocks, err := db.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		ix, err := b.Index()
		if err != nil {
			t.Fatal(err)
		}
		names, err := ix.LabelNames(context.Background())
		if err != nil || strings.Join(names, " ") != "__name__ zone" {
			t.Errorf("label names %v, %v", names, err)
		}
		zones, err := ix.SortedLabelValues(context.Background(), "zone", nil)
		if err != nil || strings.Join(zones, " ") != "z0 z1" {
			t.Errorf("zones %v, %v", zones, err)
		}
		p, err := ix.Postings(context.Background(), "zone", "z1")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for p.Next() {
			n++
		}
		if n != 2 {
			t.Errorf("%d series of zone z1", n)
		}
		samples -= int(b.Meta().Stats.NumSamples)
		ix.Close()
	}
	if samples != 0 {
		t.Errorf("the blocks' metadata count %d samples too few", samples)
	}
}

func TestImportBlockRefuses(t *testing.T) {
	from := giver(t, 3*time.Hour)
	open := func(t *testing.T, change func(*Options), hk hooks) *Store {
		o := importOptions(filepath.Join(t.TempDir(), "data"))
		if change != nil {
			change(&o)
		}
		hk.fsync = newDisk().fsync
		s := mustOpen(t, o, hk)
		mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
		return s
	}
	refused := func(t *testing.T, s *Store, mint, maxt time.Duration, want error) {
		t.Helper()
		n, err := s.ImportBlock(context.Background(), at(mint), at(maxt), windowOf(t, from, at(mint), at(maxt)))
		if n != 0 || err == nil || (want != nil && !errors.Is(err, want)) {
			t.Errorf("%d, %v, want %v", n, err, want)
		}
		if left := append(leftovers(t, s.opts.Dir), blockDirs(t, s.opts.Dir)...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	t.Run("too recent", func(t *testing.T) {
		s := open(t, nil, hooks{})
		refused(t, s, -2*time.Hour, -29*time.Minute, ErrTooRecent)
		if until := s.ImportableUntil(); until != at(-time.Hour) {
			t.Errorf("importable until %s", formatTime(until))
		}
	})
	t.Run("no range", func(t *testing.T) { refused(t, open(t, nil, hooks{}), -10*time.Hour, -10*time.Hour, nil) })
	t.Run("in no block's range", func(t *testing.T) {
		s := open(t, func(o *Options) { o.RetentionTime = 30 * time.Hour }, hooks{}) // blocks of 3 h
		refused(t, s, -10*time.Hour, -8*time.Hour, nil)
	})
	t.Run("disk full", func(t *testing.T) {
		u := usage{free: 1 << 40, total: 1 << 41}
		s := open(t, nil, hooks{usage: func(string) (usage, error) { return u, nil }})
		s.keeper.stop(nil)
		u.free = 640 << 20 // appends go on
		refused(t, s, -11*time.Hour, -10*time.Hour, ErrDiskFull)
		u.free = 1 << 30
		mustImport(t, s, from, at(-11*time.Hour), at(-10*time.Hour))
	})
	t.Run("fenced", func(t *testing.T) {
		s := open(t, nil, hooks{})
		s.keeper.stop(nil)
		_ = s.fence.raise(errors.New("test"))
		refused(t, s, -11*time.Hour, -10*time.Hour, ErrFenced)
	})
	t.Run("closed", func(t *testing.T) {
		s := open(t, nil, hooks{})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		refused(t, s, -11*time.Hour, -10*time.Hour, ErrClosed)
		if until := s.ImportableUntil(); until != math.MinInt64 {
			t.Errorf("importable until %s", formatTime(until))
		}
	})
	t.Run("unsorted", func(t *testing.T) {
		s := open(t, nil, hooks{})
		a, b := chunkSeries(name("b"), floatChunk(t, 1, at(-3*time.Hour))), chunkSeries(name("a"), floatChunk(t, 1, at(-3*time.Hour)))
		for _, set := range []promstorage.ChunkSeriesSet{chunkSetOf(a, b), chunkSetOf(a, a)} {
			if _, err := s.ImportBlock(context.Background(), at(-3*time.Hour), at(-2*time.Hour), set); err == nil {
				t.Error("imported")
			}
		}
		if left := append(leftovers(t, s.opts.Dir), blockDirs(t, s.opts.Dir)...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		s := open(t, nil, hooks{})
		if n, err := s.ImportBlock(context.Background(), at(-4*time.Hour), at(-3*time.Hour), promstorage.EmptyChunkSeriesSet()); n != 0 || err != nil {
			t.Error(n, err)
		}
		if left := append(leftovers(t, s.opts.Dir), blockDirs(t, s.opts.Dir)...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// blockDirs are the directories of blocks.
func blockDirs(t testing.TB, dir string) (dirs []string) {
	t.Helper()
	metas, err := filepath.Glob(filepath.Join(dir, "01*", "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metas {
		if !strings.Contains(m, ".tmp-for-") {
			dirs = append(dirs, filepath.Dir(m))
		}
	}
	return dirs
}

// TestFailedImportFencesNothing fails each sync of an import, one after the other.
func TestFailedImportFencesNothing(t *testing.T) {
	from := giver(t, time.Hour)
	failing := errors.New("this disk fails")
	d := newDisk()
	countdown := -1
	d.before = func() error {
		countdown--
		if countdown == 0 {
			return failing
		}
		return nil
	}
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := mustOpen(t, o, hooks{fsync: d.fsync})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
	want := len(read(t, from)) + 1
	failures := 0
	for n := 1; ; n++ {
		countdown = n
		_, err := s.ImportBlock(context.Background(), at(-11*time.Hour), at(-10*time.Hour), windowOf(t, from, at(-11*time.Hour), at(-10*time.Hour)))
		countdown = -1
		if err == nil {
			break
		}
		failures++
		if !errors.Is(err, failing) {
			t.Errorf("sync %d: %v", n, err)
		}
		if err := s.Ready(); err != nil {
			t.Fatalf("sync %d: %v", n, err)
		}
		if left := append(leftovers(t, o.Dir), blockDirs(t, o.Dir)...); len(left) > 0 {
			t.Errorf("sync %d: left %v", n, left)
		}
		if got := read(t, s); len(got) != 1 {
			t.Errorf("sync %d: %d samples", n, len(got))
		}
	}
	if failures != 7 { // chunks, index, meta.json, tombstones, two directories and the data directory
		t.Errorf("%d syncs", failures)
	}
	if got := read(t, s); len(got) != want {
		t.Errorf("%d samples, want %d", len(got), want)
	}
}

// TestInterruptedImport kills an import before each of its syncs, and takes the power away.
func TestInterruptedImport(t *testing.T) {
	from := giver(t, time.Hour)
	d := newDisk()
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := mustOpen(t, o, hooks{fsync: d.fsync})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
	var images []string
	d.before = func() error {
		killed := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(killed, os.DirFS(o.Dir)); err != nil {
			t.Error(err)
		}
		images = append(images, killed, d.image(t, o.Dir))
		return nil
	}
	n := mustImport(t, s, from, at(-11*time.Hour), at(-10*time.Hour))
	d.before = nil
	images = append(images, d.image(t, o.Dir))
	for i, dir := range images {
		after := o
		after.Dir = dir
		s := mustOpen(t, after, hooks{fsync: newDisk().fsync})
		got := len(read(t, s)) - 1
		if last := i == len(images)-1; got != n && (got != 0 || last) {
			t.Errorf("image %d of %d has %d samples of %d", i, len(images), got, n)
		}
		if left := leftovers(t, dir); len(left) > 0 || len(s.Damage()) > 0 {
			t.Errorf("image %d: left %v, damage %v", i, left, s.Damage())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// stuckSet is a set whose peer hangs in the middle, until ctx ends or for ever.
type stuckSet struct {
	promstorage.ChunkSeriesSet
	reached chan struct{}
	release chan struct{}
	stuck   bool
}

func (s *stuckSet) Next() bool {
	if s.stuck {
		return s.ChunkSeriesSet.Next()
	}
	s.stuck = true
	close(s.reached)
	<-s.release
	return s.ChunkSeriesSet.Next()
}

// TestCloseEndsAnImport closes the store, and opens it again after a fence, while an import
// waits for its peer.
func TestCloseEndsAnImport(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(s *Store)
		want error
	}{
		"close": {func(s *Store) { _ = s.Close() }, ErrClosed},
		"fence": {func(s *Store) { _ = s.fence.raise(errors.New("test")); time.Sleep(2 * time.Second) }, ErrFenced},
		"ctx":   {nil, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from := giver(t, time.Hour)
				o := importOptions(filepath.Join(t.TempDir(), "data"))
				s := mustOpen(t, o, hooks{fsync: newDisk().fsync})
				set := &stuckSet{
					ChunkSeriesSet: windowOf(t, from, at(-11*time.Hour), at(-10*time.Hour)),
					reached:        make(chan struct{}), release: make(chan struct{}),
				}
				ctx, cancel := context.WithCancel(t.Context())
				failed := make(chan error, 1)
				go func() {
					_, err := s.ImportBlock(ctx, at(-11*time.Hour), at(-10*time.Hour), set)
					failed <- err
				}()
				<-set.reached
				if end.do == nil {
					cancel()
				} else {
					go end.do(s)
					time.Sleep(3 * time.Second)
				}
				close(set.release)
				if err := <-failed; !errors.Is(err, end.want) {
					t.Errorf("%v, want %v", err, end.want)
				}
				cancel()
				time.Sleep(20 * time.Second)
				if left := append(leftovers(t, o.Dir), blockDirs(t, o.Dir)...); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
				if name != "close" {
					if n := mustImport(t, s, from, at(-11*time.Hour), at(-10*time.Hour)); n != 300 {
						t.Errorf("%d samples imported afterwards", n)
					}
				}
			})
		})
	}
}
