//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/placement"
	"github.com/starling-tsdb/starling/internal/statefile"
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
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		answer, err := r.client.do(ctx, http.MethodPost, r.nodes[0].base()+"/api/v1/cluster/"+op,
			http.Header{"Content-Type": {"application/json"}}, content)
		if err == nil && answer.status == http.StatusOK {
			var success struct{ Data struct{ Epoch uint64 } }
			if err := json.Unmarshal(answer.body, &success); err != nil {
				return err
			}
			r.epoch = success.Data.Epoch
			return nil
		}
		if late := sleep(ctx, time.Second/2); late != nil {
			return violationf("%s was not agreed on: %v %d: %s", op, err, answer.status, excerpt(answer.body))
		}
	}
}

// id is the identity that the node's directory has, empty before it was first started.
func (n *node) id() (table.NodeID, error) {
	var identity struct{ Node table.NodeID }
	err := statefile.Load(filepath.Join(n.dir, "cluster"), "identity", &identity)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return identity.Node, err
}

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

// owners returns which nodes are to hold a series, by the newest table on the disks of the
// members, that queries read by.
func (r *rig) owners() (func(ledger.Series) []string, error) {
	var newest *table.Table
	names := map[table.NodeID]string{}
	for _, n := range r.nodes {
		id, err := n.id()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		names[id] = n.String()
		content, err := os.ReadFile(filepath.Join(n.dir, "cluster", "table"))
		if err != nil {
			return nil, err
		}
		t, err := table.Decode(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		if newest == nil || t.Epoch > newest.Epoch {
			newest = t
		}
	}
	assignment := newest.Reading()
	slots := make([]placement.Slot, len(assignment.Slots))
	for i, s := range assignment.Slots {
		slots[i] = placement.Slot{Occupied: s.Node != "", Zone: s.Zone}
	}
	placed := placement.NewMap(slots, assignment.ReplicationFactor)
	return func(s ledger.Series) []string {
		var owners []string
		for _, slot := range placed.Owners(placement.Key("", s.Labels()), nil) {
			owners = append(owners, names[assignment.Slots[slot].Node])
		}
		return owners
	}, nil
}
