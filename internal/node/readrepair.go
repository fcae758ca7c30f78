package node

import (
	"context"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
)

const (
	// tellInterval is how often members are told where queries found owners to disagree.
	tellInterval = 10 * time.Second
	// maxDisagreements bounds how many windows are remembered until then. Those beyond are
	// found by another query, or by the daily pass.
	maxDisagreements = 256
)

// disagreements are the windows of time of which queries were given different copies. It may be
// used concurrently.
type disagreements struct {
	mu      sync.Mutex
	windows map[int64]struct{} // by their ends
}

// add takes note of a time, which may be that of several windows.
func (d *disagreements) add(r proof.Range) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.windows == nil {
		d.windows = map[int64]struct{}{}
	}
	for end := handoff.WindowEdge(r.Min); len(d.windows) < maxDisagreements; end += handoff.WindowSpan.Milliseconds() {
		d.windows[end] = struct{}{}
		if end > r.Max {
			return
		}
	}
}

// take returns the windows since the last call.
func (d *disagreements) take() []proof.Range {
	d.mu.Lock()
	defer d.mu.Unlock()
	var windows []proof.Range
	for end := range d.windows {
		windows = append(windows, proof.Range{Min: end - handoff.WindowSpan.Milliseconds(), Max: end - 1})
	}
	clear(d.windows)
	return windows
}

// repairRead has all members compare what queries were given different copies of, until ctx
// ends. The coordinator need not own any of it.
func (n *Node) repairRead(ctx context.Context) {
	for handoff.Pause(ctx, tellInterval) {
		p := n.placed.Load()
		if p == nil {
			continue
		}
		for _, window := range n.disagreed.take() {
			told, cancel := context.WithTimeout(ctx, tellInterval)
			_, unreached := n.compareOn(told, p.table, p.table.Nodes(), window)
			cancel()
			n.logger.Debug("A query found owners to disagree: they compare what they hold", "from", time.UnixMilli(window.Min).UTC(), "unreached", len(unreached))
		}
	}
}
