package storage

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// divisible is what a set of the head alone is.
type divisible interface {
	promstorage.ChunkSeriesSet
	Divide(most int) []promstorage.ChunkSeriesSet
}

// untrimmed selects the part of all series of the head that keep tells, as they are, from the
// first minute on. close ends the selection.
func untrimmed(t *testing.T, s *Store, keep func(key uint64) bool) (set promstorage.ChunkSeriesSet, closing func()) {
	t.Helper()
	hints := &promstorage.SelectHints{Start: at(time.Minute), End: at(time.Hour), Step: 1, DisableTrimming: true}
	q, err := s.ChunkQuerierOf(hints.Start, hints.End, infallible(keep))
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

// TestHeadSet: series are the same, as a whole and divided, as the TSDB's own set has them, with
// those alone that have samples in time.
func TestHeadSet(t *testing.T) {
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

// TestHeadSetBesideAppends: what is committed meanwhile is there as a whole or not at all.
func TestHeadSetBesideAppends(t *testing.T) {
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

// TestHeadSetWithoutWhatIsDeleted: what the TSDB was told to delete is not there.
func TestHeadSetWithoutWhatIsDeleted(t *testing.T) {
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
