package handoff

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	store "github.com/starling-tsdb/starling/internal/storage"
	"github.com/starling-tsdb/starling/internal/table"
)

// moverRig is a node that copies from three present owners of all series, with real stores.
type moverRig struct {
	*rig
	origins [3]*origin
	move    *Move
	mover   *Mover
	log     strings.Builder
	dir     string
	store   Store // of the mover; own, unless a test says otherwise
	readied int
	// onImport, if set, changes what is imported as a block.
	onImport func(storage.ChunkSeriesSet) storage.ChunkSeriesSet
}

// origin is a present owner.
type origin struct {
	r     *moverRig
	slot  int
	store *store.Store
	state proof.State
	err   error
	mends time.Time // when the error goes away by itself; zero for never
	delay time.Duration
	// breaks is how many series a copy gives before it fails; negative for all.
	breaks   int
	copied   []proof.Range
	onCopy   func()
	families []series.Metadata
}

// State implements Origin.
func (o *origin) State(context.Context) (proof.State, error) {
	<-time.After(o.delay)
	if !o.mends.IsZero() && !time.Now().Before(o.mends) {
		return o.state, nil
	}
	return o.state, o.err
}

// Oldest implements Origin.
func (o *origin) Oldest(context.Context) (int64, error) {
	h, err := o.store.Holding()
	return h.Oldest, err
}

// Copy implements Origin. Series with own="no" are not gained.
func (o *origin) Copy(ctx context.Context, p *proof.Proof, mint, maxt int64) storage.ChunkSeriesSet {
	o.copied = append(o.copied, proof.Range{Min: mint, Max: maxt})
	if o.onCopy != nil {
		o.onCopy()
	}
	q, err := o.store.ChunkQuerier(mint, maxt)
	if err != nil {
		o.r.Fatal(err)
	}
	context.AfterFunc(ctx, func() { q.Close() })
	share := p.Share(o.slot)
	s := &servedSet{
		ChunkSeriesSet: q.Select(ctx, true, &storage.SelectHints{Start: mint, End: maxt}, Everything()...), left: o.breaks,
		serves: func(ls labels.Labels) bool { return share.Serves([]int{0, 1, 2}) && ls.Get("own") != "no" },
	}
	return o.r.giver.Pace(ctx, "self", s)
}

// Metadata implements Origin.
func (o *origin) Metadata(context.Context) ([]series.Metadata, error) { return o.families, nil }

// servedSet is what an origin serves; it may break off.
type servedSet struct {
	storage.ChunkSeriesSet
	serves func(labels.Labels) bool
	left   int
}

var errBroken = errors.New("the stream broke off")

func (s *servedSet) Next() bool {
	for s.left != 0 && s.ChunkSeriesSet.Next() {
		if s.serves(s.At().Labels()) {
			s.left--
			return true
		}
	}
	return false
}

func (s *servedSet) Err() error {
	if s.left == 0 {
		return errBroken
	}
	return s.ChunkSeriesSet.Err()
}

func newMoverRig(t *testing.T, bytesPerSecond int64) *moverRig {
	t.Helper()
	r := &moverRig{rig: newRig(t, bytesPerSecond), dir: t.TempDir()}
	r.store = r.own
	r.move = &Move{Began: 5, From: &table.Assignment{ReplicationFactor: 3}}
	for i, id := range []table.NodeID{"a", "b", "c"} {
		r.origins[i] = &origin{r: r, slot: i, breaks: -1, store: r.theirs}
		if i > 0 {
			r.origins[i].store = r.open()
		}
		r.move.From.Slots = append(r.move.From.Slots, table.Slot{Node: id})
		r.move.Origins = append(r.move.Origins, r.origins[i])
	}
	r.restart()
	return r
}

