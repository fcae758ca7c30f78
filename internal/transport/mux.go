package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// raftPreface is the first byte of a Raft connection. HTTP/2 begins with 'P'.
	raftPreface = 0x01
	// prefaceTimeout bounds how long a connection may say nothing.
	prefaceTimeout = 10 * time.Second
)

// Listener splits one port between gRPC and Raft by the first byte of each connection.
type Listener struct {
	base net.Listener
	grpc *queue
	raft *queue

	mu      sync.Mutex
	pending map[net.Conn]struct{} // accepted, preface not yet read
	closed  bool
}

// Split serves base until Close. It takes base over.
func Split(base net.Listener) *Listener {
	l := &Listener{
		base:    base,
		grpc:    newQueue(base.Addr()),
		raft:    newQueue(base.Addr()),
		pending: map[net.Conn]struct{}{},
	}
	go l.accept()
	return l
}

// GRPC accepts the connections that speak gRPC.
func (l *Listener) GRPC() net.Listener { return l.grpc }

// Raft accepts the connections opened by DialRaft, their preface already read.
func (l *Listener) Raft() net.Listener { return l.raft }

// Close stops accepting on both sides. Connections already handed out stay open.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	for c := range l.pending {
		c.Close()
	}
	l.mu.Unlock()
	err := l.base.Close()
	l.grpc.Close()
	l.raft.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (l *Listener) accept() {
	for {
		conn, err := l.base.Accept()
		if err != nil {
			if l.isClosed() || errors.Is(err, net.ErrClosed) {
				l.grpc.Close()
				l.raft.Close()
				return
			}
			// Out of file descriptors, say: keep serving those we have and try again.
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !l.track(conn) {
			conn.Close()
			return
		}
		go l.route(conn)
	}
}

func (l *Listener) route(conn net.Conn) {
	// Of what is written, too: with TLS the first read shakes hands.
	_ = conn.SetDeadline(time.Now().Add(prefaceTimeout))
	r := bufio.NewReaderSize(conn, 4<<10)
	first, err := r.Peek(1)
	l.untrack(conn)
	if err != nil {
		conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if first[0] == raftPreface {
		_, _ = r.Discard(1)
		l.raft.push(&prefacedConn{Conn: conn, r: r})
		return
	}
	l.grpc.push(&prefacedConn{Conn: conn, r: r})
}

func (l *Listener) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.pending[c] = struct{}{}
	return true
}

func (l *Listener) untrack(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, c)
}

func (l *Listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// DialFunc opens a connection to a peer's RPC address.
type DialFunc func(ctx context.Context, address string) (net.Conn, error)

// DialRaft opens a connection that the peer's Listener hands to Raft.
func DialRaft(ctx context.Context, dial DialFunc, address string) (net.Conn, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(deadline)
	}
	if _, err := conn.Write([]byte{raftPreface}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening a raft connection to %s: %w", address, err)
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// prefacedConn reads first what was peeked.
type prefacedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *prefacedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// queue is a listener fed by hand.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queue) push(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }
