package simnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// GossipTransport carries memberlist's packets and streams over the network. Its
// queues have room or drop, so a peer that stopped never blocks a sender.
type GossipTransport struct {
	host    *Host
	port    int
	stream  *listener
	packets chan *memberlist.Packet
	streams chan net.Conn
	once    sync.Once
	done    chan struct{}
	wg      sync.WaitGroup

	sentPackets, sentBytes, streamedBytes atomic.Int64
}

var _ memberlist.NodeAwareTransport = (*GossipTransport)(nil)

// GossipTransport listens on a port for memberlist. It panics if the port is taken or
// the host is down, which is a mistake in the test.
func (h *Host) GossipTransport(port int) *GossipTransport {
	l, err := h.listen(port)
	if err != nil {
		panic(fmt.Sprintf("simnet: %v", err))
	}
	t := &GossipTransport{
		host: h, port: l.addr.Port, stream: l,
		packets: make(chan *memberlist.Packet, 1024),
		streams: make(chan net.Conn),
		done:    make(chan struct{}),
	}
	h.net.mu.Lock()
	h.gossip[t.port] = t
	h.net.mu.Unlock()
	t.wg.Add(1)
	go t.accept()
	return t
}

// GossipTraffic is what one side has sent, without the headers of UDP, TCP and IP.
type GossipTraffic struct {
	// Packets, and the bytes in them, include those that got lost. StreamBytes are those of
	// the streams that it opened or accepted.
	Packets, PacketBytes, StreamBytes int64
}

// Sent returns what was sent since the transport was made. It may be called at any time.
func (t *GossipTransport) Sent() GossipTraffic {
	return GossipTraffic{t.sentPackets.Load(), t.sentBytes.Load(), t.streamedBytes.Load()}
}

// countedConn counts what is written to a stream.
type countedConn struct {
	net.Conn
	written *atomic.Int64
}

// Write implements net.Conn.
func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

func (t *GossipTransport) accept() {
	defer t.wg.Done()
	for {
		c, err := t.stream.Accept()
		if err != nil {
			return
		}
		select {
		case t.streams <- countedConn{c, &t.streamedBytes}:
		case <-t.done:
			_ = c.Close()
		}
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *GossipTransport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	if ip == "" {
		return t.host.ip, t.port, nil
	}
	parsed := net.ParseIP(ip)
	if parsed == nil {
		return nil, 0, fmt.Errorf("simnet: advertise address %q is not an IP address", ip)
	}
	if port == 0 {
		port = t.port
	}
	return parsed, port, nil
}

// WriteTo implements memberlist.Transport: it sends a packet, which may get lost.
func (t *GossipTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	select {
	case <-t.done:
		return now, net.ErrClosed
	default:
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return now, err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return now, err
	}
	t.sentPackets.Add(1)
	t.sentBytes.Add(int64(len(b)))
	n := t.host.net
	n.mu.Lock()
	lost := !n.linkedLocked(t.host.IP(), host) || (n.loss > 0 && n.rng.Float64() < n.loss)
	delay, watch := n.latency, n.watch
	n.mu.Unlock()
	if watch != nil {
		watch(addr, append([]byte(nil), b...))
	}
	if lost {
		return now, nil
	}
	p := &memberlist.Packet{
		Buf:  append([]byte(nil), b...),
		From: &net.UDPAddr{IP: t.host.ip, Port: t.port},
	}
	if delay == 0 || host == t.host.IP() {
		n.deliver(p, t.host.IP(), host, port)
		return now, nil
	}
	time.AfterFunc(delay, func() { n.deliver(p, t.host.IP(), host, port) })
	return now, nil
}

// deliver puts a packet into the queue of whoever listens there now.
func (n *Net) deliver(p *memberlist.Packet, from, to string, port int) {
	n.mu.Lock()
	var t *GossipTransport
	if h, ok := n.hosts[to]; ok && n.linkedLocked(from, to) {
		t = h.gossip[port]
	}
	n.mu.Unlock()
	if t == nil {
		return
	}
	p.Timestamp = time.Now()
	select {
	case t.packets <- p:
	default: // the queue is full: UDP drops too
	}
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *GossipTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh implements memberlist.Transport.
func (t *GossipTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout implements memberlist.Transport.
func (t *GossipTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := t.host.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return countedConn{c, &t.streamedBytes}, nil
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *GossipTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// StreamCh implements memberlist.Transport.
func (t *GossipTransport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport. It may be called more than once.
func (t *GossipTransport) Shutdown() error {
	t.once.Do(func() {
		t.host.net.mu.Lock()
		if t.host.gossip[t.port] == t {
			delete(t.host.gossip, t.port)
		}
		t.host.net.mu.Unlock()
		close(t.done)
	})
	err := t.stream.Close()
	t.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