// restart opens the mover anew.
func (r *moverRig) restart() {
	r.Helper()
	var err error
	r.mover, err = OpenMover(MoverOptions{
		Self: "self", Store: r, Damaged: store.ErrDamaged, Expired: store.ErrExpired, Dir: r.dir,
		Move:  func() *Move { return r.move },
		Ready: func() { r.readied++ }, Logger: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	if err != nil {
		r.Fatal(err)
	}
}

// Querier implements Store.
func (r *moverRig) Querier(mint, maxt int64) (storage.Querier, error) {
	return r.store.Querier(mint, maxt)
}

// Import implements Store.
func (r *moverRig) Import(ctx context.Context, b *series.Batch) error { return r.store.Import(ctx, b) }

// ImportBlock implements MoverStore.
func (r *moverRig) ImportBlock(ctx context.Context, mint, maxt int64, set storage.ChunkSeriesSet) (int, error) {
	if r.onImport != nil {
		set = r.onImport(set)
	}
	return r.own.ImportBlock(ctx, mint, maxt, set)
}

// ImportableUntil implements MoverStore.
func (r *moverRig) ImportableUntil() int64 { return r.own.ImportableUntil() }

// everywhere stores samples on all origins.
func (r *moverRig) everywhere(name string, first time.Time, n int) {
	r.Helper()
	for _, o := range r.origins {
		r.put(o.store, name, first, n)
	}
}

// gap has an origin note that the one in a slot lacks samples.
func (o *origin) gap(peer table.NodeID, since time.Time) {
	o.state.Gaps = append(o.state.Gaps, proof.Gap{Peer: peer, Since: since.UnixMilli()})
}

func (r *moverRig) step() error { return r.mover.step(r.Context()) }

// wantReady steps once, and wants all samples of the origins but those that are not gained.
func (r *moverRig) wantReady() {
	r.Helper()
	if err := r.step(); err != nil {
		r.Fatal(err)
	}
	want := map[string]string{}
	for _, o := range r.origins {
		maps.Copy(want, r.contents(o.store))
	}
	maps.DeleteFunc(want, func(key, _ string) bool { return strings.Contains(key, `own="no"`) })
	if got := r.contents(r.own); !maps.Equal(got, want) {
		r.Errorf("%d samples, want %d", len(got), len(want))
	}
	if r.mover.Ready() != r.move.Began || r.readied == 0 {
		r.Errorf("ready for %d, want %d; told %d times", r.mover.Ready(), r.move.Began, r.readied)
	}
}

// wantWaiting steps once, and wants the node not to be ready.
func (r *moverRig) wantWaiting(want error) {
	r.Helper()
	if err := r.step(); !errors.Is(err, want) {
		r.Fatalf("step: %v, want %v", err, want)
	}
	if r.mover.Ready() != 0 || r.readied != 0 {
		r.Fatalf("ready for %d, told %d times", r.mover.Ready(), r.readied)
	}
}

// wantWindows wants the windows that an origin was asked for to be all of time, once.
func (r *moverRig) wantWindows(o *origin) {
	r.Helper()
	next := int64(math.MinInt64)
	for _, w := range o.copied {
		if w.Min != next || w.Max < w.Min {
			r.Fatalf("a window from %d to %d, want one from %d", w.Min, w.Max, next)
		}
		next = w.Max + 1
	}
	if next != math.MaxInt64 {
		r.Errorf("the last window ends at %d", next)
	}
}

// A new node copies all there is of its series, in windows, and nothing else.
func TestMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		start := time.Now().Add(-72 * time.Hour)
		for i := range 12 {
			r.everywhere("a", start.Add(time.Duration(6*i)*time.Hour), 10)
			r.everywhere("b", start.Add(time.Duration(5*i)*time.Hour), 10)
		}
		r.everywhere("future", time.Now().Add(time.Minute), 3)
		foreign := series.Series{Labels: labels.FromStrings("__name__", "z", "own", "no"), Samples: []series.Sample{{T: time.Now().UnixMilli()}}}
		if err := r.origins[0].store.Import(t.Context(), &series.Batch{Series: []series.Series{foreign}}); err != nil {
			t.Fatal(err)
		}
		r.put(r.own, "a", start.Add(66*time.Hour), 5) // these it has already
		r.wantReady()
		r.wantWindows(r.origins[0])
		if n := len(r.origins[0].copied); n < 4 {
			t.Errorf("%d windows: three days must not be one piece", n)
		}
		if p := r.mover.Progress(); p.Samples != 12*20+3-5 {
			t.Errorf("%d samples were lacking, want %d", p.Samples, 12*20+3-5)
		}
	})
}

// The recent windows do not become shorter and shorter, however long each takes.
func TestMoveFromSlowOwnersEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now().Add(-5*time.Hour), 300)
		r.origins[1].delay = time.Second
		r.origins[2].onCopy = func() {
			if len(r.origins[2].copied) > 100 {
				t.Fatalf("%d windows, the last %v", len(r.origins[2].copied), r.origins[2].copied[97:100])
			}
		}
		r.wantReady()
		r.wantWindows(r.origins[0])
	})
}

// An owner that misses something is not read from, or not alone.
func TestMoveFromProvenOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		start := time.Now().Add(-5 * time.Hour)
		for _, o := range r.origins[1:] { // the first owner was away
			r.put(o.store, "a", start, 200)
			o.gap("a", start)
		}
		r.put(r.origins[0].store, "b", start, 200) // none of them is clean
		r.put(r.origins[1].store, "b", start.Add(time.Hour), 200)
		r.origins[0].gap("b", start)
		r.origins[0].gap("c", start)
		r.wantReady()
	})
}

// Where too few owners can be read from, the node waits and says why, and goes on.
func TestMoveWaitsForOwners(t *testing.T) {
	down := errors.New("connection refused")
	for name, tc := range map[string]struct {
		breaks, mends func(o *origin)
		why           string
	}{
		"unreachable":      {func(o *origin) { o.err = down }, func(o *origin) { o.err = nil }, "connection refused"},
		"at another epoch": {func(o *origin) { o.err = &table.MismatchError{Want: 5} }, func(o *origin) { o.err = nil }, "epoch 5"},
		"damaged": {
			func(o *origin) { o.state.Damage = []proof.Range{{Min: math.MinInt64, Max: math.MaxInt64}} },
			func(o *origin) { o.state.Damage = nil }, "damaged",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newMoverRig(t, 1<<30)
				r.everywhere("a", time.Now(), 100)
				tc.breaks(r.origins[1])
				tc.breaks(r.origins[2])
				r.wantWaiting(errIncomplete)
				if err := r.step(); !strings.Contains(err.Error(), tc.why) || !strings.Contains(err.Error(), "node ") {
					t.Errorf("it waits because of %q", err)
				}
				if n := len(r.origins[0].copied); n != 0 {
					t.Errorf("one owner alone was read from, %d times", n)
				}
				tc.mends(r.origins[2])
				r.wantReady()
			})
		})
	}
}

// A removed owner counts as missing, and another one must not be missing then.
func TestMoveWithARemovedOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now(), 100)
		r.move.From.Slots[2].Removed = true
		r.move.Origins[2] = nil
		r.origins[1].err = errors.New("down")
		r.wantWaiting(errIncomplete)
		r.origins[1].err = nil
		r.wantReady()
	})
}

func TestMoveGoesOnAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now().Add(-72*time.Hour), 72*60)
		// The stream of the second window breaks off.
		r.origins[0].onCopy = func() {
			if len(r.origins[0].copied) == 2 {
				r.origins[0].breaks = 0
			}
		}
		r.wantWaiting(errBroken)
		broken := r.origins[0].copied[1]
		if p := r.mover.Progress(); p.Began != 5 || p.Until != broken.Min {
			t.Fatalf("%+v, want the copying to have come to the window %v", p, broken)
		}
		for _, o := range r.origins {
			o.breaks, o.onCopy, o.copied = -1, nil, o.copied[:1]
		}
		r.restart()
		r.wantReady()
		r.wantWindows(r.origins[0]) // the first window once

		// It is ready after another restart, and copies nothing.
		before := len(r.origins[0].copied)
		r.restart()
		r.wantReady()
		if n := len(r.origins[0].copied); n != before {
			t.Errorf("%d windows were copied by a node that was ready", n-before)
		}

		// Another phase begins at the beginning.
		r.everywhere("b", time.Now().Add(-72*time.Hour), 10)
		r.move.Began = 6
		for _, o := range r.origins {
			o.copied = nil
		}
		r.wantReady()
		r.wantWindows(r.origins[0])
	})
}

func TestMoveWithADamagedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now(), 10)
		r.wantReady()
		if err := os.WriteFile(filepath.Join(r.dir, moveFile), []byte("starling move 1 crc32c=00000000\n{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		r.restart()
		if r.mover.Ready() != 0 || !strings.Contains(r.log.String(), "begins anew") {
			t.Errorf("ready for %d by a damaged file; log: %s", r.mover.Ready(), r.log.String())
		}
		r.origins[0].copied = nil
		r.wantReady()
		r.wantWindows(r.origins[0])
	})
}

