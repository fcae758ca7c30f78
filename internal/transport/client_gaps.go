package transport

import (
	"context"
	"fmt"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Note has the peer note durably that another node may lack samples since a time, in
// milliseconds.
func (p *Peer) Note(ctx context.Context, t *table.Table, peer table.NodeID, since int64) error {
	_, err := p.note(ctx, t, proof.Gap{Peer: peer, Since: since})
	return err
}

// NoteLate is Note for a node that may yet confirm what it is noted for. The ticket is for
// Withdraw; 0 says that the note cannot be withdrawn.
func (p *Peer) NoteLate(ctx context.Context, t *table.Table, peer table.NodeID, since int64) (ticket uint64, err error) {
	return p.note(ctx, t, proof.Gap{Peer: peer, Since: since, Late: true})
}

func (p *Peer) note(ctx context.Context, t *table.Table, g proof.Gap) (ticket uint64, err error) {
	resp, err := p.client.Note(ctx, &peerpb.NoteRequest{Header: p.header(t), Gap: gapToProto(g)})
	if err != nil {
		return 0, p.fail(ctx, t, err)
	}
	return resp.Ticket, nil
}

// Withdraw takes back a late note: the node that it is for has confirmed what it lacked.
func (p *Peer) Withdraw(ctx context.Context, t *table.Table, peer table.NodeID, ticket uint64) error {
	if _, err := p.client.Withdraw(ctx, &peerpb.WithdrawRequest{Header: p.header(t), Peer: string(peer), Ticket: ticket}); err != nil {
		return p.fail(ctx, t, err)
	}
	return nil
}

// State asks the peer what it says of itself, at the epoch of table t. A peer of which a
// later start was seen lacks what it stored since, and is an error.
func (p *Peer) State(ctx context.Context, t *table.Table) (proof.State, error) {
	starts := p.owner.opts.Starts
	n, run := starts.Own()
	resp, err := p.client.State(ctx, &peerpb.StateRequest{Header: p.header(t), From: string(starts.Self()), Starts: n, Run: run, Expiry: wordToProto(p.owner.opts.Horizons.Word())})
	if err != nil {
		return proof.State{}, p.fail(ctx, t, err)
	}
	if seen := starts.Seen(p.id, resp.Starts, resp.Run); seen > 0 {
		return proof.State{}, fmt.Errorf("the peer came back from an old copy of its directory: its start %d is not the start %d that was seen", resp.Starts, seen)
	}
	if resp.Remembered > 0 {
		starts.Outdated(p.id, resp.Remembered)
	}
	if resp.Expiry != nil {
		p.owner.opts.Horizons.Heard(ctx, p.id, wordFromProto(resp.Expiry))
	}
	return stateFromProto(resp), nil
}

// Starts knows which starts of nodes there were, so that a directory that is older than it
// was is noticed.
type Starts interface {
	// Self is this node.
	Self() table.NodeID
	// Own is how often this node has started, and a random number of the present start.
	Own() (starts, run uint64)
	// Seen takes note of a start of a peer. It returns another start of it that was seen
	// and that is not an earlier one, or 0.
	Seen(id table.NodeID, starts, run uint64) uint64
	// Outdated is told that a peer has seen such a start of this node.
	Outdated(by table.NodeID, seen uint64)
}

// Horizons keeps the time before which this node's samples are expired. Whenever one node asks
// another one for its state, each hears of the other one's, and so before it answers anything
// and every few seconds.
type Horizons interface {
	// Word is what this node says.
	Word() expiry.Word
	// Heard is told what a peer says. It returns when that is believed, and taken over, or not.
	Heard(ctx context.Context, peer table.NodeID, w expiry.Word)
}

// HandOff asks the peer for the next window of what the node self may lack, in the session
// of the window before or, if that is 0, in a new one. The set is nil if it lacks nothing.
// The stream ends as that of Select does.
func (p *Peer) HandOff(ctx context.Context, t *table.Table, self table.NodeID, session uint64) (proof.Window, *StreamedSet, error) {
	set := p.newSet(ctx, t, peerpb.Peer_HandOff_FullMethodName)
	stream, err := p.client.HandOff(ctx, &peerpb.HandOffRequest{Header: p.header(t), From: string(self), Session: session})
	if err != nil {
		return proof.Window{}, nil, p.fail(ctx, t, err)
	}
	set.stream = stream
	w := set.window()
	if set.err != nil {
		return proof.Window{}, nil, set.err
	}
	if w == nil {
		return proof.Window{}, nil, nil
	}
	if w.SinceMs >= w.UntilMs {
		return proof.Window{}, nil, fmt.Errorf("the peer hands off from %d to %d", w.SinceMs, w.UntilMs)
	}
	return proof.Window{Session: w.Session, Since: w.SinceMs, Until: w.UntilMs}, set, nil
}

// Advance tells the peer that the node self has stored and synced a window, and returns
// whether it may still lack something.
func (p *Peer) Advance(ctx context.Context, t *table.Table, self table.NodeID, w proof.Window) (open bool, err error) {
	resp, err := p.client.Advance(ctx, &peerpb.AdvanceRequest{
		Header: p.header(t), From: string(self), Session: w.Session, UntilMs: w.Until,
	})
	if err != nil {
		return false, p.fail(ctx, t, err)
	}
	return resp.Open, nil
}

func gapsToProto(gaps []proof.Gap) []*peerpb.Gap {
	out := make([]*peerpb.Gap, len(gaps))
	for i, g := range gaps {
		out[i] = gapToProto(g)
	}
	return out
}

func gapToProto(g proof.Gap) *peerpb.Gap {
	return &peerpb.Gap{Peer: string(g.Peer), SinceMs: g.Since, Late: g.Late}
}

func gapsFromProto(gaps []*peerpb.Gap) []proof.Gap {
	out := make([]proof.Gap, len(gaps))
	for i, g := range gaps {
		out[i] = proof.Gap{Peer: table.NodeID(g.GetPeer()), Since: g.GetSinceMs(), Late: g.GetLate()}
	}
	return out
}

func stateToProto(s proof.State) *peerpb.StateResponse {
	resp := &peerpb.StateResponse{Session: s.Session, Gaps: gapsToProto(s.Gaps)}
	for _, r := range s.Damage {
		resp.Damage = append(resp.Damage, rangeToProto(r))
	}
	for _, r := range s.Expired {
		resp.Expired = append(resp.Expired, rangeToProto(r))
	}
	return resp
}

func stateFromProto(resp *peerpb.StateResponse) proof.State {
	s := proof.State{Session: resp.Session, Gaps: gapsFromProto(resp.Gaps)}
	for _, r := range resp.Damage {
		s.Damage = append(s.Damage, proof.Range{Min: r.GetMinMs(), Max: r.GetMaxMs()})
	}
	for _, r := range resp.Expired {
		s.Expired = append(s.Expired, proof.Range{Min: r.GetMinMs(), Max: r.GetMaxMs()})
	}
	return s
}

func wordToProto(w expiry.Word) *peerpb.Expiry {
	return &peerpb.Expiry{TimeMs: w.Horizon.Time, SizeMs: w.Horizon.Size, KeepMs: w.Limits.Time, KeepBytes: w.Limits.Size}
}

func wordFromProto(e *peerpb.Expiry) expiry.Word {
	return expiry.Word{
		Horizon: expiry.Horizon{Time: e.TimeMs, Size: e.SizeMs}, Limits: expiry.Limits{Time: e.KeepMs, Size: e.KeepBytes},
	}
}

func proofToProto(p *proof.Proof) *peerpb.Proof {
	if p == nil {
		return nil
	}
	out := &peerpb.Proof{Quorum: uint32(p.Quorum)}
	for _, n := range p.Nodes {
		pn := &peerpb.Proof_Node{Slot: uint32(n.Slot), Session: n.Session}
		for _, slot := range n.Noted {
			pn.Noted = append(pn.Noted, uint32(slot))
		}
		out.Nodes = append(out.Nodes, pn)
	}
	return out
}

func proofFromProto(p *peerpb.Proof) *proof.Proof {
	if p == nil {
		return nil
	}
	out := &proof.Proof{Quorum: int(p.Quorum)}
	for _, pn := range p.Nodes {
		n := proof.Node{Slot: int(pn.GetSlot()), Session: pn.GetSession()}
		for _, slot := range pn.GetNoted() {
			n.Noted = append(n.Noted, int(slot))
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out
}
