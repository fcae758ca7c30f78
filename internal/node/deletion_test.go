package node

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/table"
)

// Nothing is deleted any more by what a node owned by an older table, and nothing is taken for
// what the node has before that has come to its end: a new transition may give it back.
func TestDeletionEndsWithItsTable(t *testing.T) {
	var d deletion
	d.outdate(5)
	if _, _, ok := d.begin(t.Context(), 4); ok {
		t.Error("it is deleted by a table that is older than the present one")
	}
	ctx, end, ok := d.begin(t.Context(), 5)
	if !ok || ctx.Err() != nil || d.ending() {
		t.Fatalf("begun: %v, %v; ending: %v", ok, ctx.Err(), d.ending())
	}
	if _, _, ok := d.begin(t.Context(), 5); ok {
		t.Error("two delete at a time")
	}
	d.outdate(5)
	if ctx.Err() != nil || d.ending() {
		t.Error("the table that it is deleted by ends the deletion")
	}
	d.outdate(6)
	if ctx.Err() == nil || !d.ending() {
		t.Error("a newer table does not end the deletion")
	}
	end()
	if d.ending() {
		t.Error("the deletion does not end")
	}
	if _, end, ok := d.begin(t.Context(), 6); !ok {
		t.Error("nothing is deleted by the newer table")
	} else {
		end()
	}
}

// A node that is still deleting by an older table follows the newer one, and takes nothing: what
// is about to go does not count as what it has.
func TestNothingIsTakenWhileAnOlderTableDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		first := f.start("n0", ip(1), nil)
		f.ready(first)
		deleting, end, ok := first.deletion.begin(t.Context(), first.placed.Load().table.Epoch)
		if !ok {
			t.Fatal("nothing may be deleted")
		}
		f.start("n1", ip(2), func(c *config.Cluster) { c.Join = seeds(1) })
		f.eventually(time.Minute, "the transition has begun", func() error {
			if first.placed.Load().table.Transition == nil {
				return errors.New("there is none")
			}
			return nil
		})
		time.Sleep(time.Minute)
		if deleting.Err() == nil {
			t.Error("it is still deleted by the older table")
		}
		if tr := first.placed.Load().table.Transition; tr == nil || tr.Phase != table.Copying || first.mover.Ready() == tr.Began {
			t.Errorf("the transition went on: %+v", tr)
		}
		end()
		f.settled(2)
	})
}

// An old copy of a data directory may say that the node was ready.
func TestAnOldCopyIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		first := f.start("n0", ip(1), nil)
		f.ready(first)
		second := f.start("n1", ip(2), func(c *config.Cluster) { c.Join = seeds(1) })
		f.settled(2)
		if second.readyFor() == 0 {
			t.Error("the node that has joined was not ready")
		}
		starts{second.Node}.Outdated("n0", 7)
		if ready := second.readyFor(); ready != 0 {
			t.Errorf("the old copy is ready for %d", ready)
		}
	})
}
