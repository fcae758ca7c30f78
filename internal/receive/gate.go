package receive

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Gate bounds the memory of all requests that are being received. It may be used by
// many goroutines.
type Gate struct {
	limit    int64
	wait     time.Duration
	inflight *semaphore.Weighted
	held     atomic.Int64
}

// NewGate returns a gate for limit bytes. A request waits for what others hold, but
// only as long as wait: requests that hold some and wait for more could otherwise wait
// for one another for ever.
func NewGate(limit int64, wait time.Duration) *Gate {
	return &Gate{limit: limit, wait: wait, inflight: semaphore.NewWeighted(limit)}
}

// Held returns how many bytes all requests hold now.
func (g *Gate) Held() int64 { return g.held.Load() }

// Hold is what one request holds. It is not safe for concurrent use.
type Hold struct {
	gate *Gate
	ctx  context.Context
	held int64
}

// Enter returns the empty hold of a request, which must be released.
func (g *Gate) Enter(ctx context.Context) *Hold { return &Hold{gate: g, ctx: ctx} }

// Reserve is a Reserve. Its errors are Overloaded, or TooLarge where no amount of
// waiting could help.
func (h *Hold) Reserve(n int64) error {
	g := h.gate
	if h.held+n > g.limit {
		return errorf(TooLarge, "the request needs more memory than the %d bytes that all requests together may have; send smaller requests", g.limit)
	}
	if !g.inflight.TryAcquire(n) {
		ctx, cancel := context.WithTimeout(h.ctx, g.wait)
		defer cancel()
		if err := g.inflight.Acquire(ctx, n); err != nil {
			return errorf(Overloaded, "waiting for some of the %d bytes of memory that requests may have: %w", g.limit, err)
		}
	}
	h.held += n
	g.held.Add(n)
	return nil
}

// Release gives back all that was reserved.
func (h *Hold) Release() {
	h.gate.inflight.Release(h.held)
	h.gate.held.Add(-h.held)
	h.held = 0
}
