//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/table"
)

// destroyMajority destroys three of the five of six nodes that agree on the table, with their
// disks, while one of the others lacks what was written last; an operator recovers the cluster
// from that one and gives up the three, and three others join. With six copies four hold what
// is acknowledged: one of those that are left does.
func destroyMajority(ctx context.Context, r *rig) error {
	lost, err := r.founding(ctx, 3)
	if err != nil {
		return err
	}
	ids, err := identities(lost)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(r.nodes), func(n *node) bool { return slices.Contains(lost, n) })
	behind := left[0]
	if err := errors.Join(behind.pause(), sleep(ctx, 4*time.Second)); err != nil {
		return err
	}
	for _, n := range lost {
		n.member.Store(false)
		err = errors.Join(err, n.kill(), os.RemoveAll(n.dir), os.Mkdir(n.dir, 0o755))
	}
	r.nodes = left
	if err := errors.Join(err, behind.resume(), r.recover(ctx, behind)); err != nil {
		return err
	}
	if err := r.command(ctx, "remove", map[string]any{"nodes": ids, "acceptLoss": true}); err != nil {
		return err
	}
	if _, err := r.converge(ctx, convergeTimeout); err != nil {
		return err
	}
	return r.join(lost...)
}

// founding returns the nodes in the first slots, which agree on the table.
func (r *rig) founding(ctx context.Context, n int) ([]*node, error) {
	reply, err := r.client.Get(ctx, r.nodes[0].Base()+"/api/v1/cluster")
	if err != nil {
		return nil, err
	}
	var status struct{ Data table.Assignment }
	if err := json.Unmarshal(reply.Body, &status); err != nil {
		return nil, fmt.Errorf("/api/v1/cluster: %d: %w: %s", reply.Status, err, load.Excerpt(reply.Body))
	}
	ids, err := identities(r.nodes)
	if err != nil {
		return nil, err
	}
	var first []*node
	for _, s := range status.Data.Slots[:n] {
		first = append(first, r.nodes[slices.Index(ids, s.Node)])
	}
	return first, nil
}

// recover has the cluster go on without those that are gone, from one node, as an operator does:
// when that shows all that are left.
func (r *rig) recover(ctx context.Context, from *node) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		plan, err := from.recovery(ctx)
		if err == nil && len(plan.Survivors) == len(r.nodes) {
			return r.commandTo(ctx, from, "recover", map[string]any{"epoch": plan.Epoch, "survivors": plan.Survivors})
		}
		if late := sleep(ctx, time.Second/2); late != nil {
			return load.Violationf("no recovery with %d nodes was offered: %+v, %v", len(r.nodes), plan, err)
		}
	}
}

// recovery is what a node would do to go on without those that are gone.
type recovery struct {
	Epoch     uint64
	Survivors []table.NodeID
}

func (n *node) recovery(ctx context.Context) (recovery, error) {
	reply, err := n.rig.client.Get(ctx, n.Base()+"/api/v1/cluster/recover")
	if err != nil {
		return recovery{}, err
	}
	if reply.Status != http.StatusOK {
		return recovery{}, fmt.Errorf("%d: %s", reply.Status, load.Excerpt(reply.Body))
	}
	var shown struct {
		Data struct {
			Epoch     uint64
			Survivors []struct{ ID table.NodeID }
		}
	}
	if err := json.Unmarshal(reply.Body, &shown); err != nil {
		return recovery{}, err
	}
	plan := recovery{Epoch: shown.Data.Epoch}
	for _, s := range shown.Data.Survivors {
		plan.Survivors = append(plan.Survivors, s.ID)
	}
	return plan, nil
}
