package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

// What one sender sends: a scrape of so many series of each shape, that often.
const (
	gauges, counters, lates, natives = 30, 30, 10, 10

	senders        = 4
	scrapeInterval = 250 * time.Millisecond
	// lateWindow is how far back out-of-order samples lie, within the node's window.
	lateWindow = time.Hour
	// sendTimeout is longer than a node may take for a write.
	sendTimeout = 12 * time.Second
	maxBackoff  = time.Second
	// echoEvery is how often a batch goes to two nodes at once, as a sender does that
	// did not hear an answer in time.
	echoEvery = 20
	// drainTimeout bounds how long senders take to get rid of their queues.
	drainTimeout = 90 * time.Second
	// maxViolations are kept of a load.
	maxViolations = 20
)

// Node is a place at which a node may run. The methods may be called concurrently.
type Node interface {
	// Base is the URL of its HTTP API.
	Base() string
	// Member tells whether to talk to it now.
	Member() bool
}

// Load is everything that uses a cluster for some time.
type Load struct {
	// Ledger remembers what was sent, and finds what is wrong with the answers.
	Ledger *ledger.Ledger

	client   *Client
	nodes    []Node // all places
	founders int
	began    time.Time
	writes   *availability
	reads    *availability

	// echoes are the requests that nobody waits for.
	echoes sync.WaitGroup

	mu         sync.Mutex
	violations []string // each once
	refusal    string   // the first 400
}

// New returns a load for nodes, of which the first so many found the cluster, that does
// nothing yet.
func New(client *Client, nodes []Node, founders int) *Load {
	return &Load{Ledger: ledger.New(), client: client, nodes: nodes, founders: founders, began: time.Now()}
}

// next is the next member after a place, in turn.
func (l *Load) next(place int) int {
	for i := 1; i < len(l.nodes); i++ {
		if p := (place + i) % len(l.nodes); l.nodes[p].Member() {
			return p
		}
	}
	return place
}

// note remembers what no client should ever see, and the first refusal.
func (l *Load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, violates := errors.AsType[*Violation](err)
	switch {
	case violates:
		if !slices.Contains(l.violations, v.text) && len(l.violations) < maxViolations {
			l.violations = append(l.violations, v.text)
		}
	case errors.Is(err, errRefused) && l.refusal == "":
		l.refusal = err.Error()
	}
}

// Failures says what is wrong with the answers so far, with examples; nothing if all is well.
func (l *Load) Failures(refusalsAllowed bool) []string {
	var failures []string
	const examples = 3
	for _, k := range ledger.Kinds {
		if n := l.Ledger.Found(k); n > 0 {
			failures = append(failures, fmt.Sprintf("%d samples are %s", n, k))
			failures = append(failures, l.Ledger.Examples(k, examples)...)
		}
	}
	counts := l.Ledger.Counts()
	l.mu.Lock()
	defer l.mu.Unlock()
	failures = append(failures, l.violations...)
	if l.refusal != "" && !refusalsAllowed {
		failures = append(failures, fmt.Sprintf("%d valid samples were refused: %s", counts.Refused, l.refusal))
	}
	if counts.Acknowledged == 0 {
		failures = append(failures, "nothing was acknowledged at all")
	}
	return failures
}

// Down is the longest time without a success.
type Down struct {
	// Anywhere is that of all nodes together, Worst that of the node that was worst off.
	Anywhere, Worst time.Duration
}

// Down returns how long, at the longest, no write and no query succeeded since Use.
func (l *Load) Down() (writes, reads Down) {
	now := time.Now()
	return l.writes.longest(now), l.reads.longest(now)
}

// sender is one Prometheus: it scrapes its series, queues what it scraped and sends the
// queue in order, each batch until it is taken or refused.
type sender struct {
	*Load
	number  int
	version int
	// sticky senders know one node only, as long as it is a member; the others try the next
	// one after a failure.
	sticky bool
	home   int
	queue  chan []ledger.Sample
	rnd    *rand.Rand
}

