package load

import (
	"sync"
	"time"
)

// availability measures the longest time without a success, at each node and at any.
type availability struct {
	mu    sync.Mutex
	any   span
	nodes []span
}

// span is the time since the last success, zero if none counts yet, and the longest between two.
type span struct {
	last    time.Time
	longest time.Duration
}

// upTo is the longest time without a success until now.
func (s *span) upTo(now time.Time) time.Duration {
	if s.last.IsZero() {
		return s.longest
	}
	return max(s.longest, now.Sub(s.last))
}

func (s *span) success(now time.Time) {
	s.longest = s.upTo(now)
	s.last = now
}

func newAvailability(now time.Time, nodes int) *availability {
	a := &availability{any: span{last: now}, nodes: make([]span, nodes)}
	for i := range a.nodes {
		a.nodes[i].last = now
	}
	return a
}

// forget ends the time of a node that is no member, until its next success.
func (a *availability) forget(node int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes[node].last = time.Time{}
}

// success notes that a node answered a request.
func (a *availability) success(node int, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.any.success(now)
	a.nodes[node].success(now)
}

// longest returns the longest time, up to now, in which nobody got an answer from any
// node, and the longest in which nobody got one from some node.
func (a *availability) longest(now time.Time) Down {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := Down{Anywhere: a.any.upTo(now)}
	for _, n := range a.nodes {
		d.Worst = max(d.Worst, n.upTo(now))
	}
	return d
}
