package handoff

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

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

// A stray sample from long ago, which is expired here, makes no windows.
func TestMoveBeginsAtTheHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		horizon := time.Now().Add(-9 * time.Hour)
		r.put(r.origins[2].store, "stray", horizon.Add(-10_000*time.Hour), 1)
		r.everywhere("a", horizon.Add(-10*time.Minute), 20)
		r.expire(r.own, horizon)
		if err := r.step(); err != nil {
			t.Fatal(err)
		}
		if got := r.contents(r.own); len(got) != 10 || r.mover.Ready() != r.move.Began {
			t.Errorf("%d samples, ready for %d", len(got), r.mover.Ready())
		}
		copied := r.origins[0].copied
		if len(copied) == 0 || len(copied) > 7 || copied[0].Min != horizon.UnixMilli() {
			t.Errorf("windows %v", copied)
		}
	})
}

// An owner on which samples are expired that are not here is not read from.
func TestMoveFromOwnersThatExpireMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now().Add(-20*time.Hour), 10)
		r.everywhere("a", time.Now(), 10)
		expire := func(o *origin) {
			r.expire(o.store, time.Now().Add(-9*time.Hour))
			o.state.Expired = []proof.Range{{Min: math.MinInt64, Max: o.store.Horizon().At() - 1}}
		}
		expire(r.origins[0])
		if err := r.step(); err != nil {
			t.Fatal(err)
		}
		if got := r.contents(r.own); len(got) != 20 {
			t.Errorf("%d samples, want all", len(got))
		}
		expire(r.origins[1])
		r.move.Began++
		r.mover.progress.Store(&Progress{})
		if err := r.step(); !errors.Is(err, errIncomplete) || !errors.Is(err, errExpired) {
			t.Errorf("from one owner that holds all: %v", err)
		}
		r.expire(r.own, time.Now().Add(-9*time.Hour))
		if err := r.step(); err != nil {
			t.Errorf("with the same horizon: %v", err)
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
			o.breaks, o.onCopy, o.looked = -1, nil, o.looked[:1]
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
			o.looked = nil
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
		r.origins[0].looked = nil
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
			o.looked = nil
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

// A node that gains nothing asks for no samples, and is ready once no gap is noted for it.
func TestMoveWithoutGain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere(`a`, time.Now().Add(-72*time.Hour), 72)
		r.move.Gains, r.move.From.Slots[2].Node = false, "self"
		r.origins[1].gap("self", time.Now())
		r.wantWaiting(nil)
		r.origins[1].state.Gaps = nil
		if err := r.step(); err != nil || r.mover.Ready() != 5 || len(r.origins[0].looked) > 0 {
			t.Errorf("ready for %d, %v; it looked at %v", r.mover.Ready(), err, r.origins[0].looked)
		}
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

// Who was ready and finds damage is not any more, until that is made good.
func TestReadinessIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now().Add(-5*time.Hour), 30)
		r.wantReady()
		r.move.Damaged = true
		r.readied = 0
		if err := r.step(); !errors.Is(err, errDamaged) || r.mover.Ready() != 0 || r.readied != 1 {
			t.Errorf("damaged: %v, ready for %d, told %d times", err, r.mover.Ready(), r.readied)
		}
		r.restart()
		if r.mover.Ready() != 0 {
			t.Error("after a restart it is ready")
		}
		r.move.Damaged = false
		r.wantReady()
	})
}
