package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// TestFreshLeaderKnowsWhoJoined restarts a cluster whose last snapshot is from before a
// node joined, on a slow network: the leader has long been elected when it can tell that
// the join was committed, and must not take the node for a stranger meanwhile.
func TestFreshLeaderKnowsWhoJoined(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		for _, n := range w.nodes {
			if err := n.c.consensus().running().Snapshot().Error(); err != nil {
				w.Fatal(err)
			}
		}
		joined := w.begin(4, 0)
		w.agree(30*time.Second, 4)
		id := raft.ServerID(joined.c.Self())
		servers := func(n *node) (has bool) {
			f := n.c.consensus().running().GetConfiguration()
			if err := f.Error(); err != nil {
				w.Fatal(err)
			}
			for _, s := range f.Configuration().Servers {
				has = has || s.ID == id
			}
			return has
		}
		w.eventually(time.Minute, "everybody has four servers", func() bool {
			for _, n := range w.nodes {
				if !servers(n) {
					return false
				}
			}
			return true
		})
		for len(w.nodes) > 0 {
			w.nodes[0].crash()
		}
		w.net.SetLatency(500 * time.Millisecond)
		for i := 1; i <= 4; i++ {
			w.start(nodeName(i), ip(i), func(c *Config) {
				c.Find.Join, c.Timing.Poll = seeds(1, 2, 3), 50*time.Millisecond
			})
		}
		w.leader()
		time.Sleep(time.Minute)
		for _, n := range w.nodes {
			if n.logs.has("change Raft's servers", "do=remove") {
				w.Errorf("%s removed a server", n.name)
			}
			if !servers(n) {
				w.Errorf("the node that joined is no server for %s", n.name)
			}
		}
	})
}

// TestRestartAlone: a single voter leads at once, with a snapshot and without.
func TestRestartAlone(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		t.Run(fmt.Sprint("snapshot=", snapshot), func(t *testing.T) {
			inWorld(t, func(w *world) {
				n := w.start("only", ip(1), nil)
				w.eventually(10*time.Second, "a cluster of one", func() bool { return n.c.Table() != nil })
				for range 5 {
					w.change(n)
				}
				if snapshot {
					if err := n.c.consensus().running().Snapshot().Error(); err != nil {
						w.Fatal(err)
					}
				}
				for range 3 {
					n.crash()
					start := time.Now()
					n = w.start("only", ip(1), nil)
					w.change(n)
					if took := time.Since(start); took > 2*time.Second {
						w.Errorf("the only voter took %v from its start to its first change", took)
					}
				}
			})
		})
	}
}

// TestRestartOfAll: three nodes that start at once have a leader soon.
func TestRestartOfAll(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		w.change(w.nodes[0])
		worst := time.Duration(0)
		for range 20 {
			for len(w.nodes) > 0 {
				w.nodes[0].crash()
			}
			start := time.Now()
			w.together(3)
			w.leader()
			worst = max(worst, time.Since(start))
			w.change(w.nodes[1])
		}
		w.Logf("a leader after %v at worst", worst)
		if worst > 10*time.Second {
			w.Errorf("it took %v to elect a leader", worst)
		}
	})
}

// TestStopWhileWaiting: who waits for an entry of the log is answered although Raft is shut
// down while the entry is on its way; a bubble ends only when nobody waits.
func TestStopWhileWaiting(t *testing.T) {
	for range 10 {
		inWorld(t, func(w *world) {
			n := w.start("only", ip(1), nil)
			w.eventually(10*time.Second, "a cluster of one", func() bool { return n.c.Table() != nil })
			c := n.c.consensus()
			offer := c.fsm.offer
			c.fsm.offer = func(t *table.Table) {
				time.Sleep(100 * time.Millisecond)
				offer(t)
			}
			var waiting sync.WaitGroup
			waiting.Go(func() { _ = n.c.Propose(w.Context(), table.Command{Kind: table.Pause}) })
			time.Sleep(10 * time.Millisecond)
			waiting.Go(func() {
				if err := c.await(w.Context(), c.running().Barrier(0).Error); err != nil {
					w.Error("an entry that was on its way:", err)
				}
			})
			time.Sleep(10 * time.Millisecond)
			n.crash()
			waiting.Wait()
		})
	}
}

