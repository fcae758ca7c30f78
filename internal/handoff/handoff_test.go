package handoff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/gaps"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	store "github.com/starling-tsdb/starling/internal/storage"
	"github.com/starling-tsdb/starling/internal/table"
)

// rig is a giver and a taker with real stores and real notes, and no network.
type rig struct {
	*testing.T
	theirs, own *store.Store
	book        *gaps.Book
	taker       *Taker
	giver       *Giver
	table       *table.Table
	onAdvance   func() // called before the gap is advanced
	windows     int
	flow        Flow
}

func newRig(t *testing.T, bytesPerSecond int64) *rig {
	t.Helper()
	r := &rig{T: t, table: &table.Table{Epoch: 1, Current: table.Assignment{Slots: []table.Slot{{Node: "giver"}, {Node: "taker"}}}}}
	r.theirs, r.own = r.open(), r.open()
	var err error
	if r.book, err = gaps.Open(gaps.Options{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.book.Close)
	r.giver = NewGiver(GiverOptions{
		Book: r.book, Source: r.theirs, BytesPerSecond: bytesPerSecond,
		Flow: &r.flow, Fraction: func() float64 { return 0.5 },
		Owns: func(epoch uint64, peer table.NodeID) (func(labels.Labels) bool, error) {
			if epoch != r.table.Epoch {
				return nil, &table.MismatchError{Have: r.table, Want: epoch}
			}
			return func(ls labels.Labels) bool { return peer == "taker" && ls.Get("own") != "no" }, nil
		},
	})
	r.taker = NewTaker(TakerOptions{
		Self: "taker", Store: r.own, Damaged: store.ErrDamaged, Logger: slog.New(slog.DiscardHandler),
		Table: func() *table.Table { return r.table },
		Peers: func() map[table.NodeID]Peer { return map[table.NodeID]Peer{"giver": r} },
	})
	return r
}

func (r *rig) open() *store.Store {
	r.Helper()
	s, err := store.Open(store.Options{Dir: r.TempDir(), OutOfOrderWindow: time.Hour})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { s.Close() })
	return s
}

// State implements Peer.
func (r *rig) State(context.Context, *table.Table) (proof.State, error) {
	return proof.State{Gaps: r.book.Open()}, nil
}

// HandOff implements Peer.
func (r *rig) HandOff(ctx context.Context, t *table.Table, self table.NodeID, session uint64) (proof.Window, storage.ChunkSeriesSet, error) {
	w, set, err := r.giver.Give(ctx, t.Epoch, self, session)
	if err != nil || set == nil {
		return w, nil, err
	}
	r.windows++
	context.AfterFunc(ctx, func() { set.Close() })
	return w, set, nil
}

// Advance implements Peer.
func (r *rig) Advance(ctx context.Context, _ *table.Table, self table.NodeID, w proof.Window) (bool, error) {
	if r.onAdvance != nil {
		r.onAdvance()
	}
	return r.giver.Advance(ctx, self, w.Session, w.Until)
}

func (r *rig) visit() { r.taker.visit(r.Context(), r.table, "giver", r) }

// put stores samples one minute apart, whatever their age.
func (r *rig) put(s *store.Store, name string, first time.Time, n int) {
	r.Helper()
	sr := series.Series{Labels: labels.FromStrings("__name__", name)}
	for i := range n {
		t := first.Add(time.Duration(i) * time.Minute).UnixMilli()
		sr.Samples = append(sr.Samples, series.Sample{T: t, V: float64(t)})
	}
	if err := s.Import(r.Context(), &series.Batch{Series: []series.Series{sr}}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) contents(s *store.Store) map[string]string {
	r.Helper()
	q, err := s.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		r.Fatal(err)
	}
	defer q.Close()
	all := map[string]string{}
	set := q.Select(r.Context(), true, nil, Everything()...)
	for set.Next() {
		it := set.At().Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			key := fmt.Sprintf("%s@%d", set.At().Labels(), it.AtT())
			switch vt {
			case chunkenc.ValHistogram:
				_, h := it.AtHistogram(nil)
				all[key] = h.String()
			case chunkenc.ValFloatHistogram:
				_, fh := it.AtFloatHistogram(nil)
				all[key] = fh.String()
			default:
				_, v := it.At()
				all[key] = fmt.Sprint(v)
			}
		}
	}
	if set.Err() != nil {
		r.Fatal(set.Err())
	}
	return all
}

func (r *rig) note(since time.Time) {
	r.Helper()
	if err := r.book.Note(r.Context(), "taker", since.UnixMilli()); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) wantEqual() {
	r.Helper()
	theirs, own := r.contents(r.theirs), r.contents(r.own)
	for key, v := range theirs {
		if own[key] != v {
			r.Fatalf("%s is %q, the peer has %q; %d samples of %d", key, own[key], v, len(own), len(theirs))
		}
	}
	if len(own) != len(theirs) {
		r.Errorf("%d samples, the peer has %d", len(own), len(theirs))
	}
	if open := r.book.Open(); len(open) != 0 {
		r.Errorf("still open: %v", open)
	}
}

// A node that was away for two days takes what it lacks, in windows, and nothing else.
func TestTakeAfterALongOutage(t *testing.T) {
	if testing.Short() {
		t.Skip("days of virtual time")
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		<-time.After(80 * time.Hour)
		crash := time.Now().Add(-48 * time.Hour)
		for _, s := range []*store.Store{r.theirs, r.own} {
			r.put(s, "a", crash.Add(-time.Hour), 60)
			r.put(s, "b", crash.Add(-time.Hour), 60)
		}
		r.put(r.theirs, "a", crash, 48*60)
		r.put(r.theirs, "new", crash.Add(time.Hour), 48*60)
		r.put(r.own, "a", crash.Add(48*time.Hour), 1) // a write since it is back
		r.put(r.theirs, "a", crash.Add(48*time.Hour), 1)
		r.note(crash)
		r.visit()
		r.wantEqual()
		if r.windows < 20 {
			t.Errorf("%d windows: an outage of two days must not be one piece", r.windows)
		}
	})
}

// What is expired on one of the two is neither read nor stored, however long ago the gap began.
func TestNothingExpiredIsHandedOff(t *testing.T) {
	for _, whose := range []string{"giver", "taker"} {
		t.Run("on the "+whose, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 1<<30)
				old, horizon := time.Now().Add(-20*24*time.Hour), time.Now().Add(-10*time.Hour)
				r.put(r.theirs, "a", old, 100)
				r.put(r.theirs, "a", horizon.Add(-10*time.Minute), 20)
				r.put(r.own, "b", time.Now(), 1)
				r.expire(map[string]*store.Store{"giver": r.theirs, "taker": r.own}[whose], horizon)
				r.note(old.Add(-20 * 24 * time.Hour))
				r.visit()
				if got := r.contents(r.own); len(got) != 1+10 {
					t.Errorf("the taker has %d samples: %v", len(got), got)
				}
				if open := r.book.Open(); len(open) != 0 {
					t.Errorf("still open: %v", open)
				}
				if whose == "giver" && r.windows > 8 {
					t.Errorf("%d windows for ten hours", r.windows)
				}
			})
		})
	}
}

// expire has a store hear of a horizon.
func (r *rig) expire(s *store.Store, before time.Time) {
	r.Helper()
	h := expiry.Horizon{Time: expiry.None, Size: before.UnixMilli()}
	if err := s.AdoptHorizon(r.Context(), h); err != nil {
		r.Fatal(err)
	}
	if s.Horizon().At() != h.At() {
		r.Fatalf("horizon %+v, want %+v", s.Horizon(), h)
	}
}

func TestTakeNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		start := time.Now()
		r.put(r.theirs, "a", start, 100)
		r.put(r.own, "a", start.Add(20*time.Minute), 40)
		<-time.After(2 * time.Hour)
		r.note(start)
		n, err := r.taker.take(t.Context(), r.table, "giver", r)
		if err != nil || n != 60 {
			t.Errorf("took %d samples, want the 60 that were lacking; %v", n, err)
		}
		r.wantEqual()
	})
}

// A hand-off that brings nothing is not repeated at once, and one that brings something is.
func TestIdleHandOffsBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		for range 600 { // ten minutes
			r.note(time.Now())
			r.visit()
			<-time.After(time.Second)
		}
		if r.windows < 15 || r.windows > 30 {
			t.Errorf("%d hand-offs that brought nothing in ten minutes", r.windows)
		}
		<-time.After(time.Minute)
		r.windows = 0
		for i := range 10 {
			r.put(r.theirs, fmt.Sprint("m", i), time.Now(), 1)
			r.note(time.Now())
			r.visit()
		}
		if r.windows != 10 {
			t.Errorf("%d hand-offs, want all 10, which bring something", r.windows)
		}
	})
}

func TestTakeWhatItOwns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		r.put(r.theirs, "a", time.Now(), 10)
		foreign := series.Series{Labels: labels.FromStrings("__name__", "b", "own", "no"), Samples: []series.Sample{{T: time.Now().UnixMilli()}}}
		if err := r.theirs.Import(t.Context(), &series.Batch{Series: []series.Series{foreign}}); err != nil {
			t.Fatal(err)
		}
		r.note(time.Now())
		r.visit()
		if got := r.contents(r.own); len(got) != 10 {
			t.Errorf("%d samples, want the 10 of the series that it owns", len(got))
		}
	})
}

func TestHistogramsAreHandedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		now := time.Now().UnixMilli()
		b := &series.Batch{Series: []series.Series{{Labels: labels.FromStrings("__name__", "h"), Samples: []series.Sample{
			{T: now, H: tsdbutil.GenerateTestHistogram(1)}, {T: now + 1, H: tsdbutil.GenerateTestHistogram(7)},
			{T: now + 2, FH: tsdbutil.GenerateTestFloatHistogram(3)}, {T: now + 3, V: 5},
		}}}}
		if err := r.theirs.Import(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		r.note(time.Now())
		r.visit()
		r.wantEqual()
	})
}

// What is missed while the hand-off runs is taken as well, before the gap closes.
func TestMissesDuringTheHandOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		start := time.Now()
		r.put(r.theirs, "a", start, 100)
		r.note(start)
		missed := 0
		r.onAdvance = func() {
			if missed++; missed <= 3 {
				r.put(r.theirs, "a", start.Add(time.Duration(100+missed)*time.Minute), 1)
				r.note(start.Add(time.Duration(100+missed) * time.Minute))
			}
		}
		r.visit()
		r.wantEqual()
		if r.windows < 4 {
			t.Errorf("%d windows, want one for each miss", r.windows)
		}
	})
}

// A hand-off that breaks off goes on where the last window ended.
func TestHandOffGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		<-time.After(20 * time.Hour)
		start := time.Now().Add(-12 * time.Hour)
		r.put(r.theirs, "a", start, 12*60)
		r.note(start)
		ctx, cancel := context.WithCancel(t.Context())
		r.onAdvance = func() {
			if r.windows == 3 {
				cancel()
			}
		}
		if _, err := r.taker.take(ctx, r.table, "giver", r); !errors.Is(err, context.Canceled) {
			t.Fatalf("take: %v", err)
		}
		if since := r.book.Open()[0].Since; since <= start.UnixMilli() {
			t.Errorf("the gap still begins at %d", since)
		}
		r.onAdvance = nil
		n, err := r.taker.take(t.Context(), r.table, "giver", r)
		if err != nil || n >= 12*60-120 {
			t.Errorf("took %d samples again, %v", n, err)
		}
		r.wantEqual()
	})
}

func TestRateIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100_000)
		rng := rand.New(rand.NewPCG(1, 1))
		now := time.Now()
		var b series.Batch
		for i := range 400 {
			s := series.Series{Labels: labels.FromStrings("__name__", fmt.Sprintf("m%03d", i))}
			for j := range 1000 {
				s.Samples = append(s.Samples, series.Sample{T: now.UnixMilli() + int64(j), V: rng.Float64()})
			}
			b.Series = append(b.Series, s)
		}
		if err := r.theirs.Import(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		r.note(now)
		start := time.Now()
		r.visit()
		r.wantEqual()
		// Some 3.2 MB of incompressible samples, of which the first is not waited for.
		if took := time.Since(start); took < 15*time.Second || took > time.Minute {
			t.Errorf("took %s", took)
		}
	})
}

func TestAnotherEpochIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		r.note(time.Now())
		var mismatch *table.MismatchError
		if _, _, err := r.giver.Give(t.Context(), 2, "taker", 0); !errors.As(err, &mismatch) {
			t.Errorf("Give: %v", err)
		}
	})
}

func TestWindowEnd(t *testing.T) {
	now := time.Date(2026, 3, 1, 13, 37, 0, 0, time.UTC)
	for _, tc := range []struct {
		since time.Time
		want  time.Time // zero for the last window
	}{
		{now, time.Time{}},
		{now.Add(time.Hour), time.Time{}},
		{now.Add(-2 * time.Hour), time.Time{}},
		{now.Add(-2*time.Hour - 1), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
		{time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)},
		{time.UnixMilli(math.MinInt64), time.Date(2026, 1, 29, 14, 0, 0, 0, time.UTC)},
		{time.Unix(-1, 0), time.Date(2026, 1, 29, 14, 0, 0, 0, time.UTC)},
	} {
		want := int64(math.MaxInt64)
		if !tc.want.IsZero() {
			want = tc.want.UnixMilli()
		}
		since := tc.since.UnixMilli()
		if tc.since.Equal(time.UnixMilli(math.MinInt64)) {
			since = math.MinInt64
		}
		if got := windowEnd(since, now); got != want {
			t.Errorf("window from %s ends at %s, want %s", tc.since, time.UnixMilli(got).UTC(), tc.want)
		}
	}
}

func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flow
		want := func(since time.Time, samples float64) {
			t.Helper()
			if got := f.Since(since.UnixMilli()); got != samples {
				t.Errorf("since %s: %v, want %v", since, got, samples)
			}
		}
		start := time.Now().Truncate(time.Minute)
		f.Add(10)
		<-time.After(time.Minute)
		f.Add(20)
		<-time.After(time.Hour)
		f.Add(40)
		want(start, 70)
		want(start.Add(30*time.Second), 65)
		want(start.Add(time.Minute), 60)
		want(start.Add(10*time.Minute), 40)
		want(time.Now().Add(time.Hour), 0)
		want(time.UnixMilli(math.MinInt64/2), 70)
		<-time.After(8 * 24 * time.Hour)
		want(start, 0)
		f.Add(5)
		want(start, 5)
	})
}

func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1<<30)
		start := time.Now()
		r.flow.Add(1000)
		if got := r.giver.Left(proof.Gap{Since: start.Add(-time.Hour).UnixMilli()}); got.Samples != 500 || got.Bytes != 750 {
			t.Errorf("left %+v, want half of the samples", got)
		}
		r.put(r.theirs, "a", start, 100)
		r.note(start)
		r.visit()
		if got := r.giver.Left(proof.Gap{Since: start.Add(-time.Hour).UnixMilli()}); got.Samples != 500 || got.Bytes == 750 || got.Bytes == 0 {
			t.Errorf("left %+v, want the size of samples that were given", got)
		}
	})
}
