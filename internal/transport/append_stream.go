package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/transport/frame"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// appendCall is one Append. Its stream's mutex guards what changes, until the call has left.
type appendCall struct {
	epoch    uint64
	deadline time.Time // zero if there is none
	batch    *series.Batch
	items    int // of the batch
	// trace is what it is part of, nil unless that is sampled.
	trace []byte
	// done is closed when there is nothing more to wait for.
	done  chan struct{}
	ended bool
	err   error

	// encoding tells that the stream reads the batch.
	encoding bool
	// request is that of the newest part.
	request uint64
	// next is the first item that was not sent yet, parts is what was.
	next  int
	parts []appendPart
	// bytes are those of the frames.
	bytes int64
}

// appendPart is what one frame carried of a batch: items from first up to next.
type appendPart struct {
	first, next int
	answer      *peerpb.WriteAnswer
}

func (c *appendCall) end(err error) {
	if !c.ended {
		c.ended, c.err = true, err
		close(c.done)
	}
}

// appendStream carries appends to one peer, from the opening of a gRPC stream to its end. A
// goroutine encodes and sends, another one reads answers; calls wait for them. A batch of
// several parts has one on its way at a time, since what the last answer says of gaps is to
// hold for all of them.
type appendStream struct {
	peer    *Peer
	lineage string
	// ctx is that of the gRPC stream.
	ctx    context.Context
	cancel context.CancelFunc
	// encoder is the writer's alone, as is frameSize, that of the last frame.
	encoder   frame.Encoder
	frameSize int

	mu sync.Mutex
	// changed is signalled, under mu, whenever what follows has changed.
	changed *sync.Cond
	// queue are the calls of which a part is to be sent, waiting by request those of which
	// one was, or is being encoded.
	queue    []*appendCall
	waiting  map[uint64]*appendCall
	requests uint64
	// closing streams take no more calls, draining ones send nothing more.
	closing, draining bool
	// err is why the stream has ended.
	err error
}

func newAppendStream(p *Peer, lineage string) *appendStream {
	s := &appendStream{peer: p, lineage: lineage, waiting: map[uint64]*appendCall{}}
	s.changed = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// add queues a call, unless the stream takes no more.
func (s *appendStream) add(c *appendCall) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.err != nil {
		return false
	}
	s.queue = append(s.queue, c)
	s.changed.Broadcast()
	return true
}

// leave returns when the stream has nothing more to do with the call.
func (s *appendStream) leave(c *appendCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c.encoding {
		s.changed.Wait()
	}
	if i := slices.Index(s.queue, c); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	if s.waiting[c.request] == c {
		delete(s.waiting, c.request)
	}
	s.changed.Broadcast()
}

// retire lets the calls finish, and then ends the stream.
func (s *appendStream) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.changed.Broadcast()
}

// run opens the stream and serves it to its end.
func (s *appendStream) run() {
	defer s.cancel()
	stream, err := s.open()
	if err != nil {
		s.fail(err)
		return
	}
	var reading sync.WaitGroup
	reading.Go(func() { s.fail(s.read(stream)) })
	s.write(stream)
	reading.Wait()
}

type appendConn = grpc.BidiStreamingClient[peerpb.WriteFrame, peerpb.WriteAnswer]

// open fails at once if the peer cannot be reached. Until that is known the calls queue.
func (s *appendStream) open() (appendConn, error) {
	stream, err := s.peer.client.Write(s.ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&peerpb.WriteFrame{Header: &peerpb.Header{ClusterId: s.lineage, To: string(s.peer.id)}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream, nil // at the end of a stream the reader hears why
}

// write sends parts of calls in the order in which they are queued.
func (s *appendStream) write(stream appendConn) {
	for c := s.take(); c != nil; c = s.take() {
		f := s.encode(c)
		if f == nil {
			continue
		}
		// Also if the call has left: the peer's dictionary is to be as the encoder's.
		if err := stream.Send(f); err != nil {
			if !errors.Is(err, io.EOF) {
				s.fail(err)
			}
			return
		}
	}
	if err := stream.CloseSend(); err != nil {
		s.fail(err)
	}
}

// take waits for the next call of which a part is to be sent. It is nil if there is nothing
// more to send.
func (s *appendStream) take() *appendCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return nil
		case len(s.queue) > 0:
			c := s.queue[0]
			s.queue = slices.Delete(s.queue, 0, 1)
			s.requests++
			c.request, c.encoding = s.requests, true
			s.waiting[c.request] = c
			return c
		case s.draining || s.closing && len(s.waiting) == 0:
			return nil
		}
		s.changed.Wait()
	}
}

// encode makes the next part of a call, or ends the call.
func (s *appendStream) encode(c *appendCall) (f *peerpb.WriteFrame) {
	f = &peerpb.WriteFrame{Request: c.request, Epoch: c.epoch, TimeoutMs: millisecondsLeft(c.deadline), Trace: c.trace}
	next, err := 0, errors.New("panic")
	defer func() {
		panicked := recover()
		s.mu.Lock()
		c.encoding = false
		if err == nil {
			c.parts = append(c.parts, appendPart{first: c.next, next: next})
			c.next = next
			c.bytes += int64(len(f.Batch))
		} else {
			f = nil
			delete(s.waiting, c.request)
			c.end(err)
		}
		s.changed.Broadcast()
		s.mu.Unlock()
		if panicked != nil {
			// What the dictionary holds is not known any more.
			s.fail(fmt.Errorf("panic: %v", panicked))
		}
	}()
	buf := make([]byte, 0, s.frameSize+s.frameSize/4)
	f.Batch, next, err = s.encoder.Append(buf, c.batch, c.next)
	s.frameSize = len(f.Batch)
	return f
}

// millisecondsLeft is 0 if there is no deadline.
func millisecondsLeft(deadline time.Time) uint64 {
	if deadline.IsZero() {
		return 0
	}
	return uint64(max(1, time.Until(deadline).Milliseconds()))
}

// read hands out answers until the stream ends, and returns why it does.
func (s *appendStream) read(stream appendConn) error {
	for {
		a, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := s.answered(a); err != nil {
			return err
		}
	}
}

// answered hands an answer to the call that waits for it. An error is about what no peer says.
func (s *appendStream) answered(a *peerpb.WriteAnswer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	if a.Draining {
		s.drain()
		return nil
	}
	c := s.waiting[a.Request]
	if c == nil {
		if a.Request > s.requests {
			return fmt.Errorf("the peer answers request %d of %d", a.Request, s.requests)
		}
		return nil // nobody waits for it any more
	}
	if c.encoding {
		return fmt.Errorf("the peer answers request %d, which was not sent", a.Request)
	}
	delete(s.waiting, a.Request)
	c.parts[len(c.parts)-1].answer = a
	switch {
	case a.Failure != nil:
		c.end(failureFromProto(a.Failure))
	case c.next >= c.items:
		c.end(nil)
	case s.draining:
		c.end(errPeerStops)
	default:
		s.queue = append(s.queue, c)
	}
	return nil
}

// drain ends the calls that the peer does not want to be sent any more. It is called under mu.
func (s *appendStream) drain() {
	s.closing, s.draining = true, true
	for _, c := range s.queue {
		c.end(errPeerStops)
	}
	s.queue = nil
}

// fail ends the stream, and all calls with it.
func (s *appendStream) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the peer ended the stream")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	for _, c := range s.queue {
		c.end(s.err)
	}
	for _, c := range s.waiting {
		c.end(s.err)
	}
	s.queue = nil
	clear(s.waiting)
	s.changed.Broadcast()
	s.cancel()
}
