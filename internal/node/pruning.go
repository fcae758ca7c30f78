package node

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// pruneGrace is how long a node keeps what has moved away, from when everybody knows so.
	pruneGrace = 10 * time.Minute
	// pruneLook is how often a node looks whether there may be something to delete, and
	// pruneAgain how long it waits when something was left, as what lies in the head.
	pruneLook  = time.Minute
	pruneAgain = 30 * time.Minute
)

// pruner deletes what this node does not own any more, once a transition has ended: then all
// owners hold it. Its goroutine owns it.
type pruner struct {
	n *Node
	// epoch is of the table that everybody has been at since a time.
	epoch uint64
	since time.Time
	// done is the epoch by which nothing is left to delete.
	done uint64
}

func (p *pruner) run(ctx context.Context) {
	for wait := pruneLook; ; {
		if !handoff.Pause(ctx, wait) {
			return
		}
		wait = p.look(ctx)
	}
}

// look deletes what may be deleted, and returns when to look again.
func (p *pruner) look(ctx context.Context) time.Duration {
	now := p.n.placed.Load()
	if !p.n.everybodyFollows(now) {
		p.epoch = 0
		return pruneLook
	}
	if p.epoch != now.table.Epoch {
		p.epoch, p.since = now.table.Epoch, time.Now()
	}
	if p.done == p.epoch || time.Since(p.since) < pruneGrace {
		return pruneLook
	}
	ctx, end, ok := p.n.deletion.begin(ctx, now.table.Epoch)
	if !ok {
		return pruneLook
	}
	defer end()
	owned := now.owned(p.n.cluster.Self())
	start := time.Now()
	result, err := p.n.store.Prune(ctx, func(ls labels.Labels) bool { return owned(keyOf(ls)) })
	if err != nil && ctx.Err() == nil {
		p.n.logger.Warn("What this node does not own any more could not be deleted; it is tried again", "err", err)
	}
	if result.Series > 0 {
		p.n.logger.Info("Deleted what this node does not own any more",
			"series", result.Series, "bytes", result.Bytes, "in_memory", result.HeadSeries, "took", time.Since(start).Round(time.Millisecond))
	}
	if ctx.Err() != nil {
		return pruneLook
	}
	if err != nil || !result.Clean() {
		return pruneAgain
	}
	p.done = p.epoch
	return pruneLook
}

// everybodyFollows tells whether the table is without a transition, has this node as an owner,
// and every member has said to be at it: nobody reads by an older one. A node that the cluster
// was recovered without deletes nothing: it may be the last to hold it.
func (n *Node) everybodyFollows(p *placed) bool {
	if p == nil || p.table.Transition != nil || n.cluster.Apart() != nil {
		return false
	}
	if _, owns := p.table.Current.SlotOf(n.cluster.Self()); !owns {
		return false
	}
	for _, m := range n.cluster.Members() {
		other := table.Generation(m.Epoch) != table.Generation(p.table.Epoch)
		if p.table.Member(m.ID) && (m.Epoch < p.table.Epoch || other) {
			return false
		}
	}
	return true
}

// deletion keeps what is deleted by one table apart from what the node is to hold by the next:
// a transition may give it back what it is just deleting. It may be used concurrently.
type deletion struct {
	mu sync.Mutex
	// epoch is of the newest table that is adopted, or about to be.
	epoch uint64
	// by is the epoch of the table that something is being deleted by, cancel ends that; nil
	// if nothing is.
	by     uint64
	cancel context.CancelFunc
}

// begin tells whether something may be deleted by the table of an epoch. The caller stops when
// the context ends that is returned, and calls end when nothing is deleted any more.
func (d *deletion) begin(ctx context.Context, epoch uint64) (_ context.Context, end func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if epoch < d.epoch || d.cancel != nil {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	d.by, d.cancel = epoch, cancel
	return ctx, func() {
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.cancel = nil
	}, true
}

// outdate has nothing be deleted any more by tables that are older than an epoch. It does not
// wait for the end of what is under way: that may wait for a compaction.
func (d *deletion) outdate(epoch uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch = max(d.epoch, epoch)
	if d.cancel != nil && d.by < epoch {
		d.cancel()
	}
}

// ending tells whether something may still be deleted by an older table. As long as it may,
// what lies in the store does not say that it stays there.
func (d *deletion) ending() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel != nil && d.by < d.epoch
}
