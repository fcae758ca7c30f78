package transport

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// KeyChange is what becomes of the keys that encrypt gossip.
type KeyChange struct {
	// Op is "list", "add", "use" or "remove".
	Op string
	// Key belongs to add.
	Key []byte
	// Fingerprint belongs to use and remove.
	Fingerprint string
}

// Keyring holds the keys that encrypt gossip.
type Keyring interface {
	// ChangeKeys returns the fingerprints of the keys that the node has then, the one that it
	// uses first. It refuses where others could read what was sent.
	ChangeKeys(c KeyChange) (fingerprints []string, err error)
}

// Keyring implements peerpb.PeerServer. It answers at any epoch, as the keys have nothing to do
// with the table.
func (s *Server) Keyring(_ context.Context, req *peerpb.KeyringRequest) (*peerpb.KeyringResponse, error) {
	if err := s.checkAddressee(req.Header); err != nil {
		return nil, err
	}
	prints, err := s.opts.Keyring.ChangeKeys(KeyChange{Op: req.Op, Key: req.Key, Fingerprint: req.Fingerprint})
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &peerpb.KeyringResponse{Fingerprints: prints}, nil
}

// Keyring has the peer change its keys, see Keyring.ChangeKeys.
func (p *Peer) Keyring(ctx context.Context, t *table.Table, c KeyChange) (fingerprints []string, err error) {
	resp, err := p.client.Keyring(ctx, &peerpb.KeyringRequest{Header: p.header(t), Op: c.Op, Key: c.Key, Fingerprint: c.Fingerprint})
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	return resp.Fingerprints, nil
}
