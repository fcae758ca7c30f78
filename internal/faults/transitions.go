//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/statefile"
)

// transitions are the rows in which the cluster changes.
func transitions() []Row {
	return []Row{
		{Name: "three grow to five, two leave", Short: true, Spares: 2, harm: growAndShrink},
		{Name: "lost disk replaced", Nodes: 4, harm: replaceLost},
		{Name: "kill -9 of all while copying", Spares: 2, slowCopying: true, harm: killAllWhileCopying},
		{Name: "kill -9 of one that copies", Spares: 2, slowCopying: true, harm: killReceiver},
		{Name: "majority destroyed, recovered", Nodes: 6, copies: 6, harm: destroyMajority},
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

// slowRate is what nodes hand off and copy at. A node gives a MiB at once nevertheless.
const slowRate = "--cluster.transfer-rate=128KiB"

// joinHalfway has both spare nodes join, and returns while the first of them copies.
func joinHalfway(ctx context.Context, r *rig) (*node, error) {
	const enough = 1 << 20
	givers := slices.Clone(r.nodes)
	if err := r.join(r.places[3], r.places[4]); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		given := 0.0
		for _, g := range givers {
			bytes, err := g.metric(ctx, "starling_handoff_given_bytes_total")
			if err != nil {
				return nil, err
			}
			given += bytes
		}
		if p, err := r.places[3].copying(); err != nil || p.Began > 0 && given >= enough {
			return r.places[3], err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("given are %.0f bytes: %w", given, err)
		}
	}
}

// copying is what a node has written down about how far it is.
type copying struct {
	Began uint64
	Ready bool
}

func (n *node) copying() (copying, error) {
	var c copying
	err := statefile.Load(n.dir, "move", &c)
	if errors.Is(err, os.ErrNotExist) {
		return copying{}, nil
	}
	return c, err
}

// stillCopies returns an error if a node, which was killed, had copied all it is to own:
// then that came too late.
func (n *node) stillCopies() error {
	c, err := n.copying()
	if err == nil && c.Ready {
		return fmt.Errorf("%s was not copying any more", n)
	}
	return err
}

func killAllWhileCopying(ctx context.Context, r *rig) error {
	receiver, err := joinHalfway(ctx, r)
	if err != nil {
		return err
	}
	if err := r.each((*node).kill); err != nil {
		return err
	}
	if err := errors.Join(receiver.stillCopies(), sleep(ctx, time.Second)); err != nil {
		return err
	}
	return r.each((*node).start)
}

func killReceiver(ctx context.Context, r *rig) error {
	receiver, err := joinHalfway(ctx, r)
	if err != nil {
		return err
	}
	if err := receiver.kill(); err != nil {
		return err
	}
	if err := errors.Join(receiver.stillCopies(), sleep(ctx, 5*time.Second)); err != nil {
		return err
	}
	return receiver.start()
}
