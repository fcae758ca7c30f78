package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/damage"
	"github.com/starling-tsdb/starling/internal/series"
)

// divisible is what a set is that is read in no order, with chunks as they are.
type divisible interface {
	promstorage.ChunkSeriesSet
	Divide(most int) []promstorage.ChunkSeriesSet
}

// untrimmed selects the part of all series of the head that keep tells, as they are, from the
// first minute on. close ends the selection.
func untrimmed(t *testing.T, s *Store, keep func(key uint64) bool) (set promstorage.ChunkSeriesSet, closing func()) {
	t.Helper()
	hints := &promstorage.SelectHints{Start: at(time.Minute), End: at(time.Hour), Step: 1, DisableTrimming: true}
	q, err := s.ChunkQuerierOf(hints.Start, hints.End, Want{Keep: infallible(keep)})
	if err != nil {
		t.Fatal(err)
	}
	return q.Select(t.Context(), false, hints, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")), func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
}

// readStored reads a set.
func readStored(set promstorage.ChunkSeriesSet) (all []storedChunks, err error) {
	for set.Next() {
		c := storedChunks{labels: set.At().Labels()}
		it := set.At().Iterator(nil)
		for it.Next() {
			m := it.At()
			c.chunks = append(c.chunks, fmt.Sprintf("%d %d %x", m.MinTime, m.MaxTime, m.Chunk.Bytes()))
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, set.Err()
}

// readDivided reads parts, a goroutine each, and returns what they hold by labels.
func readDivided(t *testing.T, parts []promstorage.ChunkSeriesSet) (all []storedChunks) {
	t.Helper()
	var mu sync.Mutex
	var readers sync.WaitGroup
	for _, p := range parts {
		readers.Go(func() {
			some, err := readStored(p)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, some...)
		})
	}
	readers.Wait()
	return byLabels(all)
}

func byLabels(all []storedChunks) []storedChunks {
	slices.SortFunc(all, func(a, b storedChunks) int { return labels.Compare(a.labels, b.labels) })
	return all
}

func equalStored(a, b storedChunks) bool {
	return labels.Equal(a.labels, b.labels) && slices.Equal(a.chunks, b.chunks)
}

// manySeries returns series with samples at minutes; each 50th has none after the first.
func manySeries(n int, minutes ...int) (all []series.Series) {
	for i := range n {
		for _, m := range minutes {
			if m == 0 || i%50 > 0 {
				all = append(all, floats(name(fmt.Sprint("s", i)), float64(at(time.Duration(m)*time.Minute)), float64(i*m)))
			}
		}
	}
	return all
}

// TestJoinedSetOfHead: series are the same, as a whole and divided, as the TSDB's own set has them, with
// those alone that have samples in time.
func TestJoinedSetOfHead(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	const n = 4 * leastDivided
	for m := range 3 {
		mustAppend(t, s, batch(manySeries(n, m)...))
	}
	keep := func(key uint64) bool { return key%4 > 0 }
	own, closing := untrimmed(t, s, nil)
	want, err := readStored(own)
	if err != nil {
		t.Fatal(err)
	}
	closing()
	want = byLabels(slices.DeleteFunc(want, func(c storedChunks) bool { return !keep(c.labels.Hash()) }))
	if len(want) < n/2 || len(want) > n*49/50 {
		t.Fatalf("%d series to compare with, of %d", len(want), n)
	}

	set, closing := untrimmed(t, s, keep)
	got, err := readStored(set)
	if err != nil || !slices.EqualFunc(byLabels(got), want, equalStored) {
		t.Errorf("as a whole: %d series, want %d; %v", len(got), len(want), err)
	}
	closing()
	for _, most := range []int{2, 3, 100} {
		set, closing := untrimmed(t, s, keep)
		parts := set.(divisible).Divide(most)
		if len(parts) != min(most, n*3/4/leastDivided) && len(parts) != min(most, n*3/4/leastDivided-1) {
			t.Errorf("%d parts, %d at most", len(parts), most)
		}
		if got := readDivided(t, parts); !slices.EqualFunc(got, want, equalStored) {
			t.Errorf("in %d parts: %d series, want %d", len(parts), len(got), len(want))
		}
		if set.Next() {
			t.Error("a set that was divided goes on")
		}
		closing()
	}
	set, closing = untrimmed(t, s, func(key uint64) bool { return key%64 == 0 })
	if parts := set.(divisible).Divide(2); parts != nil {
		t.Errorf("few series are in %d parts", len(parts))
	}
	closing()
}

// TestJoinedSetBesideAppends: what is committed meanwhile is there as a whole or not at all.
func TestJoinedSetBesideAppends(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	const n = 3 * leastDivided
	mustAppend(t, s, batch(manySeries(n, 0, 1)...))
	var writer sync.WaitGroup
	defer writer.Wait()
	writer.Go(func() {
		for m := range 30 {
			mustAppend(t, s, batch(manySeries(n, m+2)...))
		}
	})
	for range 10 {
		set, closing := untrimmed(t, s, func(uint64) bool { return true })
		got := readDivided(t, set.(divisible).Divide(3))
		for i, c := range got {
			if len(c.chunks) != 1 || i > 0 && labels.Compare(got[i-1].labels, c.labels) >= 0 {
				t.Fatalf("%s has %d chunks, or is there twice", c.labels, len(c.chunks))
			}
		}
		// A series without samples in time may have a chunk that is open.
		if len(got) < n*49/50-1 || len(got) > n {
			t.Errorf("%d series of %d", len(got), n)
		}
		closing()
	}
}

// TestJoinedSetWithoutWhatIsDeleted: what the TSDB was told to delete is not there.
func TestJoinedSetWithoutWhatIsDeleted(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	const n = 3 * leastDivided
	mustAppend(t, s, batch(manySeries(n, 0, 1, 2)...))
	if err := s.db.Delete(t.Context(), at(0), at(time.Hour), labels.MustNewMatcher(labels.MatchEqual, "__name__", "s1")); err != nil {
		t.Fatal(err)
	}
	set, closing := untrimmed(t, s, func(uint64) bool { return true })
	defer closing()
	got, err := readStored(set)
	if err != nil || len(got) < n/2 {
		t.Fatalf("%d series, %v", len(got), err)
	}
	for _, c := range got {
		if c.labels.Get("__name__") == "s1" && len(c.chunks) > 0 {
			t.Errorf("have %v", c)
		}
	}
}

// layers is a store with series in the head and in blocks, each in some of them. Two blocks have the
// same time, and one that of a part of the head.
func layers(t *testing.T, n int, key func(labels.Labels) uint64) *Store {
	t.Helper()
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	if key != nil {
		o.Key = key
	}
	s := mustOpen(t, o, hooks{fsync: newDisk().fsync})
	s.db.DisableCompactions()
	rnd := rand.New(rand.NewPCG(1, 2))
	for m := -90; m <= 10; m += 10 {
		var all []series.Series
		for i := range n {
			if i%5 > 0 {
				all = append(all, floats(name(fmt.Sprint("s", i)), float64(at(time.Duration(m)*time.Minute)), rnd.Float64()))
			}
		}
		mustAppend(t, s, batch(all...))
	}
	for _, hour := range []time.Duration{-6, -5, -5, -2} {
		from := at(hour * time.Hour)
		var all []promstorage.ChunkSeries
		for i := range n {
			if rnd.IntN(4) == 0 {
				continue
			}
			var chks []chunks.Meta
			for c := range int64(1 + rnd.IntN(3)) {
				first := from + c*1_000_000 + rnd.Int64N(500_000)
				chks = append(chks, floatChunk(t, rnd.Float64(), first, first+1+rnd.Int64N(400_000)))
			}
			all = append(all, chunkSeries(name(fmt.Sprint("s", i)), chks...))
		}
		slices.SortFunc(all, func(a, b promstorage.ChunkSeries) int { return labels.Compare(a.Labels(), b.Labels()) })
		if _, err := s.ImportBlock(t.Context(), from, from+time.Hour.Milliseconds(), chunkSetOf(all...)); err != nil {
			t.Fatal(err)
		}
	}
	if blocks := len(s.db.Blocks()); blocks < 4 {
		t.Fatalf("%d blocks, want 4", blocks)
	}
	return s
}

// TestJoinedSetOfBlocks: series of the head and of blocks are the same, as a whole and divided, as
// where they are merged by labels.
func TestJoinedSetOfBlocks(t *testing.T) {
	const n = 4 * leastDivided
	t.Run("others", func(t *testing.T) { testJoined(t, layers(t, n, nil)) })
	t.Run("all of one key", func(t *testing.T) { testJoined(t, layers(t, n, func(labels.Labels) uint64 { return 7 })) })
	t.Run("late samples", func(t *testing.T) {
		s := layers(t, n, nil)
		for m := -80; m < 0; m += 20 {
			var late []series.Series
			for i := range n / 3 {
				late = append(late, floats(name(fmt.Sprint("s", 3*i)), float64(at(time.Duration(m)*time.Minute))+1, 1))
			}
			mustAppend(t, s, batch(late...))
		}
		if s.db.Head().MinOOOTime() > s.db.Head().MaxOOOTime() {
			t.Fatal("no sample is late")
		}
		testJoined(t, s)
	})
	t.Run("no room for keys", func(t *testing.T) {
		s := layers(t, n, nil)
		s.blockKeys.most = 0
		testJoined(t, s)
	})
	t.Run("some is deleted", func(t *testing.T) {
		s := layers(t, n, nil)
		if err := s.db.Delete(t.Context(), at(-5*time.Hour), at(-4*time.Hour), labels.MustNewMatcher(labels.MatchRegexp, "__name__", "s1.*")); err != nil {
			t.Fatal(err)
		}
		testJoined(t, s)
	})
}

func testJoined(t *testing.T, s *Store) {
	t.Helper()
	parts, merged := 0, 0
	for _, span := range [][2]time.Duration{{-7, 1}, {-7, -4}, {-5, 0}, {-6, -5}, {-1, 1}, {-4, -3}, {0, 1}, {-9, -8}} {
		hints := &promstorage.SelectHints{Start: at(span[0]*time.Hour) + 700_000, End: at(span[1]*time.Hour) - 900_000, Step: 1, DisableTrimming: true}
		q, err := s.ChunkQuerierOf(hints.Start, hints.End, Want{Keep: infallible(func(key uint64) bool { return key%4 > 0 })})
		if err != nil {
			t.Fatal(err)
		}
		every := labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")
		want, err := readStored(q.Select(t.Context(), true, hints, every))
		if err != nil {
			t.Fatal(err)
		}
		got, err := readStored(q.Select(t.Context(), false, hints, every))
		if err != nil || !slices.EqualFunc(byLabels(got), want, equalStored) {
			t.Errorf("from %d to %d hours: %d series, want %d; %v", span[0], span[1], len(got), len(want), err)
		}
		if d, ok := q.Select(t.Context(), false, hints, every).(divisible); ok {
			if divided := d.Divide(3); divided != nil {
				if got := readDivided(t, divided); !slices.EqualFunc(got, want, equalStored) {
					t.Errorf("from %d to %d hours, in %d parts: %d series, want %d", span[0], span[1], len(divided), len(got), len(want))
				}
			}
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		p, m := joinsOf(t, s, hints)
		parts, merged = max(parts, p), merged+m
	}
	if deleted := slices.ContainsFunc(s.db.Blocks(), func(b *tsdb.Block) bool { return b.Meta().Stats.NumTombstones > 0 }); !deleted && (parts < 5 || merged == 0) {
		t.Errorf("%d parts of a series, %d are merged", parts, merged)
	}
}

// joinsOf returns how many parts a series has at most, and how many series are merged.
func joinsOf(t *testing.T, s *Store, hints *promstorage.SelectHints) (parts, merged int) {
	t.Helper()
	q, err := s.mergedChunks(hints.Start, hints.End, Want{Keep: infallible(func(uint64) bool { return true })})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set, ok := q.Select(t.Context(), false, hints, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")).(*joinedSet)
	if !ok {
		return 0, 0
	}
	for set.Next() {
		parts = max(parts, len(set.ends))
		if set.merged != nil {
			merged++
		}
	}
	if set.Err() != nil {
		t.Error(set.Err())
	}
	return parts, merged
}

// TestIndexesAreMappedForWhatTheyHave: a block in which nothing is found costs no second mapping.
func TestIndexesAreMappedForWhatTheyHave(t *testing.T) {
	s := layers(t, 2*leastDivided, nil)
	for name, mapped := range map[string]int{"absent": 0, "s5": 4} {
		q, err := s.mergedChunks(allHours.Start, allHours.End, Want{Keep: infallible(func(uint64) bool { return true })})
		if err != nil {
			t.Fatal(err)
		}
		set := q.Select(t.Context(), false, allHours, labels.MustNewMatcher(labels.MatchEqual, "__name__", name)).(*joinedSet)
		n := 0
		for _, r := range set.readers {
			if r.entries != nil {
				n++
			}
		}
		got, err := readStored(set)
		if err != nil || len(got) != min(mapped, 1) || n > mapped || n < mapped/2 {
			t.Errorf("%s: %d series, %v; %d indexes are mapped, want %d", name, len(got), err, n, mapped)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestJoinsAreBounded: of very many parts none are joined, and nobody waits for many who is gone.
func TestJoinsAreBounded(t *testing.T) {
	var j joins
	refs, ids := make([]promstorage.SeriesRef, mostJoined/2), make([]identity, mostJoined/2)
	for n := 1; n <= 2; n++ {
		if fits, err := j.add(t.Context(), refs, ids); !fits || err != nil {
			t.Errorf("%d parts are not joined, %d at most; %v", j.n, mostJoined, err)
		}
	}
	if fits, err := j.add(t.Context(), refs[:1], ids[:1]); fits || err != nil {
		t.Errorf("%d parts are joined, %d at most; %v", j.n, mostJoined, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("nobody waits")
	cancel(why)
	if _, err := new(joins).add(ctx, refs, ids); !errors.Is(err, why) {
		t.Errorf("parts are joined for nobody: %v", err)
	}
}

// TestJoinedSetBesideCompaction: nothing is missing while the head becomes blocks, and blocks one block.
func TestJoinedSetBesideCompaction(t *testing.T) {
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := mustOpen(t, o, hooks{fsync: newDisk().fsync})
	const n, hours = 2 * leastDivided, 6
	for m := 0; m < hours*60; m += 20 {
		mustAppend(t, s, batch(manySeries(n, m)...))
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.db.Compact(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for done := false; !done; {
		select {
		case <-ended:
			done = true
		default:
		}
		set, closing := untrimmed(t, s, func(uint64) bool { return true })
		// A series without samples in time may have a chunk that is open.
		if got := readDivided(t, set.(divisible).Divide(2)); len(got) < n*49/50-1 || len(got) > n {
			t.Errorf("%d series of %d", len(got), n)
		}
		closing()
	}
	if len(s.db.Blocks()) == 0 {
		t.Error("nothing was compacted")
	}
}

// TestJoinedSetWithoutEntries: an index that cannot be opened once more is read by the TSDB, which has it open.
func TestJoinedSetWithoutEntries(t *testing.T) {
	s := layers(t, leastDivided, nil)
	for _, b := range s.db.Blocks() {
		index := filepath.Join(b.Dir(), "index")
		if err := os.Rename(index, index+".away"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Rename(index+".away", index) }()
	}
	got, err := readAll(t, s)
	if joined, _ := joinsOf(t, s, allHours); err != nil || len(got) < leastDivided || joined > 0 || len(s.Damage()) > 0 {
		t.Errorf("%d series, %v; %d parts joined; damage %v", len(got), err, joined, s.Damage())
	}
}

// allHours are those of the layers.
var allHours = &promstorage.SelectHints{Start: at(-7 * time.Hour), End: at(time.Hour), DisableTrimming: true}

// readAll reads all series in no order.
func readAll(t *testing.T, s *Store) ([]storedChunks, error) {
	t.Helper()
	q, err := s.ChunkQuerierOf(allHours.Start, allHours.End, Want{Keep: infallible(func(uint64) bool { return true })})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	return readStored(q.Select(t.Context(), false, allHours, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")))
}

// TestJoinedSetNotesDamage: what cannot be read of a block is noted as its damage, and fails the read.
func TestJoinedSetNotesDamage(t *testing.T) {
	for _, broken := range []string{"index", "chunks/000001"} {
		s := layers(t, 300, nil)
		b := s.db.Blocks()[1]
		file := filepath.Join(b.Dir(), broken)
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := 4000; i < 5000; i++ {
			content[i] ^= 0xff // of entries, or of chunks, in place: the file is mapped
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = readAll(t, s)
		noted := s.Damage()
		if err == nil || len(noted) != 1 || noted[0].Kind != damage.Block || noted[0].Name != b.Meta().ULID.String() {
			t.Errorf("%s: error %v, noted %v", broken, err, noted)
		}
	}
}