// TestSnapshotReachesANodeThatFellBehind, whose log ends before the snapshot begins, also
// when it ends before the leader hears that it stored what follows on the snapshot.
func TestSnapshotReachesANodeThatFellBehind(t *testing.T) {
	const latency = 10 * time.Millisecond
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		behind := w.others(w.leader())[0]
		lastOf := func(n *node) uint64 {
			last, err := n.c.consensus().store.log.LastIndex()
			if err != nil {
				w.Fatal(err)
			}
			return last
		}
		last := lastOf(behind)
		behind.crash()
		for range 200 {
			w.change(w.nodes[0])
		}
		time.Sleep(10 * time.Minute)
		for _, n := range w.nodes {
			if first, err := n.c.consensus().store.log.FirstIndex(); err != nil || first <= last+1 {
				w.Fatalf("the log of %s begins at %d, %v; the other's ends at %d", n.name, first, err, last)
			}
		}
		w.net.SetLatency(latency)
		again := func() *node {
			return w.start(behind.name, behind.ip, func(c *Config) { c.Find.Join = seeds(1, 2, 3) })
		}
		w.change(w.nodes[0]) // which follows on the snapshot
		behind = again()
		for start := time.Now(); lastOf(behind) == last; time.Sleep(latency / 10) {
			if time.Since(start) > time.Minute {
				w.Fatal("nothing reaches the node that fell behind")
			}
		}
		behind.crash()
		for range 2 {
			behind = again()
			w.change(behind)
			w.eventually(time.Minute, "it has the log of the others", func() bool {
				a, b := behind.c.consensus().running(), w.nodes[0].c.consensus().running()
				return a != nil && a.AppliedIndex() == b.AppliedIndex() && lastOf(behind) == a.AppliedIndex()
			})
			behind.crash()
		}
	})
}

// TestJoinedIsWrittenDown: a node that cannot save that it has joined tries again, or it
// would ask to join again after it was removed.
func TestJoinedIsWrittenDown(t *testing.T) {
	inWorld(t, func(w *world) {
		var free func()
		n := w.start("n", ip(1), func(c *Config) {
			path := filepath.Join(c.Dir, foundingFile)
			c.Adopt = func(_, _ *table.Table) { free = fill(w.T, path) }
		})
		w.eventually(time.Minute, "a table", func() bool { return n.c.Table() != nil })
		joined := func() bool {
			var f founding
			if err := statefile.Load(w.dirs["n"], foundingFile, &f); err != nil {
				w.Fatal(err)
			}
			return f.Joined
		}
		time.Sleep(time.Minute)
		if joined() {
			w.Error("it was written on a full disk")
		}
		if !n.logs.has("level=WARN", "founding.tmp") {
			w.Error("the failure is not logged")
		}
		free()
		w.eventually(10*time.Second, "it is written down", joined)
	})
}

// TestProposeEndsWithItsContext although the table is being adopted, which may take long.
func TestProposeEndsWithItsContext(t *testing.T) {
	inWorld(t, func(w *world) {
		release := make(chan struct{})
		n := w.start("n", ip(1), func(c *Config) {
			c.Adopt = func(_, t *table.Table) {
				if t.Epoch == 2 {
					<-release
				}
			}
		})
		w.eventually(time.Minute, "a table", func() bool { return n.c.Table() != nil })
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- n.c.Propose(ctx, table.Command{Kind: table.Pause}) }()
		select {
		case err := <-done:
			if !errors.Is(err, context.DeadlineExceeded) {
				w.Errorf("propose: %v", err)
			}
		case <-time.After(time.Minute):
			w.Error("Propose did not end with its context")
		}
		close(release)
		w.propose(n, table.Pause)
		if got := n.c.Table().Epoch; got != 2 {
			w.Errorf("epoch %d", got)
		}
	})
}
