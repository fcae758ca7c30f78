package simnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes may be on their way in one direction of a stream before a
// writer has to wait, like a TCP send buffer and receive window together.
const window = 1 << 20

// conn is one end of a stream. It implements net.Conn.
type conn struct {
	net           *Net
	local, remote *net.TCPAddr
	in, out       *pipe
	read, write   deadline
}

func newConnPair(n *Net, a, b *net.TCPAddr) (*conn, *conn) {
	ab, ba := newPipe(n, a.IP, b.IP), newPipe(n, b.IP, a.IP)
	near := &conn{net: n, local: a, remote: b, in: ba, out: ab}
	far := &conn{net: n, local: b, remote: a, in: ab, out: ba}
	return near, far
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b, &c.read)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &net.OpError{Op: "read", Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b, &c.write)
	if err != nil {
		err = &net.OpError{Op: "write", Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
	}
	return n, err
}

// Close ends both directions: the peer reads what was written, then io.EOF, and its
// writes fail.
func (c *conn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	c.out.closeWrite()
	c.in.closeRead()
	return nil
}

// reset breaks the stream for both ends, as a crash of either does.
func (c *conn) reset() {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	c.in.breakOff()
	c.out.breakOff()
}

func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

// deadline is a point in time that can be moved while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	moved chan struct{} // closed at the next set; nil until somebody waits
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	if d.moved != nil {
		close(d.moved)
		d.moved = nil
	}
}

func (d *deadline) get() (time.Time, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moved == nil {
		d.moved = make(chan struct{})
	}
	return d.at, d.moved
}

// segment is what one write put on its way.
type segment struct {
	data    []byte
	arrives time.Time
}

// pipe is one direction of a stream.
type pipe struct {
	net      *Net
	from, to net.IP

	mu          sync.Mutex
	segments    []segment
	size        int           // bytes in segments
	ended       bool          // the writer closed; io.EOF follows the segments
	endArrives  time.Time     // when the end gets there
	readClosed  bool          // the reader closed
	broken      bool          // reset
	changed     chan struct{} // closed at the next change
	lastArrival time.Time     // keeps the order when latency shrinks
}

func newPipe(n *Net, from, to net.IP) *pipe {
	return &pipe{net: n, from: from, to: to, changed: make(chan struct{})}
}

func (p *pipe) wakeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeLocked()
}

func (p *pipe) closeWrite() {
	arrives := time.Now().Add(p.net.delay(p.from, p.to))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.endArrives = arrives
	p.wakeLocked()
}

func (p *pipe) closeRead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readClosed = true
	p.segments, p.size = nil, 0
	p.wakeLocked()
}

func (p *pipe) breakOff() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = true
	p.wakeLocked()
}

// wait blocks until the pipe changes, the deadline passes or moves, or the time comes.
func wait(changed, moved <-chan struct{}, limit, until time.Time) {
	next := until
	if next.IsZero() || (!limit.IsZero() && limit.Before(next)) {
		next = limit
	}
	var timer <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(time.Until(next))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-moved:
	case <-timer:
	}
}

func expired(limit time.Time) bool { return !limit.IsZero() && !time.Now().Before(limit) }

func (p *pipe) read(b []byte, d *deadline) (int, error) {
	for {
		limit, moved := d.get()
		linked := p.net.linked(p.from.String(), p.to.String())
		p.mu.Lock()
		switch {
		case p.readClosed:
			p.mu.Unlock()
			return 0, net.ErrClosed
		case p.broken:
			p.mu.Unlock()
			return 0, os.NewSyscallError("read", syscall.ECONNRESET)
		case expired(limit):
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			p.mu.Unlock()
			return 0, nil
		}
		now := time.Now()
		var until time.Time
		if linked && len(p.segments) > 0 {
			if until = p.segments[0].arrives; !until.After(now) {
				n := p.takeLocked(b, now)
				p.mu.Unlock()
				return n, nil
			}
		}
		if linked && len(p.segments) == 0 && p.ended {
			if until = p.endArrives; !until.After(now) {
				p.mu.Unlock()
				return 0, io.EOF
			}
		}
		changed := p.changed
		p.mu.Unlock()
		wait(changed, moved, limit, until)
	}
}

// takeLocked moves what has arrived into b.
func (p *pipe) takeLocked(b []byte, now time.Time) int {
	n := 0
	for n < len(b) && len(p.segments) > 0 && !p.segments[0].arrives.After(now) {
		s := &p.segments[0]
		k := copy(b[n:], s.data)
		n += k
		p.size -= k
		if s.data = s.data[k:]; len(s.data) == 0 {
			p.segments = p.segments[1:]
		}
	}
	p.wakeLocked()
	return n
}

func (p *pipe) write(b []byte, d *deadline) (int, error) {
	written := 0
	for {
		limit, moved := d.get()
		delay := p.net.delay(p.from, p.to)
		p.mu.Lock()
		switch {
		case p.ended:
			p.mu.Unlock()
			return written, net.ErrClosed
		case p.broken:
			p.mu.Unlock()
			return written, os.NewSyscallError("write", syscall.ECONNRESET)
		case expired(limit):
			p.mu.Unlock()
			return written, os.ErrDeadlineExceeded
		case p.readClosed && p.net.linked(p.from.String(), p.to.String()):
			p.mu.Unlock()
			return written, os.NewSyscallError("write", syscall.EPIPE)
		}
		if room := window - p.size; room > 0 {
			k := min(room, len(b)-written)
			if k > 0 {
				p.putLocked(b[written:written+k], time.Now().Add(delay))
				written += k
			}
			if written == len(b) {
				p.mu.Unlock()
				return written, nil
			}
		}
		changed := p.changed
		p.mu.Unlock()
		wait(changed, moved, limit, time.Time{})
	}
}

func (p *pipe) putLocked(b []byte, arrives time.Time) {
	if arrives.Before(p.lastArrival) {
		arrives = p.lastArrival
	}
	p.lastArrival = arrives
	p.segments = append(p.segments, segment{data: append([]byte(nil), b...), arrives: arrives})
	p.size += len(b)
	p.wakeLocked()
}
