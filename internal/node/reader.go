package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/evaluate"
	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/storage"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// errSession is an answer to a proof that does not hold any more: the node has started
// again, or found damage, since it said what it holds.
var errSession = errors.New("the node has started again, or found damage, since it said what it holds")

// errExpired is an answer to a proof that reaches behind the horizon: whoever asks does so from
// its own on, and this node's has risen since it said what it holds.
var errExpired = errors.New("samples have expired on the node since it said what it holds")

// reader reads this node's own store, for its own queries as for those of peers.
type reader struct {
	*storage.Store
	node *Node
}

// State implements transport.Reader.
func (r reader) State() proof.State {
	// Each finding is another session: what was said before does not hold any more. It is
	// counted before the damage is told of, so that is the order to look in.
	s := proof.State{Session: r.node.session + r.Findings(), Gaps: r.node.gaps.Noted()}
	for _, d := range r.Damage() {
		if !d.Suspect {
			s.Damage = append(s.Damage, proof.Range{Min: d.MinTime, Max: d.MaxTime})
		}
	}
	if h := r.Horizon().At(); h != expiry.None {
		s.Expired = []proof.Range{{Min: math.MinInt64, Max: h - 1}}
	}
	return s
}

// Select implements transport.Reader.
func (r reader) Select(ctx context.Context, sel transport.Selection) (transport.SeriesSet, error) {
	return r.selected(ctx, reading{Selection: sel, sorted: true})
}

// reading is how this node reads its own series.
type reading struct {
	transport.Selection
	sorted bool
	// most is how many series are looked up, once in the head and once in each block, before the
	// read fails with query.ErrManySeries; 0 for no such bound.
	most int
	// labels are the names of the labels that are looked at, nil for all.
	labels []string
	// looks tells at which times samples are looked at, nil for all.
	looks func(mint, maxt int64) bool
}

func (r reader) selected(ctx context.Context, sel reading) (transport.SeriesSet, error) {
	p, err := r.at(sel.Selection)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	set := &ownSet{check: func() error { _, err := r.at(sel.Selection); return err }}
	hints := sel.Hints
	var keep func(key uint64) (bool, error)
	if sel.Proof != nil || sel.Part != nil {
		keep = atMost(sel.most, r.serves(p, sel.Selection))
		if hints != nil {
			// The limit counts what is served.
			own := *hints
			set.limit, own.Limit = own.Limit, 0
			hints = &own
		}
	}
	if set.querier, err = r.ChunkQuerierOf(sel.Mint, sel.Maxt, storage.Want{Keep: keep, Labels: sel.labels, Looks: sel.looks}); err != nil {
		return nil, err
	}
	if start := start(sel.Selection); sel.Proof != nil && start < r.Horizon().At() {
		return nil, errors.Join(errExpired, set.querier.Close())
	}
	set.ChunkSeriesSet = set.querier.Select(ctx, sel.sorted, hints, sel.Matchers...)
	if sel.Part != nil {
		return struct {
			promstorage.ChunkSeriesSet
			io.Closer
		}{r.node.giver.Pace(ctx, sel.Part.Node, set), set}, nil
	}
	if sel.Spent != nil {
		return newMeasuredSet(set, sel.Spent, time.Since(began)), nil
	}
	return set, nil
}

// Sum implements transport.Reader.
func (r reader) Sum(ctx context.Context, sel transport.Selection) (*proof.Sums, error) {
	p, err := r.at(sel)
	if err != nil {
		return nil, err
	}
	serves, sums := r.serves(p, sel), new(proof.Sums)
	into := []*proof.Sums{sums}
	err = handoff.Sum(ctx, r.Store, proof.Range{Min: sel.Mint, Max: sel.Maxt}, sel.Matchers, sel.Encoded, func(ls labels.Labels) (uint64, []*proof.Sums) {
		key := keyOf(ls)
		if !serves(key) {
			return key, nil
		}
		return key, into
	})
	if err != nil {
		return nil, err
	}
	if sel.Proof != nil && sel.Mint < r.Horizon().At() {
		return nil, errExpired
	}
	_, err = r.at(sel)
	return sums, err
}

