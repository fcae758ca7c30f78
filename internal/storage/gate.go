package storage

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// gate counts who is inside, so that who closes the TSDB can wait for them, and lets nobody
// in while it is shut. The zero value is open.
type gate struct {
	mu      sync.Mutex
	inside  int
	refusal error         // nil while open
	empty   chan struct{} // of the last shut; closed when all have left
}

// enter lets the caller in, who leaves again, or returns what the gate was shut with.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refusal != nil {
		return g.refusal
	}
	g.inside++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.refusal != nil && g.inside == 0 {
		close(g.empty)
	}
}

// shut refuses newcomers with that error and returns a channel that is closed when all
// have left. A gate that is shut already gets another refusal.
func (g *gate) shut(refusal error) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refusal == nil {
		g.empty = make(chan struct{})
		if g.inside == 0 {
			close(g.empty)
		}
	}
	g.refusal = refusal
	return g.empty
}

// open lets newcomers in again. Nobody may be waiting for the gate to be empty.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusal = nil
}

// closed returns what newcomers are refused with, or nil.
func (g *gate) closed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refusal
}

// count returns how many are inside.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

// slots is a semaphore that can be waited for with an end, unlike a mutex: a disk that
// stalls holds those who write to it, in the kernel, and nobody else.
//
// Who is woken competes with who comes, as with a mutex: a place that is handed over stays
// unused until its new owner gets a CPU, and with many senders each commit pays for that.
type slots struct {
	free atomic.Int64
	wake chan struct{} // holds a token while a place may be free that somebody waits for
}

func newSlots(n int) *slots {
	sl := &slots{wake: make(chan struct{}, 1)}
	sl.free.Store(int64(n))
	return sl
}

// take waits for a place, until ctx ends or the store is dead. The caller gives it back,
// except after an error.
func (sl *slots) take(ctx context.Context, f *fence) error {
	for !sl.try() {
		select {
		case <-sl.wake:
		case <-f.dead:
			return f.death()
		case <-ctx.Done():
			return fmt.Errorf("wait for one's turn: %w", context.Cause(ctx))
		}
	}
	if sl.free.Load() > 0 {
		sl.signal() // of two places given back at once only one was signalled
	}
	if err := f.death(); err != nil {
		sl.give()
		return err
	}
	return nil
}

func (sl *slots) try() bool {
	for {
		n := sl.free.Load()
		if n == 0 {
			return false
		}
		if sl.free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (sl *slots) give() {
	sl.free.Add(1)
	sl.signal()
}

func (sl *slots) signal() {
	select {
	case sl.wake <- struct{}{}:
	default: // whoever takes that token finds this place as well, or passes it on
	}
}
