package handoff

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// wantVerified wants all windows that an origin was asked for to be verified.
func (r *moverRig) wantVerified(o *origin, wantMore int) {
	r.Helper()
	equal, more := testutil.ToFloat64(r.mover.windows.WithLabelValues(string(Equal))), testutil.ToFloat64(r.mover.windows.WithLabelValues(string(More)))
	if int(equal+more) != len(o.looked) || int(more) != wantMore {
		r.Errorf("%v windows of %d are equal, and %v have more, want %d", equal, len(o.looked), more, wantMore)
	}
}

// What is here already does not travel, and the digests show it.
func TestWhatAgreesDoesNotTravel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		start := time.Now().Add(-72 * time.Hour)
		r.everywhere("a", start, 72*60)
		r.put(r.own, "a", start, 72*60)
		r.put(r.origins[0].store, "b", time.Now().Add(-31*time.Hour), 10) // within a window
		for _, o := range r.origins {
			o.gap("b", start) // so that some are merged of two
		}
		r.wantReady()
		o := r.origins[0]
		if len(o.looked) < 36 || len(slices.Compact(o.copied)) != 2 { // before there is anything, and where b is
			t.Errorf("%d windows of %d were copied: %v", len(o.copied), len(o.looked), o.copied)
		}
		r.wantVerified(o, 0)
	})
}

// What is here already, and perhaps not synced, does not count before it is.
func TestWhatAgreesIsSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("a", time.Now().Add(-72*time.Hour), 72*60)
		r.put(r.own, "a", time.Now().Add(-72*time.Hour), 72*60)
		broken := &brokenStore{Store: r.own, err: errors.New("input/output error")}
		r.store = broken
		r.wantWaiting(broken.err)
		broken.err = nil
		r.wantReady()
	})
}

// A node that has more than the others lacks nothing.
func TestMoreThanTheOthersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		start := time.Now().Add(-72 * time.Hour)
		r.everywhere("a", start, 72*60)
		r.put(r.own, "a", start.Add(30*time.Second), 72*60)
		if err := r.step(); err != nil || r.mover.Ready() != 5 {
			t.Fatalf("ready for %d, %v", r.mover.Ready(), err)
		}
		want := r.contents(r.theirs)
		got := r.contents(r.own)
		for sample := range want {
			if got[sample] != want[sample] {
				t.Fatalf("%s is %q, want %q", sample, got[sample], want[sample])
			}
		}
		r.wantVerified(r.origins[0], 37)
	})
}

// lossy leaves a series out.
type lossy struct{ storage.ChunkSeriesSet }

func (s lossy) Next() bool {
	for s.ChunkSeriesSet.Next() {
		if s.At().Labels().Get(labels.MetricName) != "lost" {
			return true
		}
	}
	return false
}

// lossyStore stores all but one series, and says that all went well.
type lossyStore struct {
	Store
	loses bool
}

func (s *lossyStore) Import(ctx context.Context, b *series.Batch) error {
	kept := series.Batch{Metadata: b.Metadata}
	for _, one := range b.Series {
		if !s.loses || one.Labels.Get(labels.MetricName) != "lost" {
			kept.Series = append(kept.Series, one)
		}
	}
	return s.Store.Import(ctx, &kept)
}

// Whatever loses samples on the way to the disk, the window does not count as copied, as a block
// or not; and the node says so.
func TestWhatIsLostOnTheWay(t *testing.T) {
	for name, age := range map[string]time.Duration{"old": 72 * time.Hour, "young": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newMoverRig(t, 1<<30)
				r.everywhere("kept", time.Now().Add(-72*time.Hour), 72*60)
				r.everywhere("lost", time.Now().Add(-age), 30)
				own := &lossyStore{r.own, true}
				r.store = own
				r.onImport = func(set storage.ChunkSeriesSet) storage.ChunkSeriesSet {
					if own.loses {
						return lossy{set}
					}
					return set
				}
				r.wantWaiting(errNotKept)
				if err := r.step(); !strings.Contains(err.Error(), "30 from ") {
					t.Error(err)
				}
				own.loses = false
				r.wantReady()
			})
		})
	}
}

// A stream that lacks a series shows by the digest.
func TestWhatAStreamLeavesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		r.everywhere("kept", time.Now().Add(-72*time.Hour), 60)
		r.everywhere("lost", time.Now().Add(-72*time.Hour), 60)
		for _, o := range r.origins {
			o.loses = "lost"
			o.onCopy = func() {
				if len(o.copied) > 2 {
					o.loses = ""
				}
			}
		}
		r.wantReady()
		r.wantVerified(r.origins[0], 0)
	})
}