func (l *Load) newSender(number int) *sender {
	return &sender{
		Load: l, number: number,
		version: 1 + number%2, sticky: number/2%2 == 0, home: number % l.founders,
		queue: make(chan []ledger.Sample, 10_000),
		rnd:   rand.New(rand.NewPCG(uint64(number), uint64(l.began.UnixNano()))),
	}
}

// scrape queues batches until ctx ends.
func (s *sender) scrape(ctx context.Context) {
	defer close(s.queue)
	ticks := time.NewTicker(scrapeInterval)
	defer ticks.Stop()
	for n := int64(0); ; n++ {
		select {
		case now := <-ticks.C:
			batch := s.batch(now.UnixMilli(), n)
			s.Ledger.Send(batch)
			s.queue <- batch
		case <-ctx.Done():
			return
		}
	}
}

// batch makes the samples of the n-th scrape.
func (s *sender) batch(now, n int64) []ledger.Sample {
	var samples []ledger.Sample
	for shape, count := range map[ledger.Shape]int{
		ledger.Gauge: gauges, ledger.Counter: counters, ledger.Late: lates, ledger.Native: natives,
	} {
		for i := range count {
			t := now
			if shape == ledger.Late {
				// Steps of a large prime through the window come back only after it.
				const stride = 1_000_003
				t = s.began.UnixMilli() - n*stride%lateWindow.Milliseconds()
			}
			samples = append(samples, ledger.Sample{Series: ledger.Series{Shape: shape, Sender: s.number, Number: i}, T: t})
		}
	}
	return samples
}

// send sends the queue until it is closed and empty, or ctx ends.
func (s *sender) send(ctx context.Context) {
	for n := 0; ; n++ {
		select {
		case batch, open := <-s.queue:
			if !open || !s.deliver(ctx, batch, n%echoEvery == 0) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// deliver tries until a batch is taken or refused; false if ctx ended before.
func (s *sender) deliver(ctx context.Context, batch []ledger.Sample, echo bool) bool {
	backoff := 30 * time.Millisecond
	for ctx.Err() == nil {
		if echo {
			other := s.next(s.rnd.IntN(len(s.nodes)))
			s.echoes.Go(func() { s.try(ctx, other, batch) })
			echo = false
		}
		if s.try(ctx, s.home, batch) {
			return true
		}
		if !s.sticky || !s.nodes[s.home].Member() {
			s.home = s.next(s.home)
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return false
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return false
}

// try sends a batch once; true if the answer is final.
func (s *sender) try(ctx context.Context, to int, batch []ledger.Sample) bool {
	return s.write(ctx, to, s.version, batch, sendTimeout)
}

// write sends samples to a node, remembers the answer, and tells whether it is final.
func (l *Load) write(ctx context.Context, to, version int, batch []ledger.Sample, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := l.client.write(ctx, l.nodes[to].Base(), version, batch)
	switch {
	case err == nil:
		l.Ledger.Acknowledge(batch)
		l.writes.success(to, time.Now())
		return true
	case errors.Is(err, errUnavailable):
		return false
	case errors.Is(err, errRefused):
		l.Ledger.Refuse(batch)
	}
	l.note(err)
	return true
}

// probe writes one sample after the other to one node, so that it shows when that node
// takes writes.
func (l *Load) probe(ctx context.Context, node int) {
	const every, timeout = 100 * time.Millisecond, 3 * time.Second
	series := ledger.Series{Shape: ledger.Probe, Sender: node}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case now := <-ticks.C:
			if !l.nodes[node].Member() {
				l.writes.forget(node)
				continue
			}
			batch := []ledger.Sample{{Series: series, T: now.UnixMilli()}}
			l.Ledger.Send(batch)
			l.write(ctx, node, 1, batch, timeout)
		case <-ctx.Done():
			return
		}
	}
}