// start is the time of the oldest sample that a selection asks for, in milliseconds.
func start(sel transport.Selection) int64 {
	if sel.Hints == nil {
		return sel.Mint
	}
	return sel.Hints.Start
}

// serves returns the keys of which series the node serves, of those that are asked for. It is
// not safe for concurrent use.
func (r reader) serves(p *placed, sel transport.Selection) func(key uint64) bool {
	wanted, served := p.part(sel.Part), func(uint64) bool { return true }
	if sel.Proof != nil {
		slot, _ := p.reading.SlotOf(r.node.cluster.Self())
		share := sel.Proof.Share(p.reading.Assignment, slot)
		owners := make([]int, 0, p.reading.Copies())
		served = func(key uint64) bool {
			if serves, certain := share.ServesBy(p.reading.slots.First(key)); certain {
				return serves
			}
			owners = p.reading.slots.Owners(key, owners)
			return share.Serves(owners)
		}
	}
	return func(key uint64) bool { return served(key) && wanted(key) }
}

// atMost fails when it has told more of what is kept, unless most is 0.
func atMost(most int, keep func(key uint64) bool) func(key uint64) (bool, error) {
	kept := 0
	return func(key uint64) (bool, error) {
		if !keep(key) {
			return false, nil
		}
		if kept++; most > 0 && kept > most {
			return false, query.ErrManySeries
		}
		return true, nil
	}
}

// at returns the placement that a selection was planned by, if that is the present one, and
// if the node is still what the proof says it is.
func (r reader) at(sel transport.Selection) (*placed, error) {
	p := r.node.placed.Load()
	if p == nil {
		return nil, &table.MismatchError{Want: sel.Epoch}
	}
	if p.table.Epoch != sel.Epoch {
		return nil, &table.MismatchError{Have: p.table, Want: sel.Epoch}
	}
	if sel.Proof == nil {
		return p, nil
	}
	slot, _ := p.reading.SlotOf(r.node.cluster.Self())
	for _, n := range sel.Proof.Nodes {
		if n.Slot == slot {
			if n.Session != r.State().Session {
				return nil, errSession
			}
			return p, nil
		}
	}
	return nil, fmt.Errorf("this node, in slot %d, does not serve under the proof it was sent", slot)
}

// owns returns which series a node owns by the table of an epoch.
func (n *Node) owns(epoch uint64, id table.NodeID) (func(labels.Labels) bool, error) {
	p := n.placed.Load()
	if p == nil {
		return nil, &table.MismatchError{Want: epoch}
	}
	if p.table.Epoch != epoch {
		return nil, &table.MismatchError{Have: p.table, Want: epoch}
	}
	owned := p.owned(id)
	return func(ls labels.Labels) bool { return owned(keyOf(ls)) }, nil
}

// ownSet is what the node serves of its own series. It is closed by its reader, and closes
// the querier that it reads from.
type ownSet struct {
	promstorage.ChunkSeriesSet
	querier promstorage.ChunkQuerier
	limit   int // of series, 0 for none
	n       int
	// check tells at the end whether the answer is still one to what was asked.
	check func() error
	err   error
}

// Next implements storage.ChunkSeriesSet.
func (s *ownSet) Next() bool {
	if (s.limit == 0 || s.n < s.limit) && s.ChunkSeriesSet.Next() {
		s.n++
		return true
	}
	s.err = s.check()
	return false
}

// Divide divides what can be divided, unless it is limited.
func (s *ownSet) Divide(most int) []promstorage.ChunkSeriesSet {
	d, ok := s.ChunkSeriesSet.(evaluate.Divisible)
	if !ok || s.limit > 0 {
		return nil
	}
	parts := d.Divide(most)
	for i, p := range parts {
		parts[i] = &ownSet{ChunkSeriesSet: p, check: s.check}
	}
	return parts
}

// Err implements storage.ChunkSeriesSet.
func (s *ownSet) Err() error { return errors.Join(s.ChunkSeriesSet.Err(), s.err) }

// Close implements io.Closer.
func (s *ownSet) Close() error { return s.querier.Close() }
