package repair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	store "github.com/starling-tsdb/starling/internal/storage"
	"github.com/starling-tsdb/starling/internal/table"
)

// owners are three nodes with stores of their own that own all series of two of three names.
type owners struct {
	*testing.T
	stores    [3]*store.Store
	comparers [3]*Comparer
	cut       [3]bool
	copied    atomic.Int64
	epoch     uint64
}

func newOwners(t *testing.T) *owners {
	t.Helper()
	o := &owners{T: t, epoch: 4}
	for i := range o.stores {
		s, err := store.Open(store.Options{Dir: t.TempDir(), OutOfOrderWindow: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		o.stores[i] = s
		o.comparers[i] = NewComparer(ComparerOptions{
			Store: s, Shared: func() *Shared { return o.shared(i) }, Logger: slog.New(slog.DiscardHandler),
			Oldest: func() int64 {
				h, err := s.Holding()
				if err != nil {
					t.Error(err)
				}
				return h.Oldest
			},
		})
	}
	return o
}

// owning are the slots that own a series, and key its partition key.
func owning(ls labels.Labels, dst []int) (key uint64, slots []int) {
	key = ls.Hash()
	for slot := range 3 {
		if uint64(slot) != key%3 {
			dst = append(dst[:len(dst):len(dst)], slot)
		}
	}
	return key, dst
}

func (o *owners) shared(self int) *Shared {
	s := &Shared{Epoch: o.epoch, Self: self, Names: []table.NodeID{"a", "b", "c", ""}, Twins: map[int]Twin{}}
	s.Owners = func(ls labels.Labels, dst []int) (uint64, []int) { return owning(ls, dst[:0]) }
	for slot := range o.stores {
		if slot != self && !o.cut[slot] && !o.cut[self] {
			s.Twins[slot] = ownerTwin{o, slot, s.Names[self]}
		}
	}
	return s
}

// ownerTwin is an owner as another one sees it.
type ownerTwin struct {
	o    *owners
	slot int
	asks table.NodeID
}

func (w ownerTwin) Digests(ctx context.Context, window proof.Range) (*proof.Sums, error) {
	return w.o.comparers[w.slot].Digests(ctx, w.o.epoch, w.asks, window)
}

func (w ownerTwin) Copy(ctx context.Context, ranges uint64, window proof.Range) storage.ChunkSeriesSet {
	w.o.copied.Add(1)
	q, err := w.o.stores[w.slot].ChunkQuerier(window.Min, window.Max)
	if err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	context.AfterFunc(ctx, func() { q.Close() })
	return &inRanges{q.Select(ctx, true, nil, handoff.Everything()...), ranges, int(w.asks[0] - 'a')}
}

func (w ownerTwin) Compare(_ context.Context, window proof.Range) error {
	w.o.comparers[w.slot].Compare(window)
	return nil
}

// inRanges leaves the series in some ranges that a slot owns.
type inRanges struct {
	storage.ChunkSeriesSet
	ranges uint64
	slot   int
}

func (s *inRanges) Next() bool {
	for s.ChunkSeriesSet.Next() {
		key, slots := owning(s.At().Labels(), nil)
		if s.ranges>>proof.KeyRange(key)&1 != 0 && slices.Contains(slots, s.slot) {
			return true
		}
	}
	return false
}

// contents are the samples that an owner holds and owns.
func (o *owners) contents(slot int) map[string]series.Sample {
	o.Helper()
	q, err := o.stores[slot].Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		o.Fatal(err)
	}
	defer q.Close()
	all := map[string]series.Sample{}
	set := q.Select(o.Context(), true, nil, handoff.Everything()...)
	for set.Next() {
		if _, slots := owning(set.At().Labels(), nil); !slices.Contains(slots, slot) {
			continue
		}
		it := set.At().Iterator(nil)
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			sample := merge.SampleAt(it, typ)
			all[keyOf(set.At().Labels(), sample)] = sample
		}
	}
	if set.Err() != nil {
		o.Fatal(set.Err())
	}
	return all
}

// run has all owners compare for a while.
func (o *owners) run(d time.Duration) {
	ctx, cancel := context.WithTimeout(o.Context(), d)
	defer cancel()
	done := make(chan struct{})
	for _, c := range o.comparers {
		go func() { c.Run(ctx); done <- struct{}{} }()
	}
	for range o.comparers {
		<-done
	}
}

