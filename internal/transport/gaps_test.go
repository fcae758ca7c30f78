package transport

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

func TestNotesAndStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.local.word = expiry.Word{Horizon: expiry.Horizon{Time: expiry.None, Size: -1}, Limits: expiry.Limits{Time: 3}}
		r.remote.word = expiry.Word{Horizon: expiry.Horizon{Time: 7, Size: math.MaxInt64}, Limits: expiry.Limits{Size: 4}}
		peer := r.peers.Peer("remote")
		if err := peer.Note(t.Context(), epoch(1), "a", -7); err != nil {
			t.Fatal(err)
		}
		if ticket, err := peer.NoteLate(t.Context(), epoch(1), "b", 9); ticket != math.MaxUint64 || err != nil {
			t.Errorf("a late note has ticket %d, %v", ticket, err)
		}
		if err := peer.Withdraw(t.Context(), epoch(1), "b", math.MaxUint64); err != nil || !slices.Equal(r.remote.withdrawn, []string{"b 18446744073709551615"}) {
			t.Errorf("withdrawn %q, %v", r.remote.withdrawn, err)
		}
		want := []proof.Gap{{Peer: "a", Since: -7}, {Peer: "b", Since: 9, Late: true}}
		state, err := peer.State(t.Context(), epoch(1))
		if err != nil || !reflect.DeepEqual(state, proof.State{Session: 1 << 63, Gaps: want, Damage: []proof.Range{{Min: -5, Max: 5}}, Expired: []proof.Range{{Min: math.MinInt64, Max: -10}}}) {
			t.Errorf("state %+v, %v", state, err)
		}
		if want := fmt.Sprint("local", r.local.word); r.remote.heard != want {
			t.Errorf("the peer heard %q, want %q", r.remote.heard, want)
		}
		if want := fmt.Sprint("remote", r.remote.word); r.local.heard != want {
			t.Errorf("this node heard %q, want %q", r.local.heard, want)
		}
		confirmation, err := peer.Append(t.Context(), epoch(1), &series.Batch{})
		if err != nil || !slices.Equal(confirmation.Gaps, want[:1]) {
			t.Errorf("confirmation %+v, %v", confirmation, err)
		}
		r.remote.mu.Lock()
		r.remote.table = epoch(2)
		r.remote.mu.Unlock()
		var mismatch *table.MismatchError
		if err := peer.Note(t.Context(), epoch(1), "a", 0); !errors.As(err, &mismatch) {
			t.Errorf("a note of another epoch: %v", err)
		}
		if _, err := peer.NoteLate(t.Context(), epoch(1), "a", 0); !errors.As(err, &mismatch) {
			t.Errorf("a late note of another epoch: %v", err)
		}
		if _, err := peer.State(t.Context(), epoch(1)); !errors.As(err, &mismatch) {
			t.Errorf("a state of another epoch: %v", err)
		}
	})
}

func TestProofTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		want := &proof.Proof{Quorum: 2, Nodes: []proof.Node{{Slot: 0, Session: math.MaxUint64}, {Slot: 4, Noted: []int{0, 9}}}}
		for i, p := range []*proof.Proof{want, nil} {
			part := []*proof.Part{{Node: "joining", Gained: true, Ranges: 1<<63 | 1}, nil}[i]
			set := r.peers.Peer("remote").Select(t.Context(), epoch(1), Selection{Proof: p, Part: part, Matchers: everything})
			if set.Next() || set.Err() != nil {
				t.Fatal(set.Err())
			}
			if got := r.reader.selected; !reflect.DeepEqual(got.Proof, p) || !reflect.DeepEqual(got.Part, part) {
				t.Errorf("proof %+v for %+v, want %+v", got.Proof, got.Part, p)
			}
			sel := Selection{Epoch: 1, Proof: p, Part: part, Mint: -3, Maxt: 4, Matchers: everything, Encoded: p != nil}
			sums, err := r.peers.Peer("remote").Sum(t.Context(), epoch(1), sel)
			if err != nil || sums[0] != math.MaxUint64 || sums[proof.KeyRanges-1] != 7 {
				t.Errorf("sums %v, %v", sums, err)
			}
			if got := r.reader.selected; !reflect.DeepEqual(got.Proof, p) || !reflect.DeepEqual(got.Part, part) || got.Mint != -3 || got.Maxt != 4 || got.Epoch != 1 || got.Encoded != sel.Encoded {
				t.Errorf("summed up %+v, want %+v", got, sel)
			}
		}
		var mismatch *table.MismatchError
		r.remote.mu.Lock()
		r.remote.table = epoch(2)
		r.remote.mu.Unlock()
		if _, err := r.peers.Peer("remote").Sum(t.Context(), epoch(1), Selection{Matchers: everything}); !errors.As(err, &mismatch) {
			t.Errorf("sums of another epoch: %v", err)
		}
	})
}

func TestHandOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		app := r.db.Appender(t.Context())
		for ts := range int64(100) {
			if _, err := app.Append(0, labels.FromStrings("__name__", "m"), ts, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		peer := r.peers.Peer("remote")
		if _, set, err := peer.HandOff(t.Context(), epoch(1), "other", 0); set != nil || err != nil {
			t.Errorf("a node that lacks nothing is handed something, or %v", err)
		}
		w, set, err := peer.HandOff(t.Context(), epoch(1), "local", 6)
		if err != nil || w != (proof.Window{Session: 7, Since: 50, Until: math.MaxInt64}) {
			t.Fatalf("window %+v, %v", w, err)
		}
		samples := 0
		for set.Next() {
			for it := set.At().Iterator(nil); it.Next(); {
				samples += it.At().Chunk.NumSamples()
			}
		}
		if set.Err() != nil || samples != 50 {
			t.Errorf("%d samples were handed off, want 50; %v", samples, set.Err())
		}
		for _, want := range []bool{true, false} {
			if open, err := peer.Advance(t.Context(), epoch(1), "local", w); err != nil || open != want {
				t.Errorf("open %t, %v; want %t", open, err, want)
			}
		}
		if want := "local7 9223372036854775807"; r.reader.advanced[0] != want {
			t.Errorf("advanced %q, want %q", r.reader.advanced[0], want)
		}
	})
}

// Whoever has seen a later start of a node than the node itself knows does not believe it.
func TestOldDirectoriesAreNoticed(t *testing.T) {
	for _, tc := range []struct {
		local, remote uint64 // what each remembers of the other
		wantErr       bool
		wantOutdated  uint64
	}{
		{0, 0, false, 0},
		{6, 0, true, 0},
		{0, 6, false, 6},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.local.remembers, r.remote.remembers = tc.local, tc.remote
			_, err := r.peers.Peer("remote").State(t.Context(), epoch(1))
			if (err != nil) != tc.wantErr || r.local.outdated != tc.wantOutdated {
				t.Errorf("%+v: error %v, outdated %d", tc, err, r.local.outdated)
			}
		})
	}
}
