package node

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// replicationLook is how often a node counts the series that have too few copies.
const replicationLook = 15 * time.Second

// countRest is how many times as long as counting takes it is left alone afterwards.
const countRest = 20

// replication counts the series that have fewer whole copies than they should, and what this
// node has still to copy.
type replication struct {
	n                   *Node
	series, bytes, left prometheus.Gauge
	// rest is until when nothing is counted.
	rest time.Time
}

func newReplication(n *Node) *replication {
	factory := promauto.With(n.registry)
	return &replication{
		n: n,
		series: factory.NewGauge(prometheus.GaugeOpts{
			Name: "starling_under_replicated_series",
			Help: "Series, in memory or on disk, that an owner does not hold all of: it is away, given up, damaged, or misses something. Each is counted by the first owner that is whole, so that the sum over all nodes counts it once.",
		}),
		bytes: factory.NewGauge(prometheus.GaugeOpts{
			Name: "starling_under_replicated_bytes",
			Help: "Bytes of the chunks that this node has of those series.",
		}),
		left: factory.NewGauge(prometheus.GaugeOpts{
			Name: "starling_transition_left_bytes",
			Help: "About how many bytes of chunks this node has still to copy in a transition, of those that it does not hold; 0 before the first window.",
		}),
	}
}

func (r *replication) run(ctx context.Context) {
	for handoff.Pause(ctx, replicationLook) {
		if err := r.count(ctx); err != nil && ctx.Err() == nil {
			r.n.logger.Debug("The series with too few copies were not counted; it is tried again", "err", err)
		}
	}
}

// count sets the metrics.
func (r *replication) count(ctx context.Context) error {
	p := r.n.placed.Load()
	if p == nil {
		return nil
	}
	reports := r.n.reports(ctx)
	r.left.Set(float64(copyStatusOf(p, r.n.cluster.Self(), reports).BytesLeft))
	self, owns := p.reading.SlotOf(r.n.cluster.Self())
	whole, all := r.whole(p, reports)
	if !owns || !whole[self] || all {
		r.series.Set(0)
		r.bytes.Set(0)
		return nil
	}
	if time.Now().Before(r.rest) {
		return nil
	}
	start := time.Now()
	owners := make([]int, 0, p.reading.Copies())
	series, bytes, err := r.thin(ctx, func(ls labels.Labels) bool {
		owners = p.reading.slots.Owners(keyOf(ls), owners)
		isWhole := func(o int) bool { return whole[o] }
		first := slices.IndexFunc(owners, isWhole)
		return first >= 0 && owners[first] == self && slices.ContainsFunc(owners, func(o int) bool { return !whole[o] })
	})
	r.rest = time.Now().Add(countRest * time.Since(start))
	if err != nil {
		return err
	}
	r.series.Set(float64(series))
	r.bytes.Set(float64(bytes))
	return nil
}

// thin counts the series of the store that are counted here, and the bytes of their chunks.
func (r *replication) thin(ctx context.Context, counted func(labels.Labels) bool) (series, bytes int, err error) {
	q, err := r.n.store.ChunkQuerier(math.MinInt64, math.MaxInt64)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	set := q.Select(ctx, false, nil, handoff.Everything()...)
	var it chunks.Iterator
	for set.Next() {
		if ctx.Err() != nil {
			return 0, 0, context.Cause(ctx)
		}
		if !counted(set.At().Labels()) {
			continue
		}
		series++
		for it = set.At().Iterator(it); it.Next(); {
			bytes += len(it.At().Chunk.Bytes())
		}
		if err := it.Err(); err != nil {
			return 0, 0, err
		}
	}
	return series, bytes, set.Err()
}

// whole tells, by slot, whose copies are whole, as far as this node knows, and whether all are.
func (r *replication) whole(p *placed, reports map[table.NodeID]transport.Report) (whole []bool, all bool) {
	whole = make([]bool, len(p.reading.Slots))
	for _, m := range r.n.cluster.Members() {
		slot, ok := p.reading.SlotOf(m.ID)
		report, answered := reports[m.ID]
		if ok && (m.ID == r.n.cluster.Self() || m.State == cluster.Alive) && answered && report.Damaged == 0 {
			whole[slot] = true
		}
	}
	for _, g := range r.n.gaps.Open() {
		if slot, ok := p.reading.SlotOf(g.Peer); ok {
			whole[slot] = false
		}
	}
	for slot, s := range p.reading.Slots {
		if s.Node != "" && !whole[slot] {
			return whole, false
		}
	}
	return whole, true
}
