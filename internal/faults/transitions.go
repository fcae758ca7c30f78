//go:build linux

package faults

import (
	"context"
	"errors"
	"os"
	"time"
)

// transitions are the rows in which the cluster changes.
func transitions() []Row {
	return []Row{
		{Name: "three grow to five, two leave", Short: true, Spares: 2, harm: growAndShrink},
		{Name: "lost disk replaced", Nodes: 4, harm: replaceLost},
	}
}

// growAndShrink has two nodes join three, and two of the three leave.
func growAndShrink(ctx context.Context, r *rig) error {
	if err := r.join(r.places[3], r.places[4]); err != nil {
		return err
	}
	if _, err := r.converge(ctx, convergeTimeout); err != nil {
		return err
	}
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	return r.leave(ctx, r.places[0], r.places[1])
}

// replaceLost destroys the victim with its disk, starts another node at its place as an
// orchestrator does, and gives it the slot of the lost one.
func replaceLost(ctx context.Context, r *rig) error {
	n := r.victim()
	lost, err := n.id()
	if err != nil {
		return err
	}
	if err := n.kill(); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(n.dir), os.Mkdir(n.dir, 0o755), n.start()); err != nil {
		return err
	}
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	fresh, err := n.id()
	if err != nil {
		return err
	}
	return r.command(ctx, "replace", map[string]any{"old": lost, "new": fresh, "lost": true})
}
