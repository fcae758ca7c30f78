package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

// rebuildFrom are the owners of what this node owns, but for itself, at the epoch of the present
// table. There are none while what this node has may be deleted by an older table.
func (n *Node) rebuildFrom() (epoch uint64, o handoff.Owners, ok bool) {
	p := n.placed.Load()
	if p == nil || !p.table.Member(n.cluster.Self()) || n.deletion.ending() {
		return 0, handoff.Owners{}, false
	}
	o = n.owners(p, &proof.Part{Node: n.cluster.Self(), Ranges: proof.AllRanges})
	if own, owns := p.reading.SlotOf(n.cluster.Self()); owns {
		o.Origins[own] = patient{o.Origins[own]}
	}
	return p.table.Epoch, o, true
}

// patient is this node among the owners of what it lacks itself: it is missing.
type patient struct{ handoff.Origin }

// State implements handoff.Origin.
func (patient) State(context.Context) (proof.State, error) {
	return proof.State{}, errors.New("it is to be made good")
}

// newest implements what a Rebuilder asks for before it makes an old copy good. From then on this
// node confirms only what was sent at an epoch that it cannot have been at before.
func (n *Node) newest(ctx context.Context) (epoch uint64, err error) {
	// Which changes nothing but the first of all tables, and is agreed on like any command.
	if err := n.renew(ctx, 1); err != nil {
		return 0, err
	}
	epoch = n.placed.Load().table.Epoch
	n.owner.RefuseUntil(epoch)
	return epoch, nil
}

// renew has the members agree on an epoch after the given one.
func (n *Node) renew(ctx context.Context, epoch uint64) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := n.cluster.Propose(ctx, table.Command{Kind: table.Renew, Epoch: epoch}); err != nil {
		return fmt.Errorf("begin an epoch after %d, so that all that may still be acknowledged of earlier ones is stored: %w", epoch, err)
	}
	return nil
}

// takeOver notes all gaps that the nodes of a proof note. Those that this node noted itself and
// knows no more are among them: each gap that an acknowledgement relied on is noted by enough
// owners.
func (n *Node) takeOver(ctx context.Context, o handoff.Owners, p *proof.Proof) error {
	for _, serving := range p.Nodes {
		state, err := o.Origins[serving.Slot].State(ctx)
		if err != nil {
			return fmt.Errorf("ask node %s for the gaps that it notes: %w", o.From.Slots[serving.Slot].Node, err)
		}
		for _, g := range state.Gaps {
			if g.Peer == n.cluster.Self() {
				continue
			}
			if err := n.gaps.Note(ctx, g.Peer, g.Since); err != nil {
				return err
			}
		}
	}
	return nil
}
