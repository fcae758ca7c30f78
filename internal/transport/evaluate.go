package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Evaluation asks a node for what a fragment makes of its own series.
type Evaluation struct {
	Selection
	Fragment *pushdown.Fragment
	Grid     pushdown.Grid
	// Take is told of the bytes of each message of the answer, as they are when it is decoded,
	// before it is: no more than one message is held that was not told of. Its error ends the
	// evaluation, which fails with it.
	Take func(bytes int64) error
}

// Evaluate returns what the peer makes of a fragment, of the series that Select would stream.
// The epoch is that of table t. Beside those of Select and of Take it fails with an
// *pushdown.UnprovenError or a promql.ErrTooManySamples.
func (p *Peer) Evaluate(ctx context.Context, t *table.Table, e Evaluation) (*pushdown.Partial, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends a stream that was not read to its end
	start := time.Now()
	part, err := p.evaluate(ctx, p.evaluateRequest(t, &e), &e)
	var query *queryError
	if status.Code(err) == codes.Unimplemented {
		// A node of the version before.
		err = &queryError{&pushdown.UnprovenError{Reason: fmt.Sprintf("node %s evaluates no parts of queries", p.id)}}
	}
	if errors.As(err, &query) {
		p.owner.observe(string(p.id), peerpb.Peer_Evaluate_FullMethodName, start, nil)
		return nil, query.error
	}
	p.owner.observe(string(p.id), peerpb.Peer_Evaluate_FullMethodName, start, err)
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	return part, nil
}

func (p *Peer) evaluateRequest(t *table.Table, e *Evaluation) *peerpb.EvaluateRequest {
	g := e.Grid
	return &peerpb.EvaluateRequest{
		Select: p.selectionToProto(t, e.Selection), Fragment: []byte(e.Fragment.Trimmed()),
		StartMs: g.Start, EndMs: g.End, StepMs: g.Step, LookbackMs: g.Lookback,
	}
}

// queryError is an error that is not the peer's.
type queryError struct{ error }

func (p *Peer) evaluate(ctx context.Context, req *peerpb.EvaluateRequest, e *Evaluation) (*pushdown.Partial, error) {
	stream, err := p.client.Evaluate(ctx, req)
	if err != nil {
		return nil, err
	}
	part, builder := &pushdown.Partial{}, labels.NewScratchBuilder(16)
	op, steps := e.Fragment.Op, e.Grid.Len()
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return part, nil
		case err != nil:
			return nil, err
		}
		received(e.Spent, resp)
		switch {
		case resp.Unproven != "":
			return nil, &queryError{&pushdown.UnprovenError{Reason: resp.Unproven}}
		case resp.Limited != "":
			return nil, &queryError{promql.ErrTooManySamples(resp.Limited)}
		}
		if err := e.Take(decodedBytes(resp.Values, op, steps)); err != nil {
			return nil, &queryError{err}
		}
		part.Samples += resp.Samples
		part.Found = part.Found || resp.Found
		for _, v := range resp.Values {
			values, err := valuesFromProto(&builder, v, op, steps)
			if err != nil {
				return nil, fmt.Errorf("decoding a part of a query: %w", err)
			}
			part.Values = append(part.Values, values)
		}
	}
}

// decodedBytes returns about how much memory values of so many steps take when they are decoded, or
// more.
func decodedBytes(values []*peerpb.Values, op parser.ItemType, steps int) int64 {
	n := int64(len(values)) * pushdown.Bytes(op, steps)
	for _, v := range values {
		for _, l := range v.Labels {
			n += int64(len(l)) + 1 // its length
		}
		n += histogramBytes(v, steps)
	}
	return n
}

