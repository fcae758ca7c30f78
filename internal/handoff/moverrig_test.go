package handoff

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/expiry"
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
	breaks int
	// looked are the windows that it was asked for, in a row, and copied those that it was to
	// stream.
	looked, copied []proof.Range
	// decoded counts the sums over samples.
	decoded int
	// loses is the name of a series that its streams leave out.
	loses    string
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
func (o *origin) Copy(ctx context.Context, p *proof.Proof, ranges uint64, mint, maxt int64) storage.ChunkSeriesSet {
	o.look(mint, maxt)
	o.copied = append(o.copied, proof.Range{Min: mint, Max: maxt})
	if o.onCopy != nil {
		o.onCopy()
	}
	q, err := o.store.ChunkQuerier(mint, maxt)
	if err != nil {
		o.r.Fatal(err)
	}
	context.AfterFunc(ctx, func() { q.Close() })
	share := p.Share(o.r.move.From, o.slot)
	s := &servedSet{
		ChunkSeriesSet: q.Select(ctx, true, &storage.SelectHints{Start: mint, End: maxt}, Everything()...), left: o.breaks,
		serves: func(ls labels.Labels) bool {
			key, owners, wanted := o.r.placed(ls)
			return wanted && ls.Get(labels.MetricName) != o.loses && share.Serves(owners) && ranges>>proof.KeyRange(key)&1 != 0
		},
	}
	return o.r.giver.Pace(ctx, "self", s)
}

// Sum implements Origin.
func (o *origin) Sum(ctx context.Context, p *proof.Proof, ranges uint64, mint, maxt int64, encoded bool) (*proof.Sums, error) {
	o.look(mint, maxt)
	if !encoded {
		o.decoded++
	}
	sums, share := new(proof.Sums), p.Share(o.r.move.From, o.slot)
	err := Sum(ctx, o.store, proof.Range{Min: mint, Max: maxt}, Everything(), encoded, func(ls labels.Labels) (uint64, []*proof.Sums) {
		key, owners, wanted := o.r.placed(ls)
		if !wanted || ranges>>proof.KeyRange(key)&1 == 0 || !share.Serves(owners) {
			return key, nil
		}
		return key, []*proof.Sums{sums}
	})
	return sums, err
}

// look notes which window the origin is asked for.
func (o *origin) look(mint, maxt int64) {
	if window := (proof.Range{Min: mint, Max: maxt}); !slices.Contains(o.looked, window) {
		o.looked = append(o.looked, window)
	}
}

// placed has all three own all series.
func (r *moverRig) placed(ls labels.Labels) (key uint64, owners []int, wanted bool) {
	return ls.Hash(), []int{0, 1, 2}, ls.Get("own") != "no"
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
	r.move = &Move{Began: 5, Gains: true, Owners: Owners{From: &table.Assignment{ReplicationFactor: 3}, MostCopies: r.mostCopies, Placed: r.placed}}
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

// mostCopies: all three own all series.
func (r *moverRig) mostCopies(told func(slot int) bool) int {
	n := 0
	for slot, s := range r.move.From.Slots {
		if s.Removed || told(slot) {
			n++
		}
	}
	return n
}

// restart opens the mover anew.
func (r *moverRig) restart() {
	r.Helper()
	var err error
	r.mover, err = OpenMover(MoverOptions{
		CopierOptions: CopierOptions{Self: "self", Store: r, Damaged: store.ErrDamaged}, Dir: r.dir,
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

// ChunkQuerier implements CopierStore.
func (r *moverRig) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return r.own.ChunkQuerier(mint, maxt)
}

// Import implements Store.
func (r *moverRig) Import(ctx context.Context, b *series.Batch) error { return r.store.Import(ctx, b) }

// Sync implements Store.
func (r *moverRig) Sync(ctx context.Context) error { return r.store.Sync(ctx) }

// Horizon implements CopierStore.
func (r *moverRig) Horizon() expiry.Horizon { return r.own.Horizon() }

// ImportBlock implements CopierStore.
func (r *moverRig) ImportBlock(ctx context.Context, mint, maxt int64, set storage.ChunkSeriesSet) (int, error) {
	if r.onImport != nil {
		set = r.onImport(set)
	}
	return r.own.ImportBlock(ctx, mint, maxt, set)
}

// ImportableUntil implements CopierStore.
func (r *moverRig) ImportableUntil() int64 { return r.own.ImportableUntil() }

// ImportSpan implements CopierStore.
func (r *moverRig) ImportSpan() int64 { return r.own.ImportSpan() }

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

// step steps, and lets a compaction end: while it waits for readers it sleeps, and no time passes
// in a bubble where somebody waits for its lock.
func (r *moverRig) step() error {
	defer func() { <-time.After(time.Second) }()
	return r.mover.step(r.Context())
}

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

// wantWindows wants the windows that an origin was asked for to be all of time, but for what is
// expired, once.
func (r *moverRig) wantWindows(o *origin) {
	r.Helper()
	next := int64(math.MinInt64)
	if len(o.looked) > 0 && o.looked[0].Min <= r.own.Horizon().At() {
		next = o.looked[0].Min
	}
	for _, w := range o.looked {
		if w.Min != next || w.Max < w.Min {
			r.Fatalf("a window from %d to %d, want one from %d", w.Min, w.Max, next)
		}
		next = w.Max + 1
	}
	if next != math.MaxInt64 {
		r.Errorf("the last window ends at %d", next)
	}
}