// random puts n random samples on random owners, and returns those that all are to have: of
// each timestamp the greatest value.
func (o *owners) random(seed uint64, n int) (want map[string]series.Sample) {
	o.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	want = map[string]series.Sample{}
	// What is older than this can be imported.
	now := labels.FromStrings("__name__", "now")
	latest := series.Sample{T: time.Now().UnixMilli(), V: 1}
	begin := time.Now().Add(-14 * time.Hour).Truncate(time.Minute).UnixMilli()
	want[keyOf(now, latest)] = latest
	for slot, s := range o.stores {
		byName := map[string][]series.Sample{}
		taken := map[string]bool{}
		for i := range n {
			// All owners draw the same series and times, and each its own values.
			draw := rand.New(rand.NewPCG(seed, uint64(i)))
			name, at := fmt.Sprint("m", draw.IntN(20)), begin+int64(draw.IntN(8*60))*time.Minute.Milliseconds()
			sample := series.Sample{T: at, V: float64(rng.IntN(3))}
			ls := labels.FromStrings("__name__", name)
			if _, slots := owning(ls, nil); !slices.Contains(slots, slot) || taken[keyOf(ls, sample)] || rng.IntN(3) == 0 {
				continue
			}
			taken[keyOf(ls, sample)] = true
			byName[name] = append(byName[name], sample)
			if old, ok := want[keyOf(ls, sample)]; !ok || merge.Compare(&sample, &old) > 0 {
				want[keyOf(ls, sample)] = sample
			}
		}
		batch := &series.Batch{Series: []series.Series{{Labels: now, Samples: []series.Sample{latest}}}}
		for name, samples := range byName {
			batch.Series = append(batch.Series, series.Series{Labels: labels.FromStrings("__name__", name), Samples: samples})
		}
		if err := s.Import(o.Context(), batch); err != nil {
			o.Fatal(err)
		}
	}
	return want
}

func keyOf(ls labels.Labels, s series.Sample) string { return fmt.Sprintf("%s@%d", ls, s.T) }

func (o *owners) check(want map[string]series.Sample) {
	o.Helper()
	for slot := range o.stores {
		owned := maps.Clone(want)
		for key := range owned {
			name := strings.Split(key, `"`)[1]
			if _, slots := owning(labels.FromStrings("__name__", name), nil); !slices.Contains(slots, slot) {
				delete(owned, key)
			}
		}
		got := o.contents(slot)
		if len(got) != len(owned) {
			o.Errorf("owner %d holds %d samples, want %d", slot, len(got), len(owned))
		}
		for key, s := range owned {
			if g, ok := got[key]; !ok || merge.Compare(&g, &s) != 0 {
				o.Errorf("owner %d: %s is %v, want %v", slot, key, got[key].V, s.V)
				break
			}
		}
	}
}

// Whatever each owner took by itself, all of them hold all of it in the end, with the greatest
// value for each timestamp; and then they are left alone.
func TestOwnersBecomeEqual(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOwners(t)
				want := o.random(seed, 1000)
				o.run(PassTime + time.Hour)
				o.check(want)
				o.copied.Store(0)
				o.run(PassTime + time.Hour)
				if n := o.copied.Load(); n > 0 {
					t.Errorf("owners that are equal copied %d times", n)
				}
				for slot, c := range o.comparers {
					if at := time.Unix(int64(testutil.ToFloat64(c.lastPass)), 0); time.Since(at) > PassTime+time.Hour || time.Since(at) < 0 {
						t.Errorf("owner %d: the last full pass is of %s, now is %s", slot, at, time.Now())
					}
				}
			})
		})
	}
}

// Somebody who asks does not wait for a day.
func TestCompareSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwners(t)
		want := o.random(9, 300)
		for _, c := range o.comparers {
			c.Compare(proof.Range{Min: math.MinInt64, Max: math.MaxInt64})
		}
		if n := o.comparers[0].Wanted(); n < 6 || n > 9 {
			t.Errorf("%d windows wanted", n)
		}
		o.run(20 * time.Minute)
		o.check(want)
	})
}

// An owner that is not there is compared with when it is back, and nobody claims that a pass is
// complete before.
func TestAbsentOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwners(t)
		o.cut[1] = true
		want := o.random(5, 300)
		o.run(PassTime + time.Hour)
		if at := testutil.ToFloat64(o.comparers[0].lastPass); at != 0 {
			t.Errorf("the last full pass is of %v", at)
		}
		if at, err := o.comparers[0].Digests(t.Context(), o.epoch+1, "b", proof.Range{}); err == nil {
			t.Errorf("digests of another epoch: %v", at)
		}
		o.cut[1] = false
		o.run(PassTime + time.Hour)
		o.check(want)
	})
}

// A window of which this node has lost a part is left to those who make that good.
func TestBrokenTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwners(t)
		o.random(6, 300)
		s := o.shared(0)
		edge := handoff.WindowEdge(time.Now().Add(-12 * time.Hour).UnixMilli())
		window := proof.Range{Min: edge - handoff.WindowSpan.Milliseconds(), Max: edge - 1}
		broken := brokenTwin{s.Twins[1]}
		s.Twins[1] = broken
		if different, err := o.comparers[0].with(t.Context(), s, 1, window); !different || !errors.Is(err, errBroken) {
			t.Errorf("different %v, error %v", different, err)
		}
		if different, err := o.comparers[0].with(t.Context(), s, 3, window); different || err == nil {
			t.Errorf("nobody: different %v, error %v", different, err)
		}
	})
}

var errBroken = errors.New("the stream broke off")

type brokenTwin struct{ Twin }

func (brokenTwin) Copy(context.Context, uint64, proof.Range) storage.ChunkSeriesSet {
	return storage.ErrChunkSeriesSet(errBroken)
}
