// Package simnet is a network in memory, for tests that run several nodes in one
// process under testing/synctest. It has hosts with addresses and listeners, streams
// that behave like TCP, datagrams that behave like UDP, and the faults that a protocol
// must survive: partitions, crashes, latency, lost packets, and names whose addresses
// change.
//
// Nothing here touches the real network, and every wait is on a channel or a timer,
// which synctest counts as durably blocked: virtual time advances while a stream hangs.
package simnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Net is one network. All methods may be called by any number of goroutines.
type Net struct {
	mu      sync.Mutex
	hosts   map[string]*Host
	names   map[string][]string
	side    map[string]int // the group of an address in the present partition
	parted  bool
	latency time.Duration
	loss    float64
	rng     *rand.Rand
	conns   map[*conn]struct{}
	watch   func(to string, packet []byte)
}

// New makes a network with no hosts, no latency and no loss.
func New() *Net {
	return &Net{
		hosts: make(map[string]*Host),
		names: make(map[string][]string),
		side:  make(map[string]int),
		conns: make(map[*conn]struct{}),
		rng:   rand.New(rand.NewPCG(1, 2)),
	}
}

// Host returns the host with this address, made on first use. It panics if ip is not
// an IP address, which is a mistake in the test.
func (n *Net) Host(ip string) *Host {
	parsed := net.ParseIP(ip)
	if parsed == nil {
		panic(fmt.Sprintf("simnet: host %q is not an IP address", ip))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h, ok := n.hosts[ip]
	if !ok {
		h = &Host{
			net: n, ip: parsed, nextPort: 40000,
			listeners: make(map[int]*listener),
			gossip:    make(map[int]*GossipTransport),
		}
		n.hosts[ip] = h
	}
	return h
}

// SetLatency sets the time that bytes and packets take from one host to another. A host
// reaches itself at once. What is on its way already keeps its time.
func (n *Net) SetLatency(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency = d
}

// SetLoss sets the share of packets that get lost, from 0 to 1, and the seed that
// chooses them. Streams lose nothing.
func (n *Net) SetLoss(share float64, seed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = share
	n.rng = rand.New(rand.NewPCG(seed, seed))
}

// Watch has f see every packet that is sent from now on, as somebody on the way does. It is
// called by several goroutines.
func (n *Net) Watch(f func(to string, packet []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watch = f
}

// SetName makes a name resolve to these addresses from now on; none removes it.
func (n *Net) SetName(name string, ips ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(ips) == 0 {
		delete(n.names, name)
		return
	}
	n.names[name] = append([]string(nil), ips...)
}

// LookupHost resolves a name, as net.Resolver.LookupHost does. An IP address resolves
// to itself.
func (n *Net) LookupHost(_ context.Context, name string) ([]string, error) {
	if net.ParseIP(name) != nil {
		return []string{name}, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	ips, ok := n.names[name]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return append([]string(nil), ips...), nil
}

// Partition cuts the network between the groups of addresses. Addresses in no group
// form one more group. Streams that cross the cut hang, without an error, until their
// deadlines or the heal, as in a real partition; packets are lost.
func (n *Net) Partition(groups ...[]string) {
	n.mu.Lock()
	n.side = make(map[string]int)
	for i, g := range groups {
		for _, ip := range g {
			n.side[ip] = i + 1
		}
	}
	n.parted = true
	n.mu.Unlock()
}

// Heal ends the partition. What was sent over streams in the meantime arrives.
func (n *Net) Heal() {
	n.mu.Lock()
	n.parted = false
	conns := make([]*conn, 0, len(n.conns))
	for c := range n.conns {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.in.wake()
	}
}

// Down crashes a host: its listeners and gossip transports are closed for good, its
// streams break on both ends, and nothing reaches it until Up.
func (n *Net) Down(ip string) {
	h := n.Host(ip)
	n.mu.Lock()
	h.down = true
	listeners, gossip := h.listeners, h.gossip
	h.listeners, h.gossip = make(map[int]*listener), make(map[int]*GossipTransport)
	var broken []*conn
	for c := range n.conns {
		if c.local.IP.Equal(h.ip) || c.remote.IP.Equal(h.ip) {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close()
	}
	for _, g := range gossip {
		_ = g.Shutdown()
	}
	for _, c := range broken {
		c.reset()
	}
}

// Break breaks the streams between two addresses, on both ends. New ones can be made.
func (n *Net) Break(a, b string) {
	n.mu.Lock()
	var broken []*conn
	for c := range n.conns {
		if from, to := c.local.IP.String(), c.remote.IP.String(); from == a && to == b || from == b && to == a {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		c.reset()
	}
}

// Up brings a crashed host back, with nothing listening.
func (n *Net) Up(ip string) {
	h := n.Host(ip)
	n.mu.Lock()
	h.down = false
	n.mu.Unlock()
}

// linkedLocked tells whether packets get from one address to another.
func (n *Net) linkedLocked(from, to string) bool {
	if h, ok := n.hosts[from]; ok && h.down {
		return false
	}
	if h, ok := n.hosts[to]; ok && h.down {
		return false
	}
	return !n.parted || n.side[from] == n.side[to]
}

func (n *Net) linked(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkedLocked(from, to)
}

func (n *Net) delay(from, to net.IP) time.Duration {
	if from.Equal(to) {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.latency
}

// Host is one machine on the network.
type Host struct {
	net *Net
	ip  net.IP

	// Guarded by net.mu.
	down      bool
	nextPort  int
	listeners map[int]*listener
	gossip    map[int]*GossipTransport
}

// IP is the host's address.
func (h *Host) IP() string { return h.ip.String() }

// LookupHost resolves a name by the network's names.
func (h *Host) LookupHost(ctx context.Context, name string) ([]string, error) {
	return h.net.LookupHost(ctx, name)
}

// Listen accepts streams on a port, 0 for one that is free.
func (h *Host) Listen(port int) (net.Listener, error) {
	return h.listen(port)
}

func (h *Host) listen(port int) (*listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if port == 0 {
		port = h.freePortLocked()
	}
	addr := &net.TCPAddr{IP: h.ip, Port: port}
	if h.down {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: addr, Err: errors.New("host is down")}
	}
	if _, taken := h.listeners[port]; taken {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: addr, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &listener{host: h, addr: addr, backlog: make(chan *conn, 1024), done: make(chan struct{})}
	h.listeners[port] = l
	return l, nil
}

func (h *Host) freePortLocked() int {
	h.nextPort++
	return h.nextPort
}

// Dial opens a stream to "host:port", where host is an address or a name. Towards a
// host that is down or cut off it hangs until ctx ends, as a lost SYN does; towards a
// port without a listener it is refused.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: %w", address, err)}
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return fail(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return fail(err)
	}
	ips, err := h.net.LookupHost(ctx, host)
	if err != nil {
		return fail(err)
	}
	remote := &net.TCPAddr{IP: net.ParseIP(ips[0]), Port: port}
	if err := h.handshake(ctx, ips[0], remote.IP); err != nil {
		return fail(err)
	}
	c, err := h.connect(ips[0], remote)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// handshake waits for the round trip that opens a stream. A SYN that gets lost is sent
// again every second.
func (h *Host) handshake(ctx context.Context, ip string, remote net.IP) error {
	const again = time.Second
	for {
		wait := 2 * h.net.delay(h.ip, remote)
		linked := h.net.linked(h.IP(), ip)
		if !linked {
			wait = again
		}
		if linked && wait == 0 {
			return ctx.Err()
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return os.ErrDeadlineExceeded
			}
			return ctx.Err()
		case <-t.C:
		}
		if linked {
			return nil
		}
	}
}

// connect makes the two ends of a stream and hands the far one to its listener.
func (h *Host) connect(ip string, remote *net.TCPAddr) (*conn, error) {
	h.net.mu.Lock()
	if h.down {
		h.net.mu.Unlock()
		return nil, errors.New("host is down")
	}
	var l *listener
	if far, ok := h.net.hosts[ip]; ok {
		l = far.listeners[remote.Port]
	}
	if l == nil {
		h.net.mu.Unlock()
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	local := &net.TCPAddr{IP: h.ip, Port: h.freePortLocked()}
	near, far := newConnPair(h.net, local, remote)
	h.net.conns[near], h.net.conns[far] = struct{}{}, struct{}{}
	h.net.mu.Unlock()
	select {
	case <-l.done:
	case l.backlog <- far:
		return near, nil
	default: // the backlog is full
	}
	near.reset()
	return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
}

// listener implements net.Listener.
type listener struct {
	host    *Host
	addr    *net.TCPAddr
	backlog chan *conn
	once    sync.Once
	done    chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	case c := <-l.backlog:
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Close() error {
	err := error(&net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed})
	l.once.Do(func() {
		err = nil
		l.host.net.mu.Lock()
		if l.host.listeners[l.addr.Port] == l {
			delete(l.host.listeners, l.addr.Port)
		}
		l.host.net.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.backlog:
				c.reset()
			default:
				return
			}
		}
	})
	return err
}
