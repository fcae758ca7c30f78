package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/simnet"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	gossipPort = 7946
	rpcPort    = 9081
	raftPort   = 9082 // stands for the raft side of the rpc port
)

// world is a network with nodes on it.
type world struct {
	*testing.T
	net   *simnet.Net
	nodes []*node
	dirs  map[string]string
	// paused is what change has made of the table.
	paused bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, net: simnet.New(), dirs: make(map[string]string)}
	w.net.SetLatency(time.Millisecond)
	return w
}

// node is one running Cluster.
type node struct {
	w      *world
	name   string
	ip     string
	c      *Cluster
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	logs   *logBuffer
	rpc    net.Listener
	gossip *simnet.GossipTransport

	mu      sync.Mutex
	adopted []*table.Table
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) has(parts ...string) bool {
	for line := range strings.Lines(l.String()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			return true
		}
	}
	return false
}

func ip(i int) string { return fmt.Sprintf("10.0.0.%d", i) }

func seeds(is ...int) []string {
	var s []string
	for _, i := range is {
		s = append(s, fmt.Sprintf("%s:%d", ip(i), gossipPort))
	}
	return s
}

// config returns what a node of the world is told.
func (w *world) config(name, ip string) Config {
	if w.dirs[name] == "" {
		w.dirs[name] = w.TempDir()
	}
	return Config{
		Dir: w.dirs[name], ClusterName: "test",
		Find:      Find{LookupHost: w.net.LookupHost},
		Advertise: Advertise{RPCPort: rpcPort, HTTPPort: 9080, Zone: "z-" + name, Name: name, Version: "1.2.3"},
	}
}

// start runs a node on the host with this address; name stands for its directory. made is
// told of it before it runs.
func (w *world) start(name, ip string, change func(*Config), made ...func(*Cluster)) *node {
	w.Helper()
	host := w.net.Host(ip)
	n := &node{w: w, name: name, ip: ip, done: make(chan struct{}), logs: &logBuffer{}}
	raftListener, err := host.Listen(raftPort)
	if err != nil {
		w.Fatal(err)
	}
	if n.rpc, err = host.Listen(rpcPort); err != nil {
		w.Fatal(err)
	}
	cfg := w.config(name, ip)
	n.gossip = host.GossipTransport(gossipPort)
	cfg.GossipTransport = n.gossip
	cfg.RaftListener = raftListener
	cfg.Registerer = prometheus.NewRegistry()
	cfg.Logger = slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		return host.Dial(ctx, strings.Replace(address, fmt.Sprint(rpcPort), fmt.Sprint(raftPort), 1))
	}
	cfg.Caller = simCaller{host}
	cfg.Adopt = n.adopt
	if change != nil {
		change(&cfg)
	}
	if n.c, err = New(cfg); err != nil {
		w.Fatalf("%s: %v", name, err)
	}
	for _, m := range made {
		m(n.c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go n.serve(ctx)
	go func() {
		defer close(n.done)
		n.err = n.c.Run(ctx)
	}()
	w.nodes = append(w.nodes, n)
	return n
}

func (n *node) adopt(old, t *table.Table) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old != nil && old.Epoch >= t.Epoch {
		n.w.Errorf("%s went from epoch %d to %d", n.name, old.Epoch, t.Epoch)
	}
	n.adopted = append(n.adopted, t)
}

// serve answers the peers' callers.
func (n *node) serve(ctx context.Context) {
	for {
		conn, err := n.rpc.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			req, err := readFrame(conn)
			if err != nil {
				return
			}
			resp, err := n.c.Handle(ctx, req)
			if err != nil {
				return
			}
			_ = writeFrame(conn, resp)
		}()
	}
}

// stop ends the node in order.
func (n *node) stop() {
	n.w.Helper()
	n.cancel()
	<-n.done
	_ = n.rpc.Close()
	if n.err != nil {
		n.w.Errorf("%s: run: %v", n.name, n.err)
	}
	n.w.nodes = slices.DeleteFunc(n.w.nodes, func(o *node) bool { return o == n })
}

