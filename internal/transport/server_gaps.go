package transport

import (
	"context"

	"google.golang.org/grpc"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Giver hands off what peers lack.
type Giver interface {
	// Give begins the next window for a peer, in the session of the window before or in a
	// new one, and returns it with its series. The set is nil if the peer lacks nothing.
	Give(ctx context.Context, epoch uint64, peer table.NodeID, session uint64) (proof.Window, SeriesSet, error)
	// Advance says that the peer has stored and synced a window, and returns whether it may
	// still lack something.
	Advance(ctx context.Context, peer table.NodeID, session uint64, until int64) (open bool, err error)
}

// Note implements peerpb.PeerServer.
func (s *Server) Note(ctx context.Context, req *peerpb.NoteRequest) (*peerpb.NoteResponse, error) {
	if err := s.checkAddressee(req.Header); err != nil {
		return nil, err
	}
	epoch, peer, since := req.Header.GetEpoch(), table.NodeID(req.Gap.GetPeer()), req.Gap.GetSinceMs()
	if !req.Gap.GetLate() {
		return &peerpb.NoteResponse{}, s.opts.Appender.Note(ctx, epoch, peer, since)
	}
	ticket, err := s.opts.Appender.NoteLate(ctx, epoch, peer, since)
	return &peerpb.NoteResponse{Ticket: ticket}, err
}

// Withdraw implements peerpb.PeerServer.
func (s *Server) Withdraw(_ context.Context, req *peerpb.WithdrawRequest) (*peerpb.WithdrawResponse, error) {
	if err := s.checkAddressee(req.Header); err != nil {
		return nil, err
	}
	s.opts.Appender.Withdraw(table.NodeID(req.Peer), req.Ticket)
	return &peerpb.WithdrawResponse{}, nil
}

// State implements peerpb.PeerServer.
func (s *Server) State(ctx context.Context, req *peerpb.StateRequest) (*peerpb.StateResponse, error) {
	if err := s.check(req.Header); err != nil {
		return nil, err
	}
	if req.Expiry != nil {
		s.opts.Horizons.Heard(ctx, table.NodeID(req.From), wordFromProto(req.Expiry))
	}
	resp := stateToProto(s.opts.Reader.State())
	resp.Expiry = wordToProto(s.opts.Horizons.Word())
	resp.Starts, resp.Run = s.opts.Starts.Own()
	resp.Remembered = s.opts.Starts.Seen(table.NodeID(req.From), req.Starts, req.Run)
	// The state holds only for the epoch it was asked for.
	return resp, s.check(req.Header)
}

// HandOff implements peerpb.PeerServer.
func (s *Server) HandOff(req *peerpb.HandOffRequest, stream grpc.ServerStreamingServer[peerpb.SelectResponse]) error {
	if err := s.check(req.Header); err != nil {
		return err
	}
	w, set, err := s.opts.Giver.Give(stream.Context(), req.Header.GetEpoch(), table.NodeID(req.From), req.Session)
	if err != nil || set == nil {
		return err
	}
	defer set.Close()
	if err := stream.Send(&peerpb.SelectResponse{Window: &peerpb.Window{Session: w.Session, SinceMs: w.Since, UntilMs: w.Until}}); err != nil {
		return err
	}
	return sendSeries(set, stream, false, nil)
}

// Advance implements peerpb.PeerServer.
func (s *Server) Advance(ctx context.Context, req *peerpb.AdvanceRequest) (*peerpb.AdvanceResponse, error) {
	if err := s.check(req.Header); err != nil {
		return nil, err
	}
	open, err := s.opts.Giver.Advance(ctx, table.NodeID(req.From), req.Session, req.UntilMs)
	if err != nil {
		return nil, err
	}
	return &peerpb.AdvanceResponse{Open: open}, nil
}
