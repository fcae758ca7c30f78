//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/copies"
	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/table"
)

// String is what results call the node.
func (n *node) String() string { return fmt.Sprintf("node %d", n.number) }

// admit counts a node among those that are to be members.
func (r *rig) admit(n *node) {
	r.nodes = append(r.nodes, n)
	n.member.Store(true)
}

// join starts nodes at places that were free, which become members by themselves.
func (r *rig) join(places ...*node) error {
	for _, n := range places {
		r.admit(n)
		if err := n.start(); err != nil {
			return err
		}
	}
	return nil
}

// leave has members give their copies to the others, and stops them when that is done.
func (r *rig) leave(ctx context.Context, leaving ...*node) error {
	ids, err := identities(leaving)
	if err != nil {
		return err
	}
	r.nodes = slices.DeleteFunc(r.nodes, func(n *node) bool { return slices.Contains(leaving, n) })
	if err := r.command(ctx, "leave", map[string]any{"nodes": ids}); err != nil {
		return err
	}
	if _, err := r.converge(ctx, convergeTimeout); err != nil {
		return err
	}
	for _, n := range leaving {
		n.member.Store(false)
		if err := n.stop(); err != nil {
			return err
		}
	}
	return nil
}

// command has the cluster agree on a change. Nodes may refuse honestly for some time: there
// may be no leader just now, or a new node may not be known yet.
func (r *rig) command(ctx context.Context, op string, body map[string]any) error {
	return r.commandTo(ctx, r.nodes[0], op, body)
}

// commandTo is command at one node.
func (r *rig) commandTo(ctx context.Context, n *node, op string, body map[string]any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		answer, err := r.client.Do(ctx, http.MethodPost, n.Base()+"/api/v1/cluster/"+op,
			http.Header{"Content-Type": {"application/json"}}, content)
		if err == nil && answer.Status == http.StatusOK {
			var success struct{ Data struct{ Epoch uint64 } }
			if err := json.Unmarshal(answer.Body, &success); err != nil {
				return err
			}
			r.epoch = success.Data.Epoch
			return nil
		}
		if late := sleep(ctx, time.Second/2); late != nil {
			return load.Violationf("%s was not agreed on: %v %d: %s", op, err, answer.Status, load.Excerpt(answer.Body))
		}
	}
}

// id is the identity that the node's directory has, empty before it was first started.
func (n *node) id() (table.NodeID, error) { return copies.ID(n.dir) }

func identities(nodes []*node) ([]table.NodeID, error) {
	var ids []table.NodeID
	for _, n := range nodes {
		id, err := n.id()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// killAndRead kills all nodes at once and reads what each has on its disk, by the name of
// the node.
func (r *rig) killAndRead() (map[string]ledger.Answer, error) {
	if err := r.each((*node).close); err != nil {
		return nil, err
	}
	found := map[string]ledger.Answer{}
	for _, n := range r.nodes {
		a, err := copies.Read(n.dir)
		if err != nil {
			return nil, fmt.Errorf("reading the disk of node %d: %w", n.number, err)
		}
		found[n.String()] = a
	}
	return found, nil
}

// owners returns which nodes are to hold a series, by what the disks of the members say.
func (r *rig) owners() (func(ledger.Series) []string, error) {
	dirs := map[string]string{}
	for _, n := range r.nodes {
		dirs[n.String()] = n.dir
	}
	return copies.Owners(dirs)
}
