package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
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

	for share := range 4 {
		keep := func(ls labels.Labels) bool { return ls.Hash()%4 <= uint64(share) }
		all, kept := keptChunks(t, s, nil), keptChunks(t, s, keep)
		all = slices.DeleteFunc(all, func(c storedChunks) bool { return !keep(c.labels) })
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
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1), floats(name("b"), float64(at(0)), 1)))
	ctx, cancel := context.WithCancelCause(t.Context())
	asked, why := 0, errors.New("nobody waits")
	q, err := s.ChunkQuerierOf(math.MinInt64, math.MaxInt64, func(labels.Labels) bool {
		asked++
		cancel(why)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	if set.Next() || !errors.Is(set.Err(), why) || asked != 1 {
		t.Errorf("error %v after %d series", set.Err(), asked)
	}
}

// storedChunks is a series as a querier of chunks answers it.
type storedChunks struct {
	labels labels.Labels
	chunks []string
}

func keptChunks(t *testing.T, s *Store, keep func(labels.Labels) bool) (all []storedChunks) {
	t.Helper()
	q, err := s.ChunkQuerierOf(math.MinInt64, math.MaxInt64, keep)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		c := storedChunks{labels: set.At().Labels()}
		it := set.At().Iterator(nil)
		for it.Next() {
			m := it.At()
			c.chunks = append(c.chunks, fmt.Sprintf("%d %d %x", m.MinTime, m.MaxTime, m.Chunk.Bytes()))
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
