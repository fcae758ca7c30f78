package storage

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/series"
)

// anyValue is a value of any kind, one of a few of each. Counters are reset now and then.
func anyValue(r *rand.Rand, t int64) series.Sample {
	s := series.Sample{T: t}
	n := r.Int64N(6)
	switch r.IntN(8) {
	case 0:
		s.V = math.Float64frombits(value.StaleNaN)
	case 1:
		s.V = math.NaN()
	case 2:
		s.H = tsdbutil.GenerateTestHistogram(n)
	case 3:
		s.FH = tsdbutil.GenerateTestFloatHistogram(n)
	case 4:
		s.H = tsdbutil.GenerateTestGaugeHistogram(n)
	case 5:
		s.H = tsdbutil.GenerateTestCustomBucketsHistogram(n)
	default:
		s.V = float64(n)
	}
	return s
}

// conflicts are many values for the same timestamps of one series, and what is to be
// answered of them.
type conflicts struct {
	labels labels.Labels
	rand   *rand.Rand
	times  []int64
	want   map[int64]series.Sample
}

func newConflicts(ls labels.Labels, r *rand.Rand, n int) *conflicts {
	c := &conflicts{labels: ls, rand: r, want: make(map[int64]series.Sample)}
	for i := range n {
		c.times = append(c.times, at(-5*time.Hour+time.Duration(i)*time.Minute))
	}
	return c
}

// last makes a value behind all others, after which they are out of order.
func (c *conflicts) last() series.Series {
	s := series.Sample{T: at(0), V: 1}
	c.want[s.T] = s
	return series.Series{Labels: c.labels, Samples: []series.Sample{s}}
}

// round makes values for n of the timestamps, in any order, and takes note that they are held.
func (c *conflicts) round(n int) series.Series {
	sr := series.Series{Labels: c.labels}
	for _, i := range c.rand.Perm(len(c.times))[:n] {
		s := anyValue(c.rand, c.times[i])
		sr.Samples = append(sr.Samples, s)
		if old, ok := c.want[s.T]; !ok || merge.Compare(&s, &old) > 0 {
			c.want[s.T] = s
		}
	}
	return sr
}

// inOrder is a round that the head takes in order.
func (c *conflicts) inOrder(n int) series.Series {
	sr := c.round(n)
	slices.SortFunc(sr.Samples, func(a, b series.Sample) int { return cmp.Compare(a.T, b.T) })
	return sr
}

