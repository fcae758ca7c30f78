package storage

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/series"
)

// TestJoinedSetOfWhatIsLookedAt leaves out chunks, of the head and of blocks, but no sample of those times,
// whatever else overlaps them.
func TestJoinedSetOfWhatIsLookedAt(t *testing.T) {
	// Ten minutes in each hour.
	const step, back = 3_600_000, 600_000
	looks := func(mint, maxt int64) bool { return mint%step < back || mint/step < maxt/step }
	for _, late := range []bool{false, true} {
		s := layers(t, 4*leastDivided, nil)
		if late {
			mustAppend(t, s, batch(floats(name("s3"), float64(at(-20*time.Minute))+1, 1)))
		}
		read := func(looks func(mint, maxt int64) bool) (samples []string, chunks, series int) {
			hints := &promstorage.SelectHints{Start: at(-9 * time.Hour), End: at(time.Hour), DisableTrimming: true}
			q, err := s.ChunkQuerierOf(hints.Start, hints.End, Want{Keep: infallible(func(uint64) bool { return true }), Looks: looks})
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			set := q.Select(t.Context(), false, hints, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
			for _, part := range set.(divisible).Divide(2) {
				for part.Next() {
					points, n := decoded(t, part.At())
					for _, p := range points {
						if p.T%step < back {
							samples = append(samples, fmt.Sprint(part.At().Labels(), p.T, p.V))
						}
					}
					series, chunks = series+1, chunks+n
				}
				if err := part.Err(); err != nil {
					t.Fatal(err)
				}
			}
			slices.Sort(samples)
			return samples, chunks, series
		}
		want, all, _ := read(nil)
		got, some, _ := read(looks)
		if !slices.Equal(got, want) {
			t.Errorf("late samples %t: %d samples of these times, want %d", late, len(got), len(want))
		}
		if some > all*3/4 || len(want) == 0 {
			t.Errorf("late samples %t: %d of %d chunks for %d samples", late, some, all, len(want))
		}
		if _, chunks, series := read(func(int64, int64) bool { return false }); chunks > 0 || series > 0 {
			t.Errorf("late samples %t: %d chunks of %d series where nothing is looked at", late, chunks, series)
		}
	}
}

// decoded returns the floats of a series, and how many chunks they are in.
func decoded(t *testing.T, s promstorage.ChunkSeries) (samples []series.Sample, chunks int) {
	t.Helper()
	it := s.Iterator(nil)
	for ; it.Next(); chunks++ {
		c := it.At().Chunk.Iterator(nil)
		for c.Next() == chunkenc.ValFloat {
			ts, v := c.At()
			samples = append(samples, series.Sample{T: ts, V: v})
		}
		if err := c.Err(); err != nil {
			t.Error(err)
		}
	}
	if err := it.Err(); err != nil {
		t.Error(err)
	}
	return samples, chunks
}
