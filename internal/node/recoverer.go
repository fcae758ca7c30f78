package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/plan"
	"github.com/starling-tsdb/starling/internal/table"
)

// recoveryTimeout bounds how long an operator waits for a recovery: some rounds of requests to
// nodes of which some may be lost.
const recoveryTimeout = 20 * time.Second

// recoverer leads the cluster out of the loss of a majority, on behalf of operators.
type recoverer struct{ n *Node }

// PlanRecovery implements api.Recoverer.
func (r recoverer) PlanRecovery(ctx context.Context) (*api.RecoveryPlan, error) {
	ctx, cancel := context.WithTimeout(ctx, recoveryTimeout)
	defer cancel()
	p, err := r.n.cluster.PlanRecovery(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	t := r.n.cluster.Table()
	names := map[table.NodeID]string{}
	for _, m := range r.n.cluster.Members() {
		names[m.ID] = m.Name
	}
	named := func(ids []table.NodeID) []api.NamedNode {
		list := []api.NamedNode{}
		for _, id := range ids {
			list = append(list, api.NamedNode{ID: string(id), Name: names[id]})
		}
		return list
	}
	out := &api.RecoveryPlan{
		Epoch: p.Epoch, Next: p.Next, Survivors: named(p.Survivors), Gone: named(p.Gone), Voters: len(p.Voters),
		WriteQuorum: t.Reading().WriteQuorum(), Losses: plan.Losses(t.Reading(), p.Gone),
	}
	for _, id := range p.Voters {
		if slices.Contains(p.Gone, id) {
			out.LostVoters++
		}
	}
	return out, nil
}

// Recover implements api.Recoverer.
func (r recoverer) Recover(ctx context.Context, req api.RecoveryRequest) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, recoveryTimeout)
	defer cancel()
	var survivors []table.NodeID
	for _, id := range req.Survivors {
		survivors = append(survivors, table.NodeID(id))
	}
	if err := r.n.cluster.Recover(ctx, req.Epoch, survivors); err != nil {
		return 0, refusal(err)
	}
	return r.n.cluster.Table().Epoch, nil
}

func refusal(err error) error {
	var apart *cluster.ApartError
	if errors.Is(err, cluster.ErrNotRecoverable) || errors.As(err, &apart) {
		return fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return err
}