func valuesToProto(v *pushdown.Values) *peerpb.Values {
	p := &peerpb.Values{Labels: labelsToPairs(v.Labels), Counts: v.N}
	exact := true
	for step, n := range v.N {
		switch {
		case n == 0:
		case v.HasHistogram(step):
			p.Histograms = append(p.Histograms, histogramToProto(step, v.H[step]))
		case v.V != nil:
			p.Sums = append(p.Sums, v.V[step])
		}
		exact = exact && (v.C == nil || math.Float64bits(v.C[step]) == 0)
	}
	if exact {
		return p
	}
	for step, n := range v.N {
		if n > 0 && !v.HasHistogram(step) {
			p.Errors = append(p.Errors, v.C[step])
		}
	}
	return p
}

var errSteps = errors.New("values do not fit the steps that were asked for")

func valuesFromProto(b *labels.ScratchBuilder, p *peerpb.Values, op parser.ItemType, steps int) (pushdown.Values, error) {
	ls, err := labelsFromPairs(b, p.Labels)
	if err != nil {
		return pushdown.Values{}, err
	}
	if len(p.Counts) != steps {
		return pushdown.Values{}, errSteps
	}
	v := pushdown.NewValues(op, ls, steps)
	copy(v.N, p.Counts)
	if err := setHistograms(&v, p.Histograms, op); err != nil {
		return v, err
	}
	next := 0
	for step, n := range v.N {
		if n == 0 || v.HasHistogram(step) {
			continue
		}
		if v.V != nil {
			if next >= len(p.Sums) {
				return v, errSteps
			}
			v.V[step] = p.Sums[next]
		}
		if v.C != nil && len(p.Errors) > 0 {
			if next >= len(p.Errors) {
				return v, errSteps
			}
			v.C[step] = p.Errors[next]
		}
		next++
	}
	return v, nil
}

// Evaluate implements peerpb.PeerServer.
func (s *Server) Evaluate(req *peerpb.EvaluateRequest, stream grpc.ServerStreamingServer[peerpb.EvaluateResponse]) error {
	if err := s.check(req.Select.GetHeader()); err != nil {
		return err
	}
	sel, err := selectionFromProto(req.Select)
	if err != nil {
		return err
	}
	g := pushdown.Grid{Start: req.StartMs, End: req.EndMs, Step: req.StepMs, Lookback: req.LookbackMs}
	if err := g.Check(); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	part, err := s.opts.Reader.Evaluate(stream.Context(), sel, string(req.Fragment), g)
	tell(stream.Context(), sel.Spent)
	var unproven *pushdown.UnprovenError
	var limited promql.ErrTooManySamples
	switch {
	case errors.As(err, &unproven):
		return stream.Send(&peerpb.EvaluateResponse{Unproven: unproven.Reason, Spent: spentToProto(sel.Spent)})
	case errors.As(err, &limited):
		return stream.Send(&peerpb.EvaluateResponse{Limited: string(limited), Spent: spentToProto(sel.Spent)})
	case err != nil:
		return err
	}
	return sendPartial(part, stream, spentToProto(sel.Spent))
}

// sendPartial sends messages of about frameBytes.
func sendPartial(part *pushdown.Partial, stream grpc.ServerStreamingServer[peerpb.EvaluateResponse], measured *peerpb.Spent) error {
	next, size := &peerpb.EvaluateResponse{}, 0
	for i := range part.Values {
		v := &part.Values[i]
		histograms := int(v.HistogramBytes())
		if histograms > maxHistogramBytes {
			return stream.Send(&peerpb.EvaluateResponse{Unproven: "histograms of many steps", Spent: measured})
		}
		next.Values = append(next.Values, valuesToProto(v))
		size += int(v.Labels.ByteSize()) + len(v.N) + 8*(len(v.V)+len(v.C)) + histograms
		if size >= frameBytes {
			if err := stream.Send(next); err != nil {
				return err
			}
			next, size = &peerpb.EvaluateResponse{}, 0
		}
	}
	next.Samples, next.Found, next.Spent = part.Samples, part.Found, measured
	return stream.Send(next)
}
