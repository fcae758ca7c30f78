package storage

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-tsdb/starling/internal/statefile"
)

// groupSync makes the write-ahead logs durable, in rounds. All appends that are committed
// when a round begins share it: whatever the number of appends, there is one sync at a
// time, and the next one takes all that came meanwhile. A round waits for appends that are
// on their way to it, for as long as two syncs take: under load that spares most syncs, which
// others would wait for, too, and an append that is alone does not wait.
type groupSync struct {
	mode    SyncMode
	logs    []*segmentLog // used by one goroutine at a time: opening, then loop, then closing
	fence   *fence
	metrics *metrics
	kick    chan struct{} // filled where somebody waits for next
	quit    chan struct{}
	done    chan struct{}

	// coming counts the appends on their way; none is told when it falls to zero.
	coming atomic.Int64
	none   chan struct{}
	// usual is the mean duration of a sync lately; only loop uses it.
	usual time.Duration

	mu     sync.Mutex
	next   *round // the round that has not begun
	synced []mark // of each log
}

// maxGather bounds how long a round waits for appends, however long a sync takes.
const maxGather = 10 * time.Millisecond

// round is one sync; err may be read when done is closed.
type round struct {
	done chan struct{}
	err  error
}

func newRound() *round { return &round{done: make(chan struct{})} }

// newGroupSync opens the log directories, which must exist.
func newGroupSync(mode SyncMode, dirs []string, fsync func(*os.File) error, f *fence, m *metrics) (*groupSync, error) {
	g := &groupSync{
		mode:    mode,
		fence:   f,
		metrics: m,
		kick:    make(chan struct{}, 1),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		none:    make(chan struct{}, 1),
		next:    newRound(),
	}
	counted := func(f *os.File) error {
		m.syncs.Inc()
		return fsync(f)
	}
	for _, dir := range dirs {
		l, err := openSegmentLog(dir, counted)
		if err != nil {
			g.release()
			return nil, err
		}
		g.logs = append(g.logs, l)
		g.synced = append(g.synced, l.mark())
	}
	return g, nil
}

// opening syncs all that the logs hold: what a process left in the page cache when it was
// killed is replayed now, and would be confirmed as a duplicate. Then it has the second
// names of segments released, durably: the next start would take them for what the logs
// held before.
func (g *groupSync) opening(dataDir string, release func(logDir string) error) error {
	if g.mode != SyncOff {
		if err := g.syncLogs(); err != nil {
			return err
		}
	}
	for _, l := range g.logs {
		if err := release(l.path); err != nil {
			return err
		}
		if g.mode == SyncOff {
			continue
		}
		if err := l.syncDir(); err != nil {
			return err
		}
	}
	if g.mode == SyncOff {
		return nil
	}
	return statefile.SyncPath(dataDir, g.logs[0].fsync)
}

// start begins serving rounds.
func (g *groupSync) start() { go g.loop() }

// stop ends the loop. Who still waits for a round, in a dead store, gets an error.
func (g *groupSync) stop() {
	close(g.quit)
	<-g.done
}

// closing syncs what the TSDB wrote when it was closed.
func (g *groupSync) closing() error {
	if g.mode == SyncOff || g.fence.check() != nil {
		return nil
	}
	return g.syncLogs()
}

// restore makes durable what the logs hold after a failure, for a TSDB that has been closed
// and is to be opened again.
func (g *groupSync) restore() error {
	if g.mode == SyncOff {
		return nil
	}
	for _, l := range g.logs {
		if err := l.restore(); err != nil {
			return err
		}
	}
	return nil
}

// release gives the descriptors back.
func (g *groupSync) release() {
	for _, l := range g.logs {
		l.close()
	}
}

// begin tells that an append is on its way to a round.
func (g *groupSync) begin() { g.coming.Add(1) }

// end tells that an append has its round, or needs none.
func (g *groupSync) end() {
	if g.coming.Add(-1) == 0 {
		select {
		case g.none <- struct{}{}:
		default:
		}
	}
}

// upcoming returns the round that begins next.
func (g *groupSync) upcoming() *round {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next
}

// wait returns nil when a round, which upcoming has returned, has ended without an error. It
// returns earlier, with an error, when ctx ends or nobody serves rounds any more.
func (g *groupSync) wait(ctx context.Context, r *round) error {
	g.mu.Lock()
	if r == g.next {
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
	g.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-g.done:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait for the write-ahead log's sync: %w", context.Cause(ctx))
	}
}

func (g *groupSync) loop() {
	defer close(g.done)
	var tick <-chan time.Time
	if g.mode == SyncInterval {
		t := time.NewTicker(syncInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-g.quit:
			return
		case <-g.kick:
			g.gather()
		case <-tick:
		}
		r := g.turn()
		r.err = g.run()
		close(r.done)
	}
}

// gather waits for the appends that are on their way.
func (g *groupSync) gather() {
	if g.usual == 0 || g.coming.Load() == 0 {
		return
	}
	most := time.NewTimer(min(2*g.usual, maxGather))
	defer most.Stop()
	for g.coming.Load() > 0 {
		select {
		case <-g.none:
		case <-most.C:
			return
		case <-g.quit:
			return
		}
	}
}

// turn begins the next round.
func (g *groupSync) turn() *round {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.kick: // of those who came while it waited
	default:
	}
	r := g.next
	g.next = newRound()
	return r
}

// run is one round. The fence is looked at before, since after a failure nothing may be
// trusted, and afterwards, since a commit may have failed unnoticed meanwhile.
func (g *groupSync) run() error {
	if err := g.fence.check(); err != nil {
		return err
	}
	start := time.Now()
	if err := g.syncLogs(); err != nil {
		return g.fence.raise(err)
	}
	took := time.Since(start)
	g.usual += (took - g.usual) / 8
	g.metrics.syncDuration.Observe(took.Seconds())
	return g.fence.check()
}

func (g *groupSync) syncLogs() error {
	for _, l := range g.logs {
		if err := l.sync(); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, l := range g.logs {
		g.synced[i] = l.mark()
	}
	return nil
}

// marks returns how far the logs are durable.
func (g *groupSync) marks() []mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.synced)
}