// A phase that begins in the middle of a window makes the copying begin again.
func TestMoveBeginsAgainWithTheNextPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now().Add(-72*time.Hour), 72)
		next := *r.move
		next.Began = 7
		r.origins[1].onCopy = func() {
			if len(r.origins[1].copied) == 2 {
				r.move = &next
			}
		}
		r.wantWaiting(nil)
		for _, o := range r.origins {
			o.copied = nil
		}
		r.origins[1].onCopy = nil
		r.wantReady()
		r.wantWindows(r.origins[0])
		r.move = nil
		if err := r.step(); err != nil || r.mover.Ready() != 7 {
			t.Errorf("without a move: %v, ready for %d", err, r.mover.Ready())
		}
	})
}

func TestNotReadyBeforeAllIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now(), 10)
		broken := &brokenStore{Store: r.own, err: errors.New("input/output error")}
		r.store = broken
		r.wantWaiting(broken.err)
		broken.err = nil
		r.wantReady()
	})
}

// A node that is an owner already has to hold what it owns.
func TestNotReadyWithAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now(), 10)
		r.move.From.Slots[2].Node = "self"
		r.origins[1].gap("self", time.Now().Add(time.Hour))
		r.wantWaiting(nil)
		r.wantWaiting(nil)
		r.origins[1].state.Gaps = nil
		r.origins[0].gap("b", time.Now()) // of another one
		r.wantReady()
	})
}

func TestMoveIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now().Add(-72*time.Hour), 72)
		paused := *r.move
		paused.Paused = true
		going := r.move
		r.origins[0].onCopy = func() {
			if len(r.origins[0].copied) == 2 {
				r.move = &paused
			}
		}
		r.wantWaiting(nil)
		r.wantWaiting(nil)
		if n := len(r.origins[0].copied); n != 2 {
			t.Errorf("%d windows, want none after the pause", n)
		}
		r.move = going
		r.wantReady()
		r.wantWindows(r.origins[0])
	})
}

func TestMoveIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bytesPerSecond = burst
		r := newMoverRig(t, bytesPerSecond)
		var b series.Batch
		for i := range 200 {
			s := series.Series{Labels: labels.FromStrings("__name__", "m", "i", string(rune('A'+i)))}
			for j := range 2000 {
				s.Samples = append(s.Samples, series.Sample{T: time.Now().UnixMilli() + int64(j), V: math.Sqrt(float64(i*2000 + j))})
			}
			b.Series = append(b.Series, s)
		}
		if err := r.origins[0].store.Import(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := r.step(); err != nil || r.mover.Progress().Samples != 200*2000 {
			t.Fatalf("%+v, %v", r.mover.Progress(), err)
		}
		given := r.giver.given.bytes.Load()
		if least := time.Duration(given-burst) * time.Second / bytesPerSecond; given < 2*burst || time.Since(start) < least {
			t.Errorf("%d bytes took %s, want at least %s", given, time.Since(start), least)
		}
	})
}

func TestMoveCopiesMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		for i, family := range []string{"up", "up", "down"} {
			m := series.Metadata{Family: family}
			m.Help = "whether it is"
			r.origins[i].families = []series.Metadata{m}
		}
		r.wantReady()
		if got := r.own.Metadata("", -1, 0); len(got) != 2 || len(got["up"]) != 1 || got["down"][0].Help != "whether it is" {
			t.Errorf("metadata %v", got)
		}
	})
}

// Run tries again, and counts and logs what broke off.
func TestMoverRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now(), 10)
		r.origins[0].err, r.origins[0].mends = errBroken, time.Now().Add(time.Minute)
		r.origins[1].err = errBroken
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { r.mover.Run(ctx); close(ended) }()
		<-time.After(time.Minute + lastMovePause + time.Second)
		cancel()
		<-ended
		if r.mover.Ready() != 5 || !strings.Contains(r.log.String(), errIncomplete.Error()) {
			t.Errorf("ready for %d; log: %s", r.mover.Ready(), r.log.String())
		}
	})
}
