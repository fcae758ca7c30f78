//go:build linux

package faults

import (
	"context"
	"time"
)

// transitions are the rows in which the cluster changes.
func transitions() []Row {
	return []Row{
		{Name: "three grow to five, two leave", Short: true, Spares: 2, harm: growAndShrink},
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
