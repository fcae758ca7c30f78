package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// TestChunkQuerierOf: what is kept is answered as it would be among all series, from head,
// late samples and a block, in the same order.
func TestChunkQuerierOf(t *testing.T) {
	s := mustOpen(t, importOptions(filepath.Join(t.TempDir(), "data")), hooks{fsync: newDisk().fsync})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
	rnd := rand.New(rand.NewPCG(1, 1))
	names := rnd.Perm(200)
	var block []promstorage.ChunkSeries
	for _, n := range slices.Sorted(slices.Values(names[50:150])) {
		base := at(-3 * time.Hour)
		block = append(block, chunkSeries(name(fmt.Sprintf("s%03d", n)), floatChunk(t, float64(n), base+1, base+2)))
	}
	if _, err := s.ImportBlock(t.Context(), at(-3*time.Hour), at(-2*time.Hour), chunkSetOf(block...)); err != nil {
		t.Fatal(err)
	}
	var recent, late []series.Series
	for i, n := range names[:120] {
		ls := name(fmt.Sprintf("s%03d", n))
		recent = append(recent, floats(ls, float64(at(time.Minute)), float64(n)))
		if i%3 == 0 {
			late = append(late, floats(ls, float64(at(0)), float64(n)))
		}
	}
	mustAppend(t, s, batch(recent...))
	mustAppend(t, s, batch(late...))

	expectShares(t, s)
}

