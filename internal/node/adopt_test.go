package node

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/gaps"
)

// onLog calls a function with each message.
type onLog struct {
	slog.Handler
	call func(message string)
}

// Enabled implements slog.Handler.
func (h onLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h onLog) Handle(_ context.Context, r slog.Record) error { h.call(r.Message); return nil }

// The gap of a node that is removed counts in proofs of the epochs in which that node serves.
func TestGapsAreDroppedByTheTableThatIsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		first := f.start("n0", ip(1), nil)
		f.ready(first)
		before := first.placed.Load().table.Epoch
		var at atomic.Uint64
		book, err := gaps.Open(gaps.Options{Dir: t.TempDir(), Logger: slog.New(onLog{slog.DiscardHandler, func(message string) {
			if message == "A peer is no member any more: its gap is dropped" {
				at.Store(first.placed.Load().table.Epoch)
			}
		}})})
		if err != nil {
			t.Fatal(err)
		}
		if err := book.Note(t.Context(), "removed", 0); err != nil {
			t.Fatal(err)
		}
		first.gaps = book
		f.start("n1", ip(2), func(c *config.Cluster) { c.Join = seeds(1) })
		f.eventually(time.Minute, "the gap is dropped", func() error {
			if at.Load() == 0 {
				return errors.New("it is not")
			}
			return nil
		})
		if at.Load() == before {
			t.Errorf("the gap was dropped while the node served at epoch %d, which has its peer", before)
		}
	})
}
