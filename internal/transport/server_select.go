package transport

import (
	"github.com/prometheus/prometheus/storage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Select implements peerpb.PeerServer.
func (s *Server) Select(req *peerpb.SelectRequest, stream grpc.ServerStreamingServer[peerpb.SelectResponse]) error {
	if err := s.check(req.Header); err != nil {
		return err
	}
	sel, err := selectionFromProto(req)
	if err != nil {
		return err
	}
	set, err := s.opts.Reader.Select(stream.Context(), sel)
	if err != nil {
		return err
	}
	defer set.Close()
	defer tell(stream.Context(), sel.Spent)
	return sendSeries(set, stream, labelsOnly(req.Hints), sel.Spent)
}

func selectionFromProto(req *peerpb.SelectRequest) (Selection, error) {
	matchers, err := matchersFromProto(req.Matchers)
	if err != nil {
		return Selection{}, status.Error(codes.InvalidArgument, err.Error())
	}
	return Selection{
		Epoch: req.Header.GetEpoch(), Proof: proofFromProto(req.Proof),
		Mint: req.MinTimeMs, Maxt: req.MaxTimeMs, Hints: hintsFromProto(req.Hints), Matchers: matchers, Part: partFromProto(req.Part), Encoded: req.Encoded,
		Spent: spentOf(req.Measure),
	}, nil
}

// labelsOnly tells whether a query wants to know which series there are, and no samples.
func labelsOnly(h *peerpb.Hints) bool { return h.GetFunc() == "series" }

// frames sends series in messages of about frameBytes.
type frames struct {
	stream grpc.ServerStreamingServer[peerpb.SelectResponse]
	next   *peerpb.SelectResponse
	size   int
}

func (f *frames) flush() error {
	if len(f.next.Series)+len(f.next.Warnings) == 0 && f.next.Spent == nil {
		return nil
	}
	err := f.stream.Send(f.next)
	f.next, f.size = &peerpb.SelectResponse{}, 0
	return err
}

func sendSeries(set storage.ChunkSeriesSet, stream grpc.ServerStreamingServer[peerpb.SelectResponse], labelsOnly bool, measured *spent.Node) error {
	f := &frames{stream: stream, next: &peerpb.SelectResponse{}}
	for set.Next() {
		if err := stream.Context().Err(); err != nil {
			return err
		}
		if err := f.add(set.At(), labelsOnly); err != nil {
			return err
		}
	}
	if err := set.Err(); err != nil {
		return err
	}
	f.next.Warnings, f.next.Spent = warnings(set.Warnings()), spentToProto(measured)
	return f.flush()
}

// add puts a series into the next message, or into several if its chunks do not fit.
func (f *frames) add(from storage.ChunkSeries, labelsOnly bool) error {
	s := &peerpb.ChunkedSeries{Labels: labelsToPairs(from.Labels())}
	for _, l := range s.Labels {
		f.size += len(l)
	}
	f.next.Series = append(f.next.Series, s)
	if !labelsOnly {
		it := from.Iterator(nil)
		for it.Next() {
			if f.size >= frameBytes && len(s.Chunks) > 0 {
				s.More = true
				if err := f.flush(); err != nil {
					return err
				}
				s = &peerpb.ChunkedSeries{}
				f.next.Series = append(f.next.Series, s)
			}
			meta := it.At()
			data := meta.Chunk.Bytes()
			s.Chunks = append(s.Chunks, &peerpb.Chunk{
				MinTimeMs: meta.MinTime, MaxTimeMs: meta.MaxTime, Encoding: uint32(meta.Chunk.Encoding()), Data: data,
			})
			f.size += len(data) + 16
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	if f.size >= frameBytes {
		return f.flush()
	}
	return nil
}
