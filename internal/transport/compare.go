package transport

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Comparer compares what this node holds with the other owners.
type Comparer interface {
	// Digests sums up what the node holds of a window for series that it shares with a peer, by
	// ranges of keys. Another epoch than the node's own is an error.
	Digests(ctx context.Context, epoch uint64, peer table.NodeID, window proof.Range) (*proof.Sums, error)
	// Compare has a range be compared soon.
	Compare(r proof.Range)
}

// Digests implements peerpb.PeerServer.
func (s *Server) Digests(ctx context.Context, req *peerpb.DigestsRequest) (*peerpb.DigestsResponse, error) {
	if err := s.check(req.Header); err != nil {
		return nil, err
	}
	window, err := rangeFromProto(req.Window)
	if err != nil {
		return nil, err
	}
	sums, err := s.opts.Comparer.Digests(ctx, req.Header.GetEpoch(), table.NodeID(req.From), window)
	if err != nil {
		return nil, err
	}
	return &peerpb.DigestsResponse{Sums: sums[:]}, nil
}

// Sum implements peerpb.PeerServer.
func (s *Server) Sum(ctx context.Context, req *peerpb.SelectRequest) (*peerpb.DigestsResponse, error) {
	if err := s.check(req.Header); err != nil {
		return nil, err
	}
	sel, err := selectionFromProto(req)
	if err != nil {
		return nil, err
	}
	sums, err := s.opts.Reader.Sum(ctx, sel)
	if err != nil {
		return nil, err
	}
	return &peerpb.DigestsResponse{Sums: sums[:]}, nil
}

// Compare implements peerpb.PeerServer. It answers at any epoch: nothing is decided by it.
func (s *Server) Compare(_ context.Context, req *peerpb.CompareRequest) (*peerpb.CompareResponse, error) {
	if err := s.checkAddressee(req.Header); err != nil {
		return nil, err
	}
	r, err := rangeFromProto(req.Range)
	if err != nil {
		return nil, err
	}
	s.opts.Comparer.Compare(r)
	return &peerpb.CompareResponse{}, nil
}

// Digests asks the peer to sum up what it holds of a window for series that it shares with the
// node self, by ranges of keys.
func (p *Peer) Digests(ctx context.Context, t *table.Table, self table.NodeID, window proof.Range) (*proof.Sums, error) {
	resp, err := p.client.Digests(ctx, &peerpb.DigestsRequest{Header: p.header(t), From: string(self), Window: rangeToProto(window)})
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	return sumsFromProto(resp)
}

// Sum asks the peer to sum up the series that are selected, by ranges of keys.
func (p *Peer) Sum(ctx context.Context, t *table.Table, sel Selection) (*proof.Sums, error) {
	resp, err := p.client.Sum(ctx, p.selectionToProto(t, sel))
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	return sumsFromProto(resp)
}

func sumsFromProto(resp *peerpb.DigestsResponse) (*proof.Sums, error) {
	if n := len(resp.Sums); n != proof.KeyRanges {
		return nil, fmt.Errorf("the peer sums up %d ranges of the keys, want %d", n, proof.KeyRanges)
	}
	return (*proof.Sums)(resp.Sums), nil
}

// Compare has the peer compare a range with the other owners soon.
func (p *Peer) Compare(ctx context.Context, t *table.Table, r proof.Range) error {
	_, err := p.client.Compare(ctx, &peerpb.CompareRequest{Header: p.header(t), Range: rangeToProto(r)})
	if err != nil {
		return p.fail(ctx, t, err)
	}
	return nil
}

func rangeToProto(r proof.Range) *peerpb.TimeRange {
	return &peerpb.TimeRange{MinMs: r.Min, MaxMs: r.Max}
}

func rangeFromProto(r *peerpb.TimeRange) (proof.Range, error) {
	if r.GetMinMs() > r.GetMaxMs() {
		return proof.Range{}, status.Errorf(codes.InvalidArgument, "a range from %d to %d", r.GetMinMs(), r.GetMaxMs())
	}
	return proof.Range{Min: r.GetMinMs(), Max: r.GetMaxMs()}, nil
}

func partToProto(p *proof.Part) *peerpb.Part {
	if p == nil {
		return nil
	}
	return &peerpb.Part{Node: string(p.Node), Gained: p.Gained, Ranges: p.Ranges}
}

func partFromProto(p *peerpb.Part) *proof.Part {
	if p == nil {
		return nil
	}
	return &proof.Part{Node: table.NodeID(p.Node), Gained: p.Gained, Ranges: p.Ranges}
}
