package transport

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/transport/frame"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
	"github.com/starling-tsdb/starling/internal/workers"
)

const (
	// maxRunningAppends bounds the appends of one stream that run at a time; more are not read.
	maxRunningAppends = 256
	// maxAppendTime bounds how long a peer may want to wait.
	maxAppendTime = 10 * time.Minute
)

// Write implements peerpb.PeerServer.
func (s *Server) Write(stream grpc.BidiStreamingServer[peerpb.WriteFrame, peerpb.WriteAnswer]) error {
	opening, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := s.checkAddressee(opening.Header); err != nil {
		return err
	}
	w := &appendServer{
		Server: s, stream: stream, header: opening.Header,
		answers: make(chan *peerpb.WriteAnswer, maxRunningAppends),
		workers: workers.New(),
	}
	var answering sync.WaitGroup
	answering.Go(w.answer)
	defer answering.Wait()
	defer close(w.answers)
	defer w.workers.Close()
	return w.receive()
}

// appendServer serves one stream of appends: one goroutine decodes, each append runs in one
// of its workers, and another goroutine sends the answers.
type appendServer struct {
	*Server
	stream grpc.BidiStreamingServer[peerpb.WriteFrame, peerpb.WriteAnswer]
	// header is the stream's.
	header  *peerpb.Header
	answers chan *peerpb.WriteAnswer
	workers *workers.Pool
}

// receive serves frames until the peer sends no more, and returns when all are answered.
func (w *appendServer) receive() error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxRunningAppends)
	decoder := frame.NewDecoder(w.opts.Interner)
	for {
		select {
		case slots <- struct{}{}:
		case <-w.stream.Context().Done():
			return w.stream.Context().Err()
		}
		f, err := w.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		arrived := time.Now()
		b, err := decoder.Decode(f.Batch)
		if err != nil {
			// Nobody knows what its dictionary holds: the stream has to end.
			return status.Error(codes.InvalidArgument, err.Error())
		}
		running.Add(1)
		w.workers.Go(func() {
			defer running.Done()
			w.answers <- w.serve(f, b, arrived)
			<-slots
		})
	}
}

// serve runs one append. A panic is its failure alone, as it is a request's of its own.
func (w *appendServer) serve(f *peerpb.WriteFrame, b *series.Batch, arrived time.Time) *peerpb.WriteAnswer {
	debug.SetPanicOnFault(true)
	ctx, span := w.opts.Tracer.Continue(w.stream.Context(), f.Trace, spanName(appendMethod))
	confirmation, err := func() (c proof.Confirmation, err error) {
		defer func() { err = w.finish(appendMethod, recover(), err) }()
		return w.append(ctx, f, b, arrived)
	}()
	span.End(err)
	if err != nil {
		return &peerpb.WriteAnswer{Request: f.Request, Failure: failureToProto(err)}
	}
	// After an error something may still be stuck in it.
	b.Release()
	return &peerpb.WriteAnswer{
		Request: f.Request, Refusals: refusalsToProto(confirmation.Refusals), Gaps: gapsToProto(confirmation.Gaps),
	}
}

func (w *appendServer) append(ctx context.Context, f *peerpb.WriteFrame, b *series.Batch, arrived time.Time) (proof.Confirmation, error) {
	// Again, for this node may have become one of a cluster since the stream was opened.
	if err := w.checkAddressee(w.header); err != nil {
		return proof.Confirmation{}, err
	}
	if f.TimeoutMs > 0 {
		timeout := time.Duration(min(f.TimeoutMs, uint64(maxAppendTime.Milliseconds()))) * time.Millisecond
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, arrived.Add(timeout))
		defer cancel()
	}
	return w.opts.Appender.Append(ctx, f.Epoch, b)
}

// answer sends answers until there are no more, and that the node is about to stop.
func (w *appendServer) answer() {
	draining := w.draining
	for {
		var a *peerpb.WriteAnswer
		select {
		case <-draining:
			a, draining = &peerpb.WriteAnswer{Draining: true}, nil
		case next, open := <-w.answers:
			if !open {
				return
			}
			a = next
		}
		// What cannot be sent for its size is a failure of its own. Any other error is the end
		// of the stream, and nobody waits for what is left.
		if err := w.stream.Send(a); err != nil {
			_ = w.stream.Send(&peerpb.WriteAnswer{Request: a.Request, Failure: failureToProto(err)})
		}
	}
}

func failureToProto(err error) *peerpb.Failure {
	st := status.Convert(err)
	f := &peerpb.Failure{Code: uint32(st.Code()), Message: validText(st.Message())}
	for _, detail := range st.Details() {
		if m, ok := detail.(*peerpb.EpochMismatch); ok {
			f.Mismatch = m
		}
	}
	return f
}

func refusalsToProto(refusals []series.Refusal) []*peerpb.Refusal {
	out := make([]*peerpb.Refusal, len(refusals))
	for i, r := range refusals {
		// A coordinator judges a limit and an invalid sample alike; the message tells them apart.
		reason := peerpb.Refusal_REASON_INVALID
		if r.Reason == series.Conflict {
			reason = peerpb.Refusal_REASON_CONFLICT
		}
		out[i] = &peerpb.Refusal{
			Series: uint32(r.Series), Item: uint32(r.Item), Exemplar: r.Exemplar, Reason: reason, Message: validText(r.Message),
		}
	}
	return out
}

// validText makes text that can be sent: an answer that cannot is none.
func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
