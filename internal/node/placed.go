package node

import (
	"context"

	"github.com/starling-tsdb/starling/internal/ingest"
	"github.com/starling-tsdb/starling/internal/placement"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// The partition key of the table is the one that placement computes.
var _ = [1]struct{}{}[placement.KeyVersion-table.KeyVersion]

// tenant is the only one for now; it is part of the partition key.
const tenant = ""

// placed is a table with the placement that follows from it.
type placed struct {
	table *table.Table
	slots *placement.Map
}

// SeriesOwners implements ingest.Placement.
func (p *placed) SeriesOwners(s *series.Series, dst []int) []int {
	return p.slots.Owners(placement.Key(tenant, s.Labels), dst)
}

// FamilyOwners implements ingest.Placement.
func (p *placed) FamilyOwners(family string, dst []int) []int {
	return p.slots.Owners(placement.FamilyKey(tenant, family), dst)
}

// adopt is called for one table after the other, once the table is on disk.
func (n *Node) adopt(t *table.Table) {
	buckets := t.Buckets()
	slots := make([]placement.Slot, len(buckets))
	for i, s := range buckets {
		slots[i] = placement.Slot{Occupied: s.Owns(), Zone: s.Zone}
	}
	next := &placed{table: t, slots: placement.NewMap(slots, t.Copies())}
	n.owner.Adopt(t)
	n.placed.Store(next)
}

// placement returns the current table; it is what ingest plans by.
func (n *Node) placement() (*table.Table, ingest.Placement) {
	p := n.placed.Load()
	if p == nil {
		return nil, nil
	}
	return p.table, p
}

// markWritten has the cluster agree that the present write quorum has been used.
func (n *Node) markWritten(ctx context.Context) error {
	return n.cluster.Propose(ctx, table.Command{Kind: table.MarkWritten})
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

// view is what a query asks: every node of the table.
func (n *Node) view() (query.View, error) {
	p := n.placed.Load()
	if p == nil {
		return query.View{}, errNotFormed
	}
	v := query.View{Epoch: p.table.Epoch, WrittenQuorum: p.table.AnswerQuorum(), Copies: p.table.Copies()}
	if p.table.Settled {
		v.Table = p.table
	}
	for slot, s := range p.table.Slots {
		switch s.Node {
		case "":
		case n.cluster.Self():
			v.Nodes = append(v.Nodes, query.Node{ID: s.Node, Slot: slot, Source: localSource{n.reader(), p.table}})
		default:
			v.Nodes = append(v.Nodes, query.Node{ID: s.Node, Slot: slot, Source: peerSource{n.peers.Peer(s.Node), p.table}})
		}
	}
	return v, nil
}

// tables is where peers find and leave tables.
type tables struct{ n *Node }

// Table implements transport.Tables.
func (t tables) Table() *table.Table {
	p := t.n.placed.Load()
	if p == nil {
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