// chunks are some rounds as one series, whose chunks overlap.
func (c *conflicts) chunks(t *testing.T, rounds, n int) promstorage.ChunkSeries {
	t.Helper()
	var metas []chunks.Meta
	for range rounds {
		sr := c.inOrder(n)
		list := make([]chunks.Sample, len(sr.Samples))
		for i, s := range sr.Samples {
			list[i] = chunkSample{s}
		}
		it := promstorage.NewSeriesToChunkEncoder(promstorage.NewListSeries(sr.Labels, list)).Iterator(nil)
		for it.Next() {
			metas = append(metas, it.At())
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return chunkSeries(c.labels, metas...)
}

// check reads samples and chunks.
func (c *conflicts) check(t *testing.T, when string, s *Store) {
	t.Helper()
	q, err := s.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	cq, err := s.ChunkQuerier(math.MinInt64, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer cq.Close()
	own := labels.MustNewMatcher(labels.MatchEqual, "__name__", c.labels.Get("__name__"))
	for what, set := range map[string]promstorage.SeriesSet{
		"samples": q.Select(context.Background(), true, nil, own),
		"chunks":  promstorage.NewSeriesSetFromChunkSeriesSet(cq.Select(context.Background(), true, nil, own)),
	} {
		if !set.Next() {
			t.Fatalf("%s, %s: no series %s, %v", when, what, c.labels, set.Err())
		}
		c.compare(t, fmt.Sprint(c.labels, ", ", when, ", ", what), set.At().Iterator(nil))
	}
}

func (c *conflicts) compare(t *testing.T, when string, it chunkenc.Iterator) {
	t.Helper()
	var last series.Sample
	n := 0
	for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
		got := sampleOf(it, vt)
		want, ok := c.want[got.T]
		if !ok || !sameValue(got, want) {
			t.Fatalf("%s: at %d there is %+v, want %+v", when, got.T, got, want)
		}
		if got.H != nil && last.H != nil && got.H.CounterResetHint == histogram.NotCounterReset && got.H.Count < last.H.Count {
			t.Errorf("%s: at %d a count falls from %d to %d, and is said not to be reset", when, got.T, last.H.Count, got.H.Count)
		}
		last = got
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	if n != len(c.want) {
		t.Fatalf("%s: %d samples, want %d", when, n, len(c.want))
	}
}

func sampleOf(it chunkenc.Iterator, vt chunkenc.ValueType) series.Sample {
	s := series.Sample{T: it.AtT()}
	switch vt {
	case chunkenc.ValHistogram:
		_, s.H = it.AtHistogram(nil)
	case chunkenc.ValFloatHistogram:
		_, s.FH = it.AtFloatHistogram(nil)
	default:
		_, s.V = it.At()
	}
	return s
}

// chunkSample makes a series.Sample a chunks.Sample.
type chunkSample struct{ s series.Sample }

func (s chunkSample) T() int64                      { return s.s.T }
func (s chunkSample) ST() int64                     { return s.s.ST }
func (s chunkSample) F() float64                    { return s.s.V }
func (s chunkSample) H() *histogram.Histogram       { return s.s.H }
func (s chunkSample) FH() *histogram.FloatHistogram { return s.s.FH }
func (s chunkSample) Copy() chunks.Sample           { return s }

func (s chunkSample) Type() chunkenc.ValueType {
	switch {
	case s.s.FH != nil:
		return chunkenc.ValFloatHistogram
	case s.s.H != nil:
		return chunkenc.ValHistogram
	}
	return chunkenc.ValFloat
}

// sameValue takes stale markers for equal: the TSDB stores them with the type of the sample
// before.
func sameValue(a, b series.Sample) bool {
	return isStale(a) && isStale(b) || merge.Compare(&a, &b) == 0
}

func isStale(s series.Sample) bool {
	switch {
	case s.H != nil:
		return value.IsStaleNaN(s.H.Sum)
	case s.FH != nil:
		return value.IsStaleNaN(s.FH.Sum)
	}
	return value.IsStaleNaN(s.V)
}

// TestGreatestOfConflictingValues has a store take several values for each timestamp of some
// series: in order, out of order, and as blocks. The answer is the greatest of those in the head
// and in blocks, before and after each compaction.
func TestGreatestOfConflictingValues(t *testing.T) {
	const full = 32 // samples of an out-of-order chunk
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, importOptions(filepath.Join(t.TempDir(), "data")), hooks{fsync: newDisk().fsync})
		all := make([]*conflicts, 20)
		for i := range all {
			all[i] = newConflicts(name(fmt.Sprintf("series_%02d", i)), rand.New(rand.NewPCG(uint64(i), 0)), 4*full)
		}
		check := func(when string) {
			t.Helper()
			for _, c := range all {
				c.check(t, when, s)
			}
		}
		take := func(round func(c *conflicts) series.Series) {
			t.Helper()
			b := new(series.Batch)
			for _, c := range all {
				b.Series = append(b.Series, round(c))
			}
			if err := s.Import(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		compact := func() {
			t.Helper()
			if err := s.db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.db.DisableCompactions()
		take(func(c *conflicts) series.Series { return c.inOrder(3 * full) })
		take(func(c *conflicts) series.Series { return c.last() })
		check("in order")
		// Among what the head holds the TSDB chooses.
		outOfOrder := func(n int) {
			t.Helper()
			take(func(c *conflicts) series.Series { return c.round(n) })
			if err := s.db.CompactOOOHead(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			outOfOrder(full * (1 + all[0].rand.IntN(3)))
			check("out of order")
		}
		s.db.EnableCompactions()
		compact()
		check("compacted")
		for range 2 {
			outOfOrder(full)
			set := chunkSetOf()
			for _, c := range all {
				set.rest = append(set.rest, c.chunks(t, 2, 50))
			}
			if _, err := s.ImportBlock(t.Context(), at(-5*time.Hour), at(-2*time.Hour), set); err != nil {
				t.Fatal(err)
			}
			check("imported")
		}
		compact()
		check("compacted again")
		if n := len(s.db.Blocks()); n > 3 {
			t.Errorf("%d blocks, which still overlap", n)
		}
	})
}
