package storage

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/tsdb"
)

// lateGate keeps commits out while the TSDB looks which late samples it is to compact.
//
// For that it goes through all series (tsdb.NewOOOCompactionHead), and remembers the newest chunk of late
// samples that it has met. What is not newer is dropped once blocks are written, the log of late samples with
// it. A commit meanwhile can complete a chunk of a series that was passed already, older than that of one
// that comes: it is in no block, and dropped all the same.
//
// The TSDB does not tell when that begins. It follows the last truncation of the head and the checkpoint of
// the log, if there is one, which would take too long to wait for; both are logged when they end. That samples are being
// compacted is logged, too.
type lateGate struct {
	commits *slots
	fence   *fence
	logger  *slog.Logger
	// due tells whether the TSDB is to cut another block of the head.
	due func() bool

	mu sync.Mutex
	// compacting is set from when a block of the head is written.
	compacting, shut bool
	// patience ends what takes too long.
	patience *time.Timer
	// alone counts how often no commit was under way.
	alone atomic.Int64
}

const (
	// shortly is when the TSDB has seen whether there is another block of the head to be cut. For that it waits
	// for appends, which may wait for their commits.
	shortly = time.Second
	// longestLook is far more than it takes to go through the series of a large head.
	longestLook = time.Minute
)

// heard gets what the TSDB logs, from who does what is logged.
func (g *lateGate) heard(r slog.Record) {
	switch r.Message {
	case "Head GC completed":
		if ofMemory(r) {
			g.close()
		}
	case "Creating checkpoint":
		g.open()
	case "WAL checkpoint complete":
		g.close()
	case "out-of-order compaction started":
		g.looked()
	case "compaction failed":
		g.end()
	}
}

// ofMemory tells of a truncation whether it is that of the head, and not one of late samples.
func ofMemory(r slog.Record) (is bool) {
	r.Attrs(func(a slog.Attr) bool {
		is = is || a.Key == "caller" && a.Value.String() == "truncateMemory"
		return true
	})
	return is
}

// begin tells that a block of the head is about to be written.
func (g *lateGate) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release()
	g.compacting = true
}

// end tells that there is no more to come.
func (g *lateGate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release()
	g.compacting = false
}

// close waits for the commit that is under way, and lets none in.
func (g *lateGate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.compacting || g.shut || g.commits.take(context.Background(), g.fence) != nil {
		return
	}
	g.shut = true
	g.patience = time.AfterFunc(shortly, g.another)
}

// another lets commits in if it is another block that the TSDB goes on with. While the truncation was logged that
// could not be told, as the head may begin later since.
func (g *lateGate) another() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.shut:
	case g.due():
		g.release()
	default:
		g.patience = time.AfterFunc(longestLook, g.giveUp)
	}
}

func (g *lateGate) giveUp() {
	g.logger.Warn("The TSDB takes long to look which late samples it is to compact: writes go on meanwhile", "after", longestLook)
	g.end()
}

func (g *lateGate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release()
}

// looked tells that the TSDB has looked at all series.
func (g *lateGate) looked() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.shut:
		g.alone.Add(1)
	case g.compacting && g.fence.death() == nil:
		g.logger.Warn("The TSDB looked beside writes which late samples it is to compact: some that came just then may be lacking on this node until they are compared with those of other nodes")
	}
	g.release()
	g.compacting = false
}

// release is called under mu.
func (g *lateGate) release() {
	if g.shut {
		g.shut = false
		g.patience.Stop()
		g.commits.give()
	}
}

// headDue tells whether the TSDB would cut a block of its head, as tsdb.Head does.
func headDue(h *tsdb.Head, blockMillis int64) bool {
	return h.MaxTime()-h.MinTime() > blockMillis/2*3
}
