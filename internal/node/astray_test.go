package node

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
)

// passers counts what arrives at an address where no node is, by gossip and at the port for
// peers.
func (f *flock) passers(ip string) *atomic.Int64 {
	f.Helper()
	var count atomic.Int64
	gossip := f.net.Host(ip).GossipTransport(7946)
	peers, err := f.net.Host(ip).Listen(9081)
	if err != nil {
		f.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-gossip.PacketCh():
			case c := <-gossip.StreamCh():
				_ = c.Close()
			case <-done:
				return
			}
			count.Add(1)
		}
	}()
	go func() {
		for {
			c, err := peers.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			_ = c.Close()
		}
	}()
	f.Cleanup(func() {
		close(done)
		_ = peers.Close()
		_ = gossip.Shutdown()
	})
	return &count
}

// TestNodesAreNotSentAstray: whoever takes part in gossip can say of itself that it is at another
// address. Nobody calls there where no node can be, as where a cloud tells machines their secrets,
// and outside of the networks that are allowed.
func TestNodesAreNotSentAstray(t *testing.T) {
	networks := []string{"10.0.0.0/16"}
	for _, c := range []struct {
		claims  string
		allowed []string
		called  bool
	}{
		{"169.254.169.254", nil, false},
		{"169.254.169.254", networks, false},
		{"fe80::a9fe:a9fe", nil, false},
		{"127.0.0.1", nil, false},
		{"127.0.0.1", networks, false},
		{"::1", nil, false},
		{"224.0.0.1", nil, false},
		{"255.255.255.255", nil, false},
		{"0.0.0.0", nil, false},
		{"192.0.2.7", networks, false},
		// An address like any other is called, unless networks are named.
		{"192.0.2.7", nil, true},
		{"10.0.7.7", networks, true},
		{"169.254.169.254", []string{"10.0.0.0/16", "169.254.0.0/16"}, true},
	} {
		t.Run(fmt.Sprintf("%s of %s", c.claims, strings.Join(c.allowed, ",")), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFlock(t)
				count := f.passers(net.ParseIP(c.claims).String())
				a := f.start("a", ip(1), func(to *config.Cluster) { to.AllowedCIDRs = c.allowed })
				f.ready(a)
				// From an address that may take part, whatever it claims.
				_, listed := gossiper{flock: f, ip: stranger, label: "starling", claims: c.claims}.join(a)
				<-time.After(time.Minute)
				if n := count.Load(); (n > 0) != c.called || listed != c.called {
					t.Errorf("%s was called %d times, and is listed: %t; want %t", c.claims, n, listed, c.called)
				}
				if t.Failed() || c.called {
					return
				}
				if code := a.write("after", 1); code != 204 {
					t.Errorf("afterwards a write is answered %d", code)
				}
			})
		})
	}
}