// crash cuts the node off before it can say anything, and ends it.
func (n *node) crash() {
	n.w.net.Down(n.ip)
	n.stop()
	n.w.net.Up(n.ip)
}

// end stops all nodes, and shows what they logged if the test failed.
func (w *world) end() {
	for _, n := range slices.Clone(w.nodes) {
		n.cancel()
	}
	for _, n := range slices.Clone(w.nodes) {
		logs := n.logs
		n.stop()
		if w.Failed() || testing.Verbose() {
			text := logs.String()
			w.Logf("%s (%s):\n%s", n.name, n.c.Self(), text[max(0, len(text)-30000):])
		}
	}
	// memberlist's probes end by their timers, and time stands still once a bubble's
	// first goroutine returns.
	time.Sleep(time.Minute)
}

// eventually waits until ok holds.
func (w *world) eventually(limit time.Duration, what string, ok func() bool) time.Duration {
	w.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			for _, n := range w.nodes {
				w.Logf("%s: cluster %q, table %+v, members %v", n.name, n.c.clusterID(), n.c.Table(), states(n.c.Members()))
			}
			w.Errorf("after %v still not: %s", limit, what)
			w.end()
			w.FailNow()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(start)
}

func states(list []Member) string {
	var s []string
	for _, m := range list {
		s = append(s, fmt.Sprintf("%s:%s/%d@%s", m.Name, m.State, m.Slot, m.RPC))
	}
	return strings.Join(s, " ")
}

// agree waits until all running nodes hold one table with so many nodes and no transition,
// and see all of them alive and at their present addresses.
func (w *world) agree(limit time.Duration, nodes int) *table.Table {
	w.Helper()
	w.eventually(limit, fmt.Sprintf("all agree on %d nodes", nodes), func() bool { return w.agreed(nodes) })
	return w.nodes[0].c.Table()
}

func (w *world) agreed(nodes int) bool {
	first := w.nodes[0].c.Table()
	for _, n := range w.nodes {
		t := n.c.Table()
		if t == nil || first == nil || t.ClusterID != first.ClusterID || t.Epoch != first.Epoch || len(t.Nodes()) != nodes || t.Transition != nil {
			return false
		}
		alive := 0
		for _, m := range n.c.Members() {
			if m.State == Alive && m.Slot >= 0 {
				alive++
			}
		}
		if alive != len(w.nodes) {
			return false
		}
		for _, other := range w.nodes {
			if a, _ := n.c.Address(other.c.Self()); a != joinHostPort(other.ip, rpcPort) {
				return false
			}
		}
	}
	return true
}

// leader waits for a leader and returns it.
func (w *world) leader() *node {
	w.Helper()
	var leader *node
	w.eventually(time.Minute, "there is a leader", func() bool {
		for _, n := range w.nodes {
			if n.c.consensus().leading() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func (w *world) propose(n *node, kind table.Kind) {
	w.Helper()
	w.command(n, table.Command{Kind: kind})
}

func (w *world) command(n *node, cmd table.Command) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.c.Propose(ctx, cmd); err != nil {
		w.end()
		w.Fatalf("propose from %s: %v", n.name, err)
	}
}

// change makes a change of the table that moves nothing.
func (w *world) change(n *node) {
	w.Helper()
	if w.paused = !w.paused; w.paused {
		w.propose(n, table.Pause)
	} else {
		w.propose(n, table.Resume)
	}
}

// tableOf is a table without a transition.
func tableOf(cluster string, epoch uint64, nodes ...table.NodeID) *table.Table {
	t := &table.Table{ClusterID: cluster, Epoch: epoch, KeyVersion: table.KeyVersion, Current: table.Assignment{ReplicationFactor: 3}}
	for _, id := range nodes {
		t.Current.Slots = append(t.Current.Slots, table.Slot{Node: id})
	}
	return t
}

// simCaller makes unary calls over the network.
type simCaller struct{ host *simnet.Host }

func (s simCaller) Call(ctx context.Context, address string, req []byte) ([]byte, error) {
	conn, err := s.host.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := writeFrame(conn, req); err != nil {
		return nil, err
	}
	return readFrame(conn)
}

func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}
