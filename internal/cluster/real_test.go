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

	"github.com/starling-tsdb/starling/internal/table"
)

func lookupLiteral(_ context.Context, host string) ([]string, error) {
	if net.ParseIP(host) == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []string{host}, nil
}

// realCaller makes unary calls over TCP.
type realCaller struct{}

func (realCaller) Call(ctx context.Context, address string, req []byte) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", callPort(address))
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

// callPort is where a node of this test takes calls: 200 above its port for Raft.
func callPort(rpc string) string {
	host, port, _ := splitHostPort(rpc)
	return joinHostPort(host, port+200)
}

// freePorts finds n consecutive ports p for which p, p+100 and p+200 are free.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for base := 21000; base < 31000; base += 400 {
		free := true
		for _, off := range []int{0, 100, 200} {
			for i := range n {
				l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+off+i))
				if err != nil {
					free = false
					continue
				}
				_ = l.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Skip("no free ports")
	return 0
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

func threeOnLoopback(t *testing.T, allowed func(netip.Addr) error) {
	t.Helper()
	base := freePorts(t, 3)
	var join []string
	for i := range 3 {
		join = append(join, fmt.Sprintf("127.0.0.1:%d", base+i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var nodes []*Cluster
	for i := range 3 {
		rl, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+100+i))
		if err != nil {
			t.Fatal(err)
		}
		cl, err := net.Listen("tcp", callPort(rl.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		c, err := New(Config{
			Dir: t.TempDir(), GossipBind: join[i], RaftListener: rl, Caller: realCaller{},
			Dial: func(ctx context.Context, a string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", a)
			},
			Allowed:   allowed,
			Find:      Find{Join: join, BootstrapExpect: 3},
			Advertise: Advertise{RPCPort: base + 100 + i, HTTPPort: 1},
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
		wg.Go(func() { serveCalls(ctx, cl, c) })
		context.AfterFunc(ctx, func() { _ = cl.Close() })
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
