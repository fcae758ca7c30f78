package ingest

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// actor is a node of a world.
type actor struct {
	world *world
	id    table.NodeID
	// What it does when it is asked.
	delay   time.Duration // of its answer; for good, if it is silent
	err     error
	refuses map[item]series.Reason
	gaps    []proof.Gap // that it offers
	noteErr error
	hangs   bool // when it is asked for a note

	mu     sync.Mutex
	asked  bool
	stored map[item]bool
	notes  []proof.Gap // asked for and not withdrawn
}

const silent = time.Hour

// fault records what must not happen.
func (a *actor) fault(format string, args ...any) {
	a.world.mu.Lock()
	defer a.world.mu.Unlock()
	a.world.faults = append(a.world.faults, string(a.id)+": "+fmt.Sprintf(format, args...))
}

// Append implements Replica.
func (a *actor) Append(ctx context.Context, _ *table.Table, b *series.Batch) (proof.Confirmation, error) {
	select {
	case <-time.After(a.delay):
	case <-ctx.Done():
		return proof.Confirmation{}, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asked {
		a.fault("asked twice to append")
	}
	a.asked = true
	if a.err != nil {
		return proof.Confirmation{}, a.err
	}
	c := proof.Confirmation{Gaps: a.gaps}
	seen := map[string]bool{}
	for k, s := range b.Series {
		name := s.Labels.Get("n")
		if seen[name] {
			a.fault("series %s comes twice", name)
		}
		seen[name] = true
		i, _ := strconv.Atoi(name)
		if !a.owns(i) {
			a.fault("series %s is not its own", name)
		}
		for j := range s.Samples {
			if reason, ok := a.refuses[item{series: i, index: j}]; ok {
				c.Refusals = append(c.Refusals, series.Refusal{Series: k, Item: j, Reason: reason})
			} else {
				a.stored[item{series: i, index: j}] = true
			}
		}
	}
	return c, nil
}

// Note implements Replica.
func (a *actor) Note(ctx context.Context, _ *table.Table, peer table.NodeID, since int64) error {
	a.note(peer, since)
	if a.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return a.noteErr
}

// NoteLate implements Replica.
func (a *actor) NoteLate(ctx context.Context, t *table.Table, peer table.NodeID, since int64) (ticket uint64, err error) {
	if err := a.Note(ctx, t, peer, since); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Others may have been noted meanwhile; of this peer there is one.
	a.notes[slices.IndexFunc(a.notes, func(g proof.Gap) bool { return g.Peer == peer })].Late = true
	return ticketFor(peer, since), nil
}

// ticketFor tells the notes of one owner apart, for it is asked once for each peer.
func ticketFor(peer table.NodeID, since int64) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, peer, since)
	return h.Sum64()
}

// Withdraw implements Replica.
func (a *actor) Withdraw(_ context.Context, _ *table.Table, peer table.NodeID, ticket uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.notes, func(g proof.Gap) bool { return g.Late && ticketFor(g.Peer, g.Since) == ticket && g.Peer == peer })
	if i < 0 {
		a.fault("asked to withdraw a note for %s that it has not taken", peer)
		return nil
	}
	a.notes = slices.Delete(a.notes, i, i+1)
	return nil
}

// needless returns a peer for which it still has a late note, though the peer has all of its part.
func (a *actor) needless() (table.NodeID, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.notes {
		if g.Late && a.world.nodes[g.Peer].whole() {
			return g.Peer, true
		}
	}
	return "", false
}

// whole tells whether it has confirmed all of its part.
func (a *actor) whole() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked && a.err == nil && len(a.stored) == a.due()
}

// due is how many samples are of its series.
func (a *actor) due() (n int) {
	for i := range a.world.batch.Series {
		if a.owns(i) {
			n += len(a.world.batch.Series[i].Samples)
		}
	}
	return n
}

func (a *actor) note(peer table.NodeID, since int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := func(g proof.Gap) bool { return g.Peer == peer }
	switch {
	case !a.shares(peer):
		a.fault("asked to note a gap for %s, with which it shares nothing", peer)
	case !a.world.table.Member(peer) || peer == a.id:
		a.fault("asked to note a gap for %s", peer)
	case slices.ContainsFunc(a.notes, again):
		a.fault("asked twice to note a gap for %s", peer)
	case proof.Covers(a.gaps, peer, since):
		a.fault("asked to note a gap for %s that it offers", peer)
	}
	a.notes = append(a.notes, proof.Gap{Peer: peer, Since: since})
}

func (a *actor) owns(series int) bool {
	return slices.ContainsFunc(a.world.owners(series), func(by []*actor) bool { return slices.Contains(by, a) })
}

// shares tells whether it owns a series together with a peer, by one of the assignments.
func (a *actor) shares(peer table.NodeID) bool {
	for i := range a.world.batch.Series {
		for _, by := range a.world.owners(i) {
			if slices.Contains(by, a) && slices.Contains(by, a.world.nodes[peer]) {
				return true
			}
		}
	}
	return false
}

// holds tells whether it has stored an item.
func (a *actor) holds(it item) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stored[it]
}

// conflicts tells whether it has said that it holds another value.
func (a *actor) conflicts(it item) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked && a.err == nil && a.refuses[it] == series.Conflict
}

// noted tells whether its disk says that a peer lacks samples of a time.
func (a *actor) noted(peer table.NodeID, t int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return proof.Covers(a.gaps, peer, t) || !a.hangs && a.noteErr == nil && proof.Covers(a.notes, peer, t)
}
