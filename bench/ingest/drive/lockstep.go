package drive

import (
	"context"
	"slices"
	"sync"
)

// ahead is how many scrapes a sender may be ahead of the slowest. Targets are scraped at the
// same times, so their samples arrive at about the same time too; without a bound a fast
// sender would move the window of what a server takes past what others still send.
const ahead = 1

// lockstep keeps senders together.
type lockstep struct {
	changed *sync.Cond
	// done is, for each sender, how many scrapes it has sent.
	done []int
}

func newLockstep(senders int) *lockstep {
	return &lockstep{changed: sync.NewCond(&sync.Mutex{}), done: make([]int, senders)}
}

// begin waits until a sender may send a scrape.
func (l *lockstep) begin(ctx context.Context, scrape int) error {
	stop := context.AfterFunc(ctx, func() {
		l.changed.L.Lock()
		defer l.changed.L.Unlock()
		l.changed.Broadcast()
	})
	defer stop()
	l.changed.L.Lock()
	defer l.changed.L.Unlock()
	for ctx.Err() == nil && slices.Min(l.done) < scrape-ahead {
		l.changed.Wait()
	}
	return ctx.Err()
}

// finish notes that a sender has sent a scrape.
func (l *lockstep) finish(sender, scrape int) {
	l.changed.L.Lock()
	defer l.changed.L.Unlock()
	l.done[sender] = scrape + 1
	l.changed.Broadcast()
}

// complete is how many scrapes all senders have sent.
func (l *lockstep) complete() int {
	l.changed.L.Lock()
	defer l.changed.L.Unlock()
	return slices.Min(l.done)
}
