package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/freeport"
	"github.com/starling-tsdb/starling/internal/table"
)

func lookupLiteral(_ context.Context, host string) ([]string, error) {
	if net.ParseIP(host) == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []string{host}, nil
}

// realCaller makes unary calls over TCP, of nodes known by where they listen for Raft, to where they
// take calls.
type realCaller map[string]string

func (r realCaller) Call(ctx context.Context, address string, req []byte) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r[address])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	if err := writeFrame(conn, req); err != nil {
		return nil, err
	}
	return readFrame(conn)
}

// TestThreeOnLoopback runs three nodes over the real loopback network, in real time.
func TestThreeOnLoopback(t *testing.T) {
	t.Run("any address", func(t *testing.T) { threeOnLoopback(t, nil) })
	t.Run("loopback only", func(t *testing.T) {
		threeOnLoopback(t, func(ip netip.Addr) error {
			if !ip.Unmap().IsLoopback() {
				return fmt.Errorf("%s is not allowed", ip)
			}
			return nil
		})
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func threeOnLoopback(t *testing.T, allowed func(netip.Addr) error) {
	t.Helper()
	join, err := freeport.Addresses(3)
	if err != nil {
		t.Fatal(err)
	}
	var raft, calls [3]net.Listener
	caller := realCaller{}
	for i := range join {
		raft[i], calls[i] = listen(t), listen(t)
		caller[raft[i].Addr().String()] = calls[i].Addr().String()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var nodes []*Cluster
	for i := range join {
		c, err := New(Config{
			Dir: t.TempDir(), GossipBind: join[i], RaftListener: raft[i], Caller: caller,
			Dial: func(ctx context.Context, a string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", a)
			},
			Allowed:   allowed,
			Find:      Find{Join: join, BootstrapExpect: 3},
			Advertise: Advertise{RPCPort: raft[i].Addr().(*net.TCPAddr).Port, HTTPPort: 1},
			Timing:    Timing{Poll: 50 * time.Millisecond, Settle: 200 * time.Millisecond},
			Logger:    slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, c)
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
		wg.Go(func() { serveCalls(ctx, calls[i], c) })
		context.AfterFunc(ctx, func() { _ = calls[i].Close() })
	}
	timeout := time.After(30 * time.Second)
	for _, c := range nodes {
		for changed := c.Changed(); c.Table() == nil; changed = c.Changed() {
			select {
			case <-changed:
			case <-timeout:
				t.Fatal("no cluster of three after 30s")
			}
		}
		if tab := c.Table(); len(tab.Nodes()) != 3 {
			t.Errorf("table %+v", tab)
		}
		for _, m := range c.Members() {
			if !strings.HasPrefix(m.RPC, "127.0.0.1:") {
				t.Errorf("member %+v", m)
			}
		}
	}
	if err := nodes[1].Propose(ctx, table.Command{Kind: table.Pause}); err != nil {
		t.Error(err)
	}
	cancel()
	wg.Wait()
}

func serveCalls(ctx context.Context, l net.Listener, c *Cluster) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			req, err := readFrame(conn)
			if err != nil {
				return
			}
			if resp, err := c.Handle(ctx, req); err == nil {
				_ = writeFrame(conn, resp)
			}
		}()
	}
}
