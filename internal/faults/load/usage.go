package load

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Usage is the goroutines of a load.
type Usage struct {
	load *Load
	// stopAsking ends scrapes, probes and readers; give up ends senders too.
	stopAsking, giveUp context.CancelFunc
	asking, sending    sync.WaitGroup
}

// Use starts senders, probes and readers.
func (l *Load) Use(ctx context.Context) *Usage {
	u := &Usage{load: l}
	now := time.Now()
	l.writes, l.reads = newAvailability(now, len(l.nodes)), newAvailability(now, len(l.nodes))
	ctx, u.giveUp = context.WithCancel(ctx)
	asking, stop := context.WithCancel(ctx)
	u.stopAsking = stop
	for i := range senders {
		s := l.newSender(i)
		u.asking.Go(func() { s.scrape(asking) })
		u.sending.Go(func() { s.send(ctx) })
	}
	for i := range l.nodes {
		u.asking.Go(func() { l.probe(asking, i) })
		u.asking.Go(func() { l.read(asking, i) })
	}
	return u
}

// Finish stops asking, and returns when all queues are empty.
func (u *Usage) Finish() error {
	u.stopAsking()
	u.asking.Wait()
	late := time.AfterFunc(drainTimeout, u.giveUp)
	u.sending.Wait()
	u.load.echoes.Wait()
	if !late.Stop() {
		return fmt.Errorf("senders still had full queues %s after the last scrape", drainTimeout)
	}
	return nil
}

// Abandon ends everything; after Finish it does nothing.
func (u *Usage) Abandon() {
	u.giveUp()
	u.asking.Wait()
	u.sending.Wait()
	u.load.echoes.Wait()
}
