package cluster

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/simnet"
)

const (
	// calm is how long a cluster is left alone before and while its traffic is measured: some
	// exchanges of the whole state between two nodes, of which each begins one every 30 s, or
	// every 90 s among 100.
	calm = 5 * time.Minute
	// upheaval is how long the traffic of a change is measured, from its beginning.
	upheaval = 30 * time.Second
)

// BenchmarkConvergence measures how long the members of a cluster need, on virtual time and
// over a network with a latency of 1 ms, to learn of a node that starts and of one whose host
// goes down, and what gossip costs meanwhile. Its times are seconds of virtual time, its
// traffic is what a node sends in a second, in the mean of all nodes and without the headers
// of UDP, TCP and IP. Gossip, Raft and all timing are those of production; only the nodes hold
// no data, so that joining moves none.
func BenchmarkConvergence(b *testing.B) {
	for _, nodes := range []int{3, 20, 100} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			var sum figures
			for range b.N {
				sum.add(converge(b, nodes))
			}
			sum.report(b)
		})
	}
}

// figures are in seconds, or in packets and bytes per node and second.
type figures map[string]float64

func (f *figures) add(other figures) {
	if *f == nil {
		*f = figures{}
	}
	for unit, v := range other {
		(*f)[unit] += v
	}
}

func (f *figures) report(b *testing.B) {
	b.ReportMetric(0, "ns/op") // the time of the machine tells nothing
	for unit, v := range *f {
		b.ReportMetric(v/float64(b.N), unit)
	}
}

// converge measures one cluster. A bubble of virtual time is for tests only, so it runs one.
func converge(b *testing.B, nodes int) (measured figures) {
	b.Helper()
	ok := testing.RunTests(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: b.Name(),
		F: func(t *testing.T) {
			if measured != nil {
				return // -count repeats the benchmark, and is not to repeat this as well
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				measured = w.convergence(nodes)
				w.end()
			})
		},
	}})
	if !ok {
		b.Fatal("the cluster did not converge")
	}
	return measured
}

// convergence founds a cluster of so many nodes, adds one, and loses that one.
func (w *world) convergence(nodes int) figures {
	w.Helper()
	f := figures{}
	w.together(nodes)
	w.agree(5*time.Minute, nodes)
	time.Sleep(calm)
	before := w.sent()
	time.Sleep(calm)
	w.sent().since(before, calm, nodes, "calm", f)

	const limit = time.Minute
	before, start := w.sent(), time.Now()
	newcomer := w.begin(nodes+1, nodes)
	f["seen-s"] = w.soon(start, limit, "all see the new node, and it sees all", func() bool {
		return w.each(newcomer, func(n *node) bool { return n.sees(newcomer, Alive) && newcomer.sees(n, Alive) })
	})
	f["owner-s"] = w.soon(start, limit, "all have it in their tables", func() bool {
		return newcomer.c.Table() != nil && w.agreed(nodes+1)
	})
	time.Sleep(upheaval - time.Since(start))
	w.sent().since(before, upheaval, nodes+1, "join", f)

	time.Sleep(calm)
	before, start = w.sent(), time.Now()
	w.net.Down(newcomer.ip)
	f["dead-s"] = w.soon(start, limit, "all call the lost node dead", func() bool {
		return w.each(newcomer, func(n *node) bool { return n.sees(newcomer, Dead) })
	})
	time.Sleep(upheaval - time.Since(start))
	w.sent().since(before, upheaval, nodes, "loss", f)
	return f
}

// soon waits until ok holds, and returns the seconds since start.
func (w *world) soon(start time.Time, limit time.Duration, what string, ok func() bool) float64 {
	w.Helper()
	for !ok() {
		if time.Since(start) > limit {
			w.Errorf("after %v still not: %s", limit, what)
			w.end() // nobody else would
			w.FailNow()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start).Seconds()
}

// each tells whether ok holds for all nodes but one.
func (w *world) each(but *node, ok func(*node) bool) bool {
	for _, n := range w.nodes {
		if n != but && !ok(n) {
			return false
		}
	}
	return true
}

// sees tells whether gossip calls another node alive, dead, ….
func (n *node) sees(other *node, state MemberState) bool {
	p, known := n.c.peers.get(other.c.Self())
	return known && p.State == state
}

// traffic is the sum of what all nodes have sent.
type traffic simnet.GossipTraffic

func (w *world) sent() traffic {
	var sum traffic
	for _, n := range w.nodes {
		t := n.gossip.Sent()
		sum.Packets += t.Packets
		sum.PacketBytes += t.PacketBytes
		sum.StreamBytes += t.StreamBytes
	}
	return sum
}

// since adds what so many nodes have sent in a time to f.
func (t traffic) since(before traffic, span time.Duration, nodes int, when string, f figures) {
	per := span.Seconds() * float64(nodes)
	f[when+"-packets/s"] = float64(t.Packets-before.Packets) / per
	f[when+"-B/s"] = float64(t.PacketBytes+t.StreamBytes-before.PacketBytes-before.StreamBytes) / per
}
