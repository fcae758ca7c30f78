package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Labels returns which label names the peer knows, or which values of one of them, in order and
// each once. The epoch is that of table t. Take is told of the bytes of each message of the
// answer, as they are kept; its error ends the request, which fails with it, or with a
// *series.TooManyLabelsError of the peer.
func (p *Peer) Labels(ctx context.Context, t *table.Table, q series.LabelQuery, take func(bytes int64) error) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends a stream that was not read to its end
	method, ask := peerpb.Peer_LabelValues_FullMethodName, p.client.LabelValues
	if q.Name == "" {
		method, ask = peerpb.Peer_LabelNames_FullMethodName, p.client.LabelNames
	}
	start := time.Now()
	var all []string
	stream, err := ask(ctx, &peerpb.LabelsRequest{
		Header: p.header(t), MinTimeMs: q.Mint, MaxTimeMs: q.Maxt, Name: []byte(q.Name), Limit: int64(q.Limit),
		Matchers: matchersToProto(q.Matchers), Parts: true, Session: q.Session,
	})
	if err == nil {
		all, err = receiveLabels(stream, take)
	}
	var query *queryError
	if errors.As(err, &query) {
		p.owner.observe(string(p.id), method, start, nil)
		return nil, query.error
	}
	p.owner.observe(string(p.id), method, start, err)
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	return all, nil
}

func receiveLabels(stream grpc.ServerStreamingClient[peerpb.LabelsResponse], take func(bytes int64) error) (all []string, err error) {
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case resp.Limited != "":
			return nil, &queryError{&series.TooManyLabelsError{Text: resp.Limited}}
		}
		if err := take(listBytes(resp.Values)); err != nil {
			return nil, &queryError{err}
		}
		for _, v := range resp.Values {
			if len(all) > 0 && v <= all[len(all)-1] {
				return nil, fmt.Errorf("label %q follows %q: out of order", v, all[len(all)-1])
			}
			all = append(all, v)
		}
	}
}

// listBytes is about what a list of strings takes.
func listBytes(list []string) int64 {
	n := int64(len(list)) * series.StringOverhead
	for _, s := range list {
		n += int64(len(s))
	}
	return n
}

// LabelNames implements peerpb.PeerServer.
func (s *Server) LabelNames(req *peerpb.LabelsRequest, stream grpc.ServerStreamingServer[peerpb.LabelsResponse]) error {
	if len(req.Name) > 0 {
		return status.Errorf(codes.InvalidArgument, "label names of the label %q", req.Name)
	}
	return s.labels(req, stream)
}

// LabelValues implements peerpb.PeerServer.
func (s *Server) LabelValues(req *peerpb.LabelsRequest, stream grpc.ServerStreamingServer[peerpb.LabelsResponse]) error {
	if len(req.Name) == 0 {
		return status.Error(codes.InvalidArgument, "label values of no label")
	}
	return s.labels(req, stream)
}

func (s *Server) labels(req *peerpb.LabelsRequest, stream grpc.ServerStreamingServer[peerpb.LabelsResponse]) error {
	if err := s.check(req.Header); err != nil {
		return err
	}
	matchers, err := matchersFromProto(req.Matchers)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	q := series.LabelQuery{Name: string(req.Name), Mint: req.MinTimeMs, Maxt: req.MaxTimeMs, Matchers: matchers, Limit: int(req.Limit), Session: req.Session}
	f := &labelFrames{stream: stream, parts: req.Parts, next: &peerpb.LabelsResponse{}}
	err = s.opts.Reader.Labels(stream.Context(), q, f.add)
	var tooMany *series.TooManyLabelsError
	if errors.As(err, &tooMany) && req.Parts {
		return stream.Send(&peerpb.LabelsResponse{Limited: tooMany.Error()})
	}
	if err != nil {
		return err
	}
	if err := s.check(req.Header); err != nil {
		return err
	}
	return stream.Send(f.next)
}

// labelFrames sends strings in messages of about frameBytes, or all of them in one if there are
// to be no parts.
type labelFrames struct {
	stream grpc.ServerStreamingServer[peerpb.LabelsResponse]
	parts  bool
	next   *peerpb.LabelsResponse
	size   int
}

// add takes a string that is valid until it returns.
func (f *labelFrames) add(s string) error {
	// The last message is encoded when the strings are not valid any more.
	f.next.Values = append(f.next.Values, strings.Clone(s))
	if f.size += len(s) + 2; !f.parts || f.size < frameBytes {
		return nil
	}
	err := f.stream.Send(f.next)
	f.next, f.size = &peerpb.LabelsResponse{Values: f.next.Values[:0]}, 0
	return err
}
