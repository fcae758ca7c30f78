package transport

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/spent"
)

// What a peer measured comes with the end of its answer, if it was asked for and the peer knows how;
// the bytes that came are counted in either case.
func TestSpent(t *testing.T) {
	took := &spent.Owner{Waiting: time.Second, Reading: time.Minute, Evaluating: time.Hour, Series: 7, Samples: 77}
	for _, tt := range []struct {
		name  string
		asked bool
		told  *spent.Owner
	}{
		{"measured", true, took},
		{"by an earlier version", true, nil},
		{"not asked for", false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.fill(t, 60)
				r.reader.spent = tt.told
				peer := r.peers.Peer("remote")
				f := testFragment(t, "sum")
				r.reader.part = testPartial(f.Op, 50_000)
				var note *spent.Node
				check := func(what string, least int64) {
					t.Helper()
					if asked := r.reader.selected.Spent != nil; asked != tt.asked {
						t.Errorf("%s: the peer was asked: %v", what, asked)
					}
					if note == nil {
						return
					}
					if note.Bytes < least || (note.Owner == nil) != (tt.told == nil) || note.Owner != nil && *note.Owner != *took {
						t.Errorf("%s: %+v, %+v", what, note, note.Owner)
					}
				}
				again := func() {
					if tt.asked {
						note = &spent.Node{}
					}
				}

				again()
				set := peer.Select(t.Context(), epoch(1), Selection{Maxt: 100, Hints: &storage.SelectHints{End: 100}, Matchers: everything, Spent: note})
				n := 0
				for set.Next() {
					n++
				}
				if set.Err() != nil || n != 60 {
					t.Fatal(n, set.Err())
				}
				check("series", 60*20)

				again()
				e := testEvaluation(f, new(int64))
				e.Spent = note
				if part, err := peer.Evaluate(t.Context(), epoch(1), e); err != nil || len(part.Values) != 50_000 {
					t.Fatal(err)
				}
				check("a part", 50_000*8)

				again()
				e.Spent, r.reader.partErr = note, &pushdown.UnprovenError{Reason: "a test says so"}
				var unproven *pushdown.UnprovenError
				if _, err := peer.Evaluate(t.Context(), epoch(1), e); !errors.As(err, &unproven) {
					t.Fatal(err)
				}
				check("a refusal", 1)
			})
		})
	}
}
