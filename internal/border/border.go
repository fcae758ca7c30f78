// Package border decides with whom a node exchanges bytes at the port for peers: at which
// addresses peers may be, and which certificates they show. Connections are mutual TLS, whoever
// dials, with certificates that are read anew when their files change.
//
// A Guard stands below everything that uses the port. What passes it is a connection to a
// peer; gRPC, the streams of appends and Raft know nothing of it. A Guard that is told
// nothing hands on what it is given.
package border

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

const (
	// lookEvery is how often the files are looked at for a change.
	lookEvery = 10 * time.Second
	// complainEvery is how often a refused connection is logged.
	complainEvery = 30 * time.Second
)

// Options say what a Guard is to ask of peers. Logger is required.
type Options struct {
	// TLS names the files of mutual TLS; nil for connections in clear.
	TLS *Files
	// Networks are where peers may be; none for anywhere.
	Networks   []netip.Prefix
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// DialFunc opens a connection to host:port.
type DialFunc func(ctx context.Context, address string) (net.Conn, error)

// Guard stands between a node and its peers. Its methods may be called concurrently.
type Guard struct {
	opts    Options
	metrics *metrics // nil if anybody may connect
	quiet   rate.Sometimes

	mu   sync.Mutex
	self netip.Addr // at which peers dial this node; invalid before it is known
	keys *keys      // nil without TLS
	// open are the connections whose peers are judged again when the authorities change.
	open map[*conn]struct{}
}

// New reads the files. Errors name the flag at fault.
func New(opts Options) (*Guard, error) {
	g := &Guard{opts: opts, quiet: rate.Sometimes{Interval: complainEvery}, open: map[*conn]struct{}{}}
	if opts.TLS != nil {
		var err error
		if g.keys, err = opts.TLS.read(time.Now()); err != nil {
			return nil, err
		}
	}
	if !g.idle() {
		g.metrics = newMetrics(g, opts.Registerer)
	}
	return g, nil
}

// idle tells whether anybody may connect.
func (g *Guard) idle() bool { return g.opts.TLS == nil && len(g.opts.Networks) == 0 }

// Allows returns why no peer may be at an address, nil if one may.
func (g *Guard) Allows(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	for _, network := range g.opts.Networks {
		if network.Contains(ip) {
			return nil
		}
	}
	if len(g.opts.Networks) == 0 {
		return nil
	}
	return fmt.Errorf("the address %s is in none of --cluster.allowed-cidrs=%s", ip, join(g.opts.Networks))
}

func join(networks []netip.Prefix) string {
	texts := make([]string, len(networks))
	for i, n := range networks {
		texts[i] = n.String()
	}
	return strings.Join(texts, ",")
}

// allowsEnd is Allows for the other end of a connection.
func (g *Guard) allowsEnd(a net.Addr) error {
	if len(g.opts.Networks) == 0 {
		return nil
	}
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return fmt.Errorf("--cluster.allowed-cidrs: no address is known of %s", a)
	}
	return g.Allows(at.Addr())
}

// Secret tells whether what a peer is told stays between the two nodes.
func (g *Guard) Secret() bool { return g.opts.TLS != nil }

// SetSelf tells the address at which peers dial this node. It fails if they would refuse it
// there.
func (g *Guard) SetSelf(ip netip.Addr) error {
	if err := g.Allows(ip); err != nil {
		return fmt.Errorf("peers dial this node at %s, where they must not be dialled: %w: add its network, on all nodes, or set --cluster.advertise-host", ip, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keys != nil {
		if err := g.opts.TLS.checkSelf(g.keys, ip); err != nil {
			return err
		}
	}
	g.self = ip
	return nil
}

// Listener returns base with connections of peers only. A peer shows its certificate with
// the first read, whose deadline bounds that.
func (g *Guard) Listener(base net.Listener) net.Listener {
	if g.idle() {
		return base
	}
	return &listener{Listener: base, guard: g}
}

type listener struct {
	net.Listener
	guard *Guard
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err := l.guard.allowsEnd(raw.RemoteAddr()); err != nil {
			l.guard.refused("address", raw, err)
			_ = raw.Close()
			continue
		}
		if l.guard.opts.TLS == nil {
			return raw, nil
		}
		k := l.guard.current()
		return &conn{Conn: tls.Server(raw, k.server), guard: l.guard, keys: k, accepted: true}, nil
	}
}

// Dial returns base with connections to peers only.
func (g *Guard) Dial(base DialFunc) DialFunc {
	if g.idle() {
		return base
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			if err := g.Allows(ip); err != nil {
				return nil, err
			}
		}
		raw, err := base(ctx, address)
		if err != nil {
			return nil, err
		}
		// What a name has led to is known only now, before a byte is sent.
		if err := g.allowsEnd(raw.RemoteAddr()); err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		if g.opts.TLS == nil {
			return raw, nil
		}
		k := g.current()
		c := &conn{Conn: tls.Client(raw, k.client(g.opts.TLS.nameOf(host))), guard: g, keys: k}
		if err := c.greet(ctx); err != nil {
			_ = raw.Close()
			return nil, explain(address, err)
		}
		return c, nil
	}
}

// explain says what to do about a peer whose certificate is refused.
func explain(address string, err error) error {
	var host x509.HostnameError
	if errors.As(err, &host) {
		return fmt.Errorf("TLS with the node at %s: %w: give it a certificate for that address, or set --cluster.tls.server-name to a name that all have", address, err)
	}
	return fmt.Errorf("TLS with the node at %s: %w", address, err)
}

// conn is a connection to a peer.
type conn struct {
	*tls.Conn
	guard    *Guard
	keys     *keys // that it was begun with
	accepted bool
	greeted  atomic.Bool

	// What follows is set by greet; closed is guarded by guard.mu.
	opened time.Time
	peer   []*x509.Certificate
	closed bool
}

// Read implements net.Conn. The first one of an accepted connection shakes hands, so that
// whoever is refused is known to be.
func (c *conn) Read(b []byte) (int, error) {
	if !c.greeted.Load() {
		if err := c.greet(context.Background()); err != nil {
			c.guard.refused("tls", c, err)
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// greet shakes hands, and has the guard keep an eye on the connection from then on.
func (c *conn) greet(ctx context.Context) error {
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	c.peer, c.opened = c.ConnectionState().PeerCertificates, time.Now()
	g := c.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.keys != g.keys {
		// The files have changed meanwhile.
		if err := c.judge(g.keys); err != nil {
			return err
		}
	}
	if !c.closed {
		g.open[c] = struct{}{}
	}
	c.greeted.Store(true)
	return nil
}

// judge tells whether the peer would still be let in, by the authorities of other keys.
func (c *conn) judge(k *keys) error {
	usage := x509.ExtKeyUsageServerAuth
	if c.accepted {
		usage = x509.ExtKeyUsageClientAuth
	}
	return k.verify(c.peer, usage, c.opened)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.guard.mu.Lock()
	delete(c.guard.open, c)
	c.closed = true
	c.guard.mu.Unlock()
	return c.Conn.Close()
}

func (g *Guard) current() *keys {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.keys
}

// refused counts a connection that is none of a peer. One that says nothing is no attempt.
func (g *Guard) refused(reason string, c net.Conn, err error) {
	if errors.Is(err, io.EOF) {
		return
	}
	g.metrics.refused.WithLabelValues(reason).Inc()
	g.quiet.Do(func() {
		g.opts.Logger.Warn("Refused a connection to the port for peers; more of them are only counted for a while", "from", c.RemoteAddr(), "err", err)
	})
}
