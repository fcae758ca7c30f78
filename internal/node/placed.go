package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/ingest"
	"github.com/starling-tsdb/starling/internal/placement"
	"github.com/starling-tsdb/starling/internal/plan"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// The partition key of the table is the one that placement computes.
var _ = [1]struct{}{}[placement.KeyVersion-table.KeyVersion]

// tenant is the only one for now; it is part of the partition key.
const tenant = ""

// keyOf returns the partition key of a series.
func keyOf(ls labels.Labels) uint64 { return placement.Key(tenant, ls) }

// placed is a table with the placements that follow from it.
type placed struct {
	table *table.Table
	// writing are the assignments that writes go by, the current one first, and placements
	// the same as ingest knows them.
	writing    []*assigned
	placements []ingest.Placement
	// reading is the one of them that queries go by.
	reading *assigned
	// since is when this node first had a table of the present phase, zero if that was
	// before it started.
	since time.Time
}

// assigned is an assignment with the placement that follows from it.
type assigned struct {
	*table.Assignment
	slots *placement.Map
	// crowded is about which part of the series have copies in fewer zones than they could.
	crowded float64
}

func newPlaced(t *table.Table) *placed {
	p := &placed{table: t}
	for _, a := range t.Writing() {
		next := &assigned{a, plan.Place(a), plan.Crowded(a)}
		p.writing, p.placements = append(p.writing, next), append(p.placements, next)
		if a == t.Reading() {
			p.reading = next
		}
	}
	return p
}

// crowded is about which part of the series have copies in fewer zones than they could, once
// all is done.
func (p *placed) crowded() float64 { return p.writing[len(p.writing)-1].crowded }

// SeriesOwners implements ingest.Placement.
func (a *assigned) SeriesOwners(s *series.Series, dst []int) []int {
	if s.Handle != nil {
		return a.slots.Owners(s.Handle.Key, dst)
	}
	return a.slots.Owners(keyOf(s.Labels), dst)
}

// FamilyOwners implements ingest.Placement.
func (a *assigned) FamilyOwners(family string, dst []int) []int {
	return a.slots.Owners(placement.FamilyKey(tenant, family), dst)
}

// mostCopies returns how many copies of one series can lie on the nodes in the slots that are
// told, and on those that were given up, together.
func (a *assigned) mostCopies(told func(slot int) bool) int {
	return a.slots.MostCopies(func(slot int) bool { return a.Slots[slot].Removed || told(slot) })
}

// owner tells for one node after the other whether a key is placed on it. It is not safe for
// concurrent use.
type owner struct {
	slot   int
	placed bool
	slots  *placement.Map
	dst    []int
}

func (a *assigned) owner(id table.NodeID) *owner {
	slot, ok := a.SlotOf(id)
	return &owner{slot: slot, placed: ok, slots: a.slots, dst: make([]int, 0, a.Copies())}
}

func (o *owner) owns(key uint64) bool {
	if !o.placed {
		return false
	}
	o.dst = o.slots.Owners(key, o.dst)
	return slices.Contains(o.dst, o.slot)
}

// owned returns which keys a node owns by any of the assignments.
func (p *placed) owned(id table.NodeID) func(key uint64) bool {
	var by []*owner
	for _, a := range p.writing {
		by = append(by, a.owner(id))
	}
	return func(key uint64) bool {
		return slices.ContainsFunc(by, func(o *owner) bool { return o.owns(key) })
	}
}

// gained returns which keys a node owns by the target and not by the current assignment; all that
// it owns by the target, where nobody may note what it lacks of the others.
func (p *placed) gained(id table.NodeID) func(key uint64) bool {
	now, then := p.writing[0].owner(id), p.writing[len(p.writing)-1].owner(id)
	unproven := p.writing[0].Unproven()
	return func(key uint64) bool { return then.owns(key) && (unproven || !now.owns(key)) }
}

// part returns which keys are of a part; of none, all are.
func (p *placed) part(of *proof.Part) func(key uint64) bool {
	if of == nil {
		return func(uint64) bool { return true }
	}
	owns := p.owned(of.Node)
	if of.Gained {
		owns = p.gained(of.Node)
	}
	return func(key uint64) bool { return of.Ranges>>proof.KeyRange(key)&1 != 0 && owns(key) }
}