// TestKeysAreRemembered: of series in the head keys are asked for once, and mean the same series
// when they were, after others have come and gone, and after the TSDB has been opened anew.
func TestKeysAreRemembered(t *testing.T) {
	o := testOptions(t.TempDir())
	asked := 0
	o.Key = func(ls labels.Labels) uint64 { asked++; return ls.Hash() }
	s := mustOpen(t, o, hooks{})
	const n = 3 * keysPerPage
	write := func(generation int) {
		var all []series.Series
		for i := range n {
			all = append(all, floats(name(fmt.Sprintf("s%d_%d", generation, i)), float64(at(0)), float64(i)))
		}
		mustAppend(t, s, batch(all...))
	}
	write(0)
	expectShares(t, s)
	if asked != n {
		t.Errorf("%d keys for %d series", asked, n)
	}
	write(1)
	expectShares(t, s)
	if asked != 2*n {
		t.Errorf("%d keys for %d series", asked, 2*n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o, hooks{})
	write(2)
	expectShares(t, s)
	if asked != 5*n {
		t.Errorf("%d keys for %d series, most of them twice", asked, 3*n)
	}
}

// TestKeysAreBounded: numbers of series that have gone do not add up.
func TestKeysAreBounded(t *testing.T) {
	k := &seriesKeys{}
	pages := func() (n int) {
		k.pages.Range(func(any, any) bool { n++; return true })
		return n
	}
	for number := range uint64(10_000) {
		p := k.page(number, 100*keysPerPage)
		p.store(promstorage.SeriesRef(number), identity{key: number})
		if k.page(number, 100*keysPerPage) != p {
			t.Fatal("a page was not remembered")
		}
		if n := pages(); n > 400+spare {
			t.Fatalf("%d pages", n)
		}
	}
	if n := pages(); n < 100 {
		t.Errorf("%d pages are left of series that are there", n)
	}
}

// expectShares compares what is kept, of several shares, with what it is of all.
func expectShares(t *testing.T, s *Store) {
	t.Helper()
	for share := range uint64(4) {
		keep := func(key uint64) bool { return key%4 <= share }
		all, kept := keptChunks(t, s, nil), keptChunks(t, s, keep)
		all = slices.DeleteFunc(all, func(c storedChunks) bool { return !keep(c.labels.Hash()) })
		if len(kept) == 0 || !slices.EqualFunc(all, kept, func(a, b storedChunks) bool {
			return labels.Equal(a.labels, b.labels) && slices.Equal(a.chunks, b.chunks)
		}) {
			t.Errorf("%d of four parts: %v, of all %v", share+1, kept, all)
		}
	}
}

// TestChunkQuerierOfIsCanceled: the head is not gone through for nobody.
func TestChunkQuerierOfIsCanceled(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	var many []series.Series
	for i := range 2 * keysPerPage {
		many = append(many, floats(name(fmt.Sprint("s", i)), float64(at(0)), 1))
	}
	mustAppend(t, s, batch(many...))
	ctx, cancel := context.WithCancelCause(t.Context())
	asked, why := 0, errors.New("nobody waits")
	q, err := s.ChunkQuerierOf(at(-time.Hour), at(time.Hour), Want{Keep: func(uint64) (bool, error) {
		asked++
		cancel(why)
		return true, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	if set.Next() || !errors.Is(set.Err(), why) || asked > keysPerPage {
		t.Errorf("error %v after %d series", set.Err(), asked)
	}
}

// TestChunkQuerierOfFails: an error of who tells what is kept ends a read of the head, with late samples
// and without, and of blocks, and is no damage.
func TestChunkQuerierOfFails(t *testing.T) {
	s := mustOpen(t, importOptions(filepath.Join(t.TempDir(), "data")), hooks{fsync: newDisk().fsync})
	enough := errors.New("enough")
	fails := func(what string, from, to time.Duration) {
		t.Helper()
		asked := 0
		q, err := s.ChunkQuerierOf(at(from), at(to), Want{Keep: func(uint64) (bool, error) {
			asked++
			return true, enough
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		set := q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
		if set.Next() || !errors.Is(set.Err(), enough) || asked != 1 || len(s.Damage()) > 0 {
			t.Errorf("%s: error %v after %d series, damage %v", what, set.Err(), asked, s.Damage())
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(enough)
		set = q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
		if set.Next() || set.Err() == nil || len(s.Damage()) > 0 {
			t.Errorf("%s, canceled: error %v, damage %v", what, set.Err(), s.Damage())
		}
	}
	mustAppend(t, s, batch(sampleAt(name("a"), at(time.Minute)), sampleAt(name("b"), at(time.Minute))))
	fails("head", 0, time.Hour)
	mustAppend(t, s, batch(sampleAt(name("a"), at(0)), sampleAt(name("b"), at(0))))
	fails("late samples", 0, time.Hour)
	base := at(-3 * time.Hour)
	set := chunkSetOf(chunkSeries(name("a"), floatChunk(t, 1, base+1)), chunkSeries(name("b"), floatChunk(t, 1, base+1)))
	if _, err := s.ImportBlock(t.Context(), base, at(-2*time.Hour), set); err != nil {
		t.Fatal(err)
	}
	fails("block", -3*time.Hour, -2*time.Hour)
}

// infallible is how a store wants to be told what is kept.
func infallible(keep func(key uint64) bool) func(key uint64) (bool, error) {
	if keep == nil {
		return nil
	}
	return func(key uint64) (bool, error) { return keep(key), nil }
}

// TestKeptSetIsCanceled: of series that are all left out not many more are looked at.
func TestKeptSetIsCanceled(t *testing.T) {
	var rest []promstorage.ChunkSeries
	for i := range 10 * leftOut {
		rest = append(rest, &promstorage.ChunkSeriesEntry{Lset: name(fmt.Sprint("s", i))})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	looked, why := 0, errors.New("nobody waits")
	set := &keptSet{ChunkSeriesSet: &listedSet{rest: rest}, ctx: ctx, keep: func(labels.Labels) (bool, error) {
		if looked++; looked == leftOut+1 {
			cancel(why)
		}
		return false, nil
	}}
	if set.Next() || !errors.Is(set.Err(), why) || looked > 2*leftOut || set.Next() {
		t.Errorf("error %v after %d series", set.Err(), looked)
	}
}

// storedChunks is a series as a querier of chunks answers it.
type storedChunks struct {
	labels labels.Labels
	chunks []string
}

func keptChunks(t *testing.T, s *Store, keep func(key uint64) bool) (all []storedChunks) {
	t.Helper()
	q, err := s.ChunkQuerierOf(at(-24*time.Hour), at(24*time.Hour), Want{Keep: infallible(keep)})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	all, err = readStored(q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")))
	if err != nil {
		t.Fatal(err)
	}
	return all
}
