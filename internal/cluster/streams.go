package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/table"
)

// streams carries Raft between nodes. Raft knows the others by node ID; the address is
// looked up for each new connection. A connection begins with a line that names the
// cluster and both ends, which the other side has to accept: an address may have passed
// to another node, or another cluster, and a Raft message that reaches the wrong server
// can undo what was agreed.
//
//	starling-raft 1 <cluster> <from> <to>\n
//
// The answer is "ok\n", or the reason for the refusal and the end of the stream.
type streams struct {
	listener net.Listener
	dial     func(ctx context.Context, address string) (net.Conn, error)
	address  func(table.NodeID) (string, bool)
	cluster  func() string
	self     table.NodeID
	timeout  time.Duration
	log      *slog.Logger
	quiet    *throttle

	accepted chan net.Conn
	done     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

var _ raft.StreamLayer = (*streams)(nil)

const streamHello = "starling-raft 1 "

// maxHello bounds the first line of either side.
const maxHello = 512

// run accepts connections until Close.
func (s *streams) run() {
	s.wg.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				select {
				case <-s.done:
					return
				case <-time.After(50 * time.Millisecond): // out of descriptors, say
				}
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			tracked := s.track(conn)
			s.wg.Go(func() { s.welcome(tracked) })
		}
	})
}

// welcome checks the first line of an accepted connection.
func (s *streams) welcome(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(s.timeout))
	line, err := readLine(conn)
	if err != nil {
		_ = conn.Close()
		return
	}
	if refusal := s.check(line); refusal != nil {
		if s.quiet.allow("raft stream " + refusal.Error()) {
			s.log.Warn("refused a Raft stream", "from", conn.RemoteAddr(), "err", refusal)
		}
		_, _ = fmt.Fprintf(conn, "%s\n", refusal)
		_ = conn.Close()
		return
	}
	if _, err := io.WriteString(conn, "ok\n"); err != nil {
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	select {
	case s.accepted <- conn:
	case <-s.done:
		_ = conn.Close()
	}
}

func (s *streams) check(line string) error {
	rest, ok := strings.CutPrefix(line, streamHello)
	f := strings.Fields(rest)
	own := s.cluster()
	switch {
	case !ok || len(f) != 3:
		return fmt.Errorf("not a Raft stream of this version: %.60q", line)
	case own == "":
		return fmt.Errorf("node %s is in no cluster yet", s.self)
	case f[0] != own:
		return fmt.Errorf("node %s belongs to cluster %s, the stream is of cluster %s", s.self, own, f[0])
	case f[2] != string(s.self):
		return fmt.Errorf("this is node %s, the stream is for node %s", s.self, f[2])
	}
	return nil
}

// readLine reads up to a line feed, a byte at a time: what follows belongs to Raft.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxHello {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("the first line is too long")
}

// Accept implements net.Listener.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Dial implements raft.StreamLayer. The address is a node ID.
func (s *streams) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	address, ok := s.address(table.NodeID(to))
	if !ok {
		return nil, fmt.Errorf("no address is known of node %s", to)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	raw, err := s.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	conn := s.track(raw)
	_ = conn.SetDeadline(time.Now().Add(s.timeout))
	_, err = fmt.Fprintf(conn, "%s%s %s %s\n", streamHello, s.cluster(), s.self, to)
	var line string
	if err == nil {
		line, err = readLine(conn)
	}
	if err == nil && line != "ok" {
		err = fmt.Errorf("node at %s refused the Raft stream: %s", address, line)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// Addr implements net.Listener.
func (s *streams) Addr() net.Addr { return nodeAddr(s.self) }

// Close implements net.Listener. It closes all connections: Raft's transport leaves
// those that it accepted to their peers.
func (s *streams) Close() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		err = s.listener.Close()
		s.mu.Lock()
		s.closed = true
		open := s.open
		s.open = nil
		s.mu.Unlock()
		for conn := range open {
			_ = conn.Close()
		}
	})
	s.wg.Wait()
	return err
}

// track has conn closed by Close.
func (s *streams) track(conn net.Conn) net.Conn {
	t := &trackedConn{Conn: conn, streams: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return t
	}
	s.open[t] = struct{}{}
	return t
}

type trackedConn struct {
	net.Conn
	streams *streams
}

// Close implements net.Conn.
func (t *trackedConn) Close() error {
	t.streams.mu.Lock()
	delete(t.streams.open, t)
	t.streams.mu.Unlock()
	return t.Conn.Close()
}

// nodeAddr is a node ID as a network address.
type nodeAddr table.NodeID

func (a nodeAddr) Network() string { return "starling" }
func (a nodeAddr) String() string  { return string(a) }
