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
// The answer is "ok\n", or the reason for the refusal and the end of the stream. After a
// recovery its ID follows as a fourth word: the line of another generation is refused.
type streams struct {
	listener net.Listener
	dial     func(ctx context.Context, address string) (net.Conn, error)
	address  func(table.NodeID) (string, bool)
	cluster  func() string
	self     table.NodeID
	timeout  time.Duration
	log      *slog.Logger
	quiet    *throttle

	done chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]*group // nil while a first line is awaited
	group  *group              // that takes what is accepted; nil while there is none
	closed bool
}

// group is the part of the streams that one group of Raft uses: the servers of one
// generation of the table. Its messages must reach no other, so it closes its connections
// with itself.
type group struct {
	*streams
	// recovery is the ID of the generation's, empty before the first one.
	recovery string
	accepted chan net.Conn
	// ctx ends with the group: Raft does not end before what it has under way.
	ctx context.Context
	end context.CancelFunc
}

var _ raft.StreamLayer = (*group)(nil)

// join makes the group of a generation the one that takes what is accepted.
func (s *streams) join(recovery string) *group {
	g := &group{streams: s, recovery: recovery, accepted: make(chan net.Conn)}
	g.ctx, g.end = context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.group = g
	return g
}

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
			tracked := s.track(conn, nil)
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
	g, refusal := s.check(line)
	if refusal == nil {
		refusal = s.give(conn, g)
	}
	if refusal != nil {
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
	case g.accepted <- conn:
	case <-g.ctx.Done():
		_ = conn.Close()
	case <-s.done:
		_ = conn.Close()
	}
}

// check returns the group that a first line is for.
func (s *streams) check(line string) (*group, error) {
	rest, ok := strings.CutPrefix(line, streamHello)
	f := strings.Fields(rest)
	own := s.cluster()
	switch {
	case !ok || len(f) != 3 && len(f) != 4:
		return nil, fmt.Errorf("not a Raft stream of this version: %.60q", line)
	case own == "":
		return nil, fmt.Errorf("node %s is in no cluster yet", s.self)
	case f[0] != own:
		return nil, fmt.Errorf("node %s belongs to cluster %s, the stream is of cluster %s", s.self, own, f[0])
	case f[2] != string(s.self):
		return nil, fmt.Errorf("this is node %s, the stream is for node %s", s.self, f[2])
	}
	s.mu.Lock()
	g := s.group
	s.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("node %s takes no part in Raft", s.self)
	}
	if recovery := strings.Join(f[3:], ""); recovery != g.recovery {
		return nil, fmt.Errorf("node %s is in the generation of %s, the stream of %s", s.self, nameRecovery(g.recovery), nameRecovery(recovery))
	}
	return g, nil
}

// give has a connection closed with a group.
func (s *streams) give(conn net.Conn, g *group) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.open[conn]; !open || s.group != g {
		return fmt.Errorf("node %s has left that generation", s.self)
	}
	s.open[conn] = g
	return nil
}

func nameRecovery(id string) string {
	if id == "" {
		return "no recovery"
	}
	return "recovery " + id
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
func (g *group) Accept() (net.Conn, error) {
	select {
	case conn := <-g.accepted:
		return conn, nil
	case <-g.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Dial implements raft.StreamLayer. The address is a node ID.
func (g *group) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	s := g.streams
	address, ok := s.address(table.NodeID(to))
	if !ok {
		return nil, fmt.Errorf("no address is known of node %s", to)
	}
	ctx, cancel := context.WithTimeout(g.ctx, timeout)
	defer cancel()
	raw, err := s.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	conn := s.track(raw, g)
	_ = conn.SetDeadline(time.Now().Add(s.timeout))
	_, err = fmt.Fprintln(conn, g.hello(to))
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

// hello is the first line of a stream to a node.
func (g *group) hello(to raft.ServerAddress) string {
	return strings.TrimSpace(fmt.Sprintf("%s%s %s %s %s", streamHello, g.cluster(), g.self, to, g.recovery))
}

// Addr implements net.Listener.
func (g *group) Addr() net.Addr { return nodeAddr(g.self) }

// Close implements net.Listener. It closes all connections of the group: Raft's transport
// leaves those that it accepted to their peers.
func (g *group) Close() error {
	g.end()
	g.streams.mu.Lock()
	if g.streams.group == g {
		g.streams.group = nil
	}
	g.streams.mu.Unlock()
	g.closeConns(func(of *group) bool { return of == g })
	return nil
}

// close ends the accepting of connections, and all that there are.
func (s *streams) close() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		err = s.listener.Close()
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.closeConns(func(*group) bool { return true })
	})
	s.wg.Wait()
	return err
}

func (s *streams) closeConns(which func(of *group) bool) {
	var conns []net.Conn
	s.mu.Lock()
	for conn, of := range s.open {
		if which(of) {
			conns = append(conns, conn)
		}
	}
	s.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// track has conn closed with a group, and with the streams.
func (s *streams) track(conn net.Conn, of *group) net.Conn {
	t := &trackedConn{Conn: conn, streams: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended := of != nil && of.ctx.Err() != nil; s.closed || ended {
		_ = conn.Close()
		return t
	}
	s.open[t] = of
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
