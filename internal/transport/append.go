package transport

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/tracing"
	"github.com/starling-tsdb/starling/internal/transport/frame"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// appendMethod is what metrics call an append, of which a stream carries many.
const appendMethod = "/starling.peer.v1.Peer/Append"

var (
	errPeerStops = status.Error(codes.Unavailable, "the peer is about to stop")
	errClosed    = status.Error(codes.Canceled, "this node is about to stop")
)

// Append stores the batch on the peer, as planned by table t. Nobody reads the batch any more
// when it returns. A large batch travels in several parts, and is confirmed if all of them are.
func (p *Peer) Append(ctx context.Context, t *table.Table, b *series.Batch) (proof.Confirmation, error) {
	samples := b.NumSamples() // before the answer, while the batch is in the cache
	confirmation, err := p.append(ctx, t, b)
	p.countSamples(samples, err == nil)
	return confirmation, err
}

func (p *Peer) append(ctx context.Context, t *table.Table, b *series.Batch) (proof.Confirmation, error) {
	size := min(b.Bytes(), p.owner.opts.MaxInFlightBytes)
	if !p.inFlight.TryAcquire(size) {
		return proof.Confirmation{}, fmt.Errorf("more than %d bytes are on their way to the peer already", p.owner.opts.MaxInFlightBytes)
	}
	gauge := p.owner.inFlight.WithLabelValues(string(p.id))
	gauge.Add(float64(size))
	defer func() {
		gauge.Sub(float64(size))
		p.inFlight.Release(size)
	}()
	start := time.Now()
	parts, err := p.send(ctx, t, b)
	p.owner.observe(string(p.id), appendMethod, start, err)
	if err != nil {
		return proof.Confirmation{}, p.fail(ctx, t, err)
	}
	return confirmationOf(b, parts)
}

// send has the peer's stream carry the batch. The error is one that a request of its own
// would have ended with.
func (p *Peer) send(ctx context.Context, t *table.Table, b *series.Batch) ([]appendPart, error) {
	c := &appendCall{epoch: t.Epoch, batch: b, items: frame.Items(b), trace: tracing.Carry(ctx), done: make(chan struct{})}
	c.deadline, _ = ctx.Deadline()
	s, err := p.enqueue(t.Lineage(), c)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	s.leave(c)
	tracing.Of(ctx).Set(tracing.Bytes(c.bytes))
	if !c.ended {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return c.parts, c.err
}

// enqueue gives a call to the stream of that lineage, which it opens if there is none.
func (p *Peer) enqueue(lineage string, c *appendCall) (*appendStream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if p.stream != nil {
		if p.stream.lineage == lineage && p.stream.add(c) {
			return p.stream, nil
		}
		p.stream.retire()
	}
	p.stream = newAppendStream(p, lineage)
	p.stream.add(c)
	p.streams.Go(p.stream.run)
	return p.stream, nil
}

// close breaks the connection, and with it the calls that are under way.
func (p *Peer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.conn.Close()
	p.streams.Wait()
}

func (p *Peer) countSamples(n int, confirmed bool) {
	label := "false"
	if confirmed {
		label = "true"
	}
	p.owner.samples.WithLabelValues(string(p.id), label).Add(float64(n))
}

// confirmationOf puts the answers to the parts of a batch together. The gaps are the last
// one's, which were read when all of the batch was stored.
func confirmationOf(b *series.Batch, parts []appendPart) (proof.Confirmation, error) {
	var c proof.Confirmation
	for _, p := range parts {
		sent := b.Series[min(p.first, len(b.Series)):min(p.next, len(b.Series))]
		if err := refusalsFromProto(p.answer.Refusals, sent, p.first, &c.Outcome); err != nil {
			return proof.Confirmation{}, err
		}
		c.Gaps = gapsFromProto(p.answer.Gaps)
	}
	return c, nil
}

// refusalsFromProto adds the refusals of a part, which begins with series number first, to an
// outcome, and checks their indexes against what was sent.
func refusalsFromProto(refusals []*peerpb.Refusal, sent []series.Series, first int, o *series.Outcome) error {
	for _, r := range refusals {
		if int(r.Series) >= len(sent) {
			return fmt.Errorf("refusal of series %d of %d", r.Series, len(sent))
		}
		items := len(sent[r.Series].Samples)
		if r.Exemplar {
			items = len(sent[r.Series].Exemplars)
		}
		if int(r.Item) >= items {
			return fmt.Errorf("refusal of item %d of %d in series %d", r.Item, items, r.Series)
		}
		reason := series.Invalid
		if r.Reason == peerpb.Refusal_REASON_CONFLICT {
			reason = series.Conflict
		}
		o.Refusals = append(o.Refusals, series.Refusal{
			Series: first + int(r.Series), Item: int(r.Item), Exemplar: r.Exemplar, Reason: reason, Message: r.Message,
		})
	}
	return nil
}

// failureFromProto returns the error that a request of its own would have ended with.
func failureFromProto(f *peerpb.Failure) error {
	code := codes.Code(f.Code)
	if code == codes.OK {
		code = codes.Unknown
	}
	st := status.New(code, f.Message)
	if f.Mismatch != nil {
		if detailed, err := st.WithDetails(f.Mismatch); err == nil {
			st = detailed
		}
	}
	return st.Err()
}