// adopt is called for one table after the other, once the table is on disk.
func (n *Node) adopt(t *table.Table) {
	next := newPlaced(t)
	before := n.placed.Load()
	if before != nil {
		next.since = phaseSince(before, t, time.Now())
	}
	if crowded := next.crowded(); crowded > 0 && (before == nil || crowded != before.crowded()) {
		n.logger.Warn("Copies of some series lie in fewer zones than they could: a zone has fewer than half as many nodes as the mean; losing another one makes them unavailable",
			"epoch", t.Epoch, "series", fmt.Sprintf("%.1f%%", 100*crowded))
	}
	// Before anybody writes to this node what it did not own by the last table.
	n.deletion.outdate(t.Epoch)
	n.owner.Adopt(t)
	n.placed.Store(next)
	// What a node notes that is no member any more counts as little as what it holds. A query
	// at the last epoch may still read from a peer that the gap is of: the gap is said until
	// this node refuses that epoch.
	self := n.cluster.Self()
	n.gaps.Keep(func(peer table.NodeID) bool { return t.Member(self) && t.Member(peer) })
}

// placement returns the current table with the placements that it writes by; it is what ingest
// plans by.
func (n *Node) placement() (*table.Table, []ingest.Placement) {
	p := n.placed.Load()
	if p == nil {
		return nil, nil
	}
	return p.table, p.placements
}

// replica returns the way to an owner.
func (n *Node) replica(id table.NodeID) ingest.Replica {
	if id == n.cluster.Self() {
		return localReplica{n.owner}
	}
	return n.peers.Peer(id)
}

type localReplica struct{ owner *ingest.Owner }

// Append implements ingest.Replica.
func (r localReplica) Append(ctx context.Context, t *table.Table, b *series.Batch) (proof.Confirmation, error) {
	return r.owner.Append(ctx, t.Epoch, b)
}

// Note implements ingest.Replica.
func (r localReplica) Note(ctx context.Context, t *table.Table, peer table.NodeID, since int64) error {
	return r.owner.Note(ctx, t.Epoch, peer, since)
}

// NoteLate implements ingest.Replica.
func (r localReplica) NoteLate(ctx context.Context, t *table.Table, peer table.NodeID, since int64) (ticket uint64, err error) {
	return r.owner.NoteLate(ctx, t.Epoch, peer, since)
}

// Withdraw implements ingest.Replica.
func (r localReplica) Withdraw(_ context.Context, _ *table.Table, peer table.NodeID, ticket uint64) error {
	r.owner.Withdraw(peer, ticket)
	return nil
}

// view is what a query asks: every node that it may read from.
func (n *Node) view() (query.View, error) {
	p := n.placed.Load()
	if p == nil {
		return query.View{}, errNotFormed
	}
	a := p.reading
	v := query.View{Epoch: p.table.Epoch, Quorum: a.WriteQuorum(), MostCopies: a.mostCopies, Copies: a.Copies(), Assignment: a.Assignment, Self: n.cluster.Self()}
	for slot, s := range a.Slots {
		if s.Node != "" && !s.Removed {
			v.Nodes = append(v.Nodes, query.Node{ID: s.Node, Slot: slot, Source: n.source(s.Node, p.table)})
		}
	}
	return v, nil
}

// source is the way to the data of a node, this one included, at the epoch of a table.
func (n *Node) source(id table.NodeID, t *table.Table) query.Source {
	if id == n.cluster.Self() {
		return localSource{n.reader(), t}
	}
	return peerSource{n.peers.Peer(id), t}
}

// tables is where peers find and leave tables.
type tables struct{ n *Node }

// Table implements transport.Tables. A node that the cluster was recovered without has none for
// its peers: it answers no request.
func (t tables) Table() *table.Table {
	p := t.n.placed.Load()
	if p == nil || t.n.cluster.Apart() != nil {
		return nil
	}
	return p.table
}

// Learn implements transport.Tables.
func (t tables) Learn(learned *table.Table) error { return t.n.cluster.Learn(learned) }

// errNotFormed is retryable: the cluster may form at any moment.
var errNotFormed error = notFormedError{}

type notFormedError struct{}

// Error implements error.
func (notFormedError) Error() string { return ingest.ErrNoTable.Error() }

// Unavailable makes it status 503.
func (notFormedError) Unavailable() bool { return true }
