// Package drive sends a workload to servers as the queues of a Prometheus do, and reads it
// back. Each sender has one connection, to one server, and always the same series; what a
// server is too busy for is sent again until it takes it.
package drive

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/workload"
)

// Options of a load.
type Options struct {
	Shape workload.Shape
	// Version of Remote Write: 1 or 2.
	Version int
	// Targets are the URLs of servers, without a path. Senders are fixed to one each, in turn.
	Targets []string
	Senders int
	// Rate is in samples per second; 0 is as fast as it goes.
	Rate float64
}

// Check returns an error for what cannot be.
func (o Options) Check() error {
	switch {
	case o.Version != 1 && o.Version != 2:
		return fmt.Errorf("-protocol %d: Remote Write is 1 or 2", o.Version)
	case o.Senders < 1:
		return fmt.Errorf("-senders %d: at least one", o.Senders)
	case !(o.Rate >= 0):
		return fmt.Errorf("-rate %v: samples per second, or 0 for no limit", o.Rate)
	}
	return o.Shape.Check()
}

// Request is one that is over.
type Request struct {
	End time.Time
	// Took is how long the attempt took that the server answered for good.
	Took    time.Duration
	Samples int
}

// Counts is how far a load is.
type Counts struct {
	// Acknowledged and Dropped are samples: those that a server took, and those that it
	// answered with a status for which Prometheus gives samples up.
	Acknowledged, Dropped int
	// Refused and Failed are attempts that were made again: after a 503, and after any
	// other error of a server or the connection.
	Refused, Failed int
	// Scrapes are complete.
	Scrapes int
}

// Load is one load. Run may be called several times, for one range of scrapes after the other.
type Load struct {
	opts    Options
	senders []*sender
	steps   *lockstep

	mu       sync.Mutex
	counts   Counts
	requests []Request
	dropped  map[request]bool
	// why is the first answer for which samples were dropped, whyAgain that for which a request
	// was sent again.
	why, whyAgain string
}

// request names one by what it holds.
type request struct{ batch, scrape int }

// New returns a load that has sent nothing yet.
func New(o Options) *Load {
	l := &Load{opts: o, dropped: map[request]bool{}}
	n := min(o.Senders, o.Shape.Batches())
	l.steps = newLockstep(n)
	for i := range n {
		l.senders = append(l.senders, newSender(l, i, n))
	}
	return l
}

// Close closes all connections.
func (l *Load) Close() {
	for _, s := range l.senders {
		s.client.CloseIdleConnections()
	}
}

// Run sends the scrapes from one up to another, which is not included, and returns when
// everything is acknowledged or dropped.
func (l *Load) Run(ctx context.Context, from, to int) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	for _, s := range l.senders {
		wg.Go(func() {
			if err := s.run(ctx, from, to); err != nil {
				stop(err) // the first one counts
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Counts tells how far the load is.
func (l *Load) Counts() Counts {
	scrapes := l.steps.complete()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	c.Scrapes = scrapes
	return c
}

// Why is the first answer for which samples were dropped, and the first for which a request was
// sent again; each is empty if there was none.
func (l *Load) Why() (dropped, again string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why, l.whyAgain
}

// Requests are those that ended at or after a time, in order of their ends.
func (l *Load) Requests(since time.Time) []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.requests)
	for i > 0 && !l.requests[i-1].End.Before(since) {
		i--
	}
	return slices.Clone(l.requests[i:])
}

// acknowledged tells whether what a batch sent in a scrape was taken.
func (l *Load) acknowledged(batch, scrape int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.dropped[request{batch, scrape}]
}

// took notes an answer for good.
func (l *Load) took(samples int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Acknowledged += samples
	l.requests = append(l.requests, Request{End: time.Now(), Took: took, Samples: samples})
}

// drop notes samples that no server will have.
func (l *Load) drop(r request, samples int, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Dropped += samples
	l.dropped[r] = true
	if l.why == "" {
		l.why = why
	}
}

// again notes an attempt that is repeated.
func (l *Load) again(refused bool, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.whyAgain == "" {
		l.whyAgain = why
	}
	if refused {
		l.counts.Refused++
	} else {
		l.counts.Failed++
	}
}
