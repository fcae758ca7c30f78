//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/load"
)

// zones are the rows in which nodes lie in zones.
func zones() []Row {
	return []Row{
		{Name: "kill -9 of a zone", Nodes: 6, zones: 3, harm: killZone},
		{Name: "a node changes its zone", Nodes: 6, zones: 3, harm: changeZone},
	}
}

// killZone kills all nodes of the victim's zone at once and starts them again after a while. The
// others may refuse nothing, from the first moment until the zone has caught up.
func killZone(ctx context.Context, r *rig) error {
	var zone, others []*node
	for _, n := range r.nodes {
		if n.zone == r.victim().zone {
			zone = append(zone, n)
		} else {
			others = append(others, n)
		}
	}
	before, err := unavailable(ctx, others)
	if err != nil {
		return err
	}
	for _, n := range zone {
		err = errors.Join(err, n.kill())
	}
	if err := errors.Join(err, sleep(ctx, 12*time.Second)); err != nil {
		return err
	}
	for _, n := range zone {
		err = errors.Join(err, n.start())
	}
	if err != nil {
		return err
	}
	if _, err := r.converge(ctx, convergeTimeout); err != nil {
		return err
	}
	after, err := unavailable(ctx, others)
	if err == nil && after > before {
		err = load.Violationf("the other zones answered 503 %g times while a zone was down", after-before)
	}
	return err
}

// unavailable is how many requests the nodes have answered with 503.
func unavailable(ctx context.Context, nodes []*node) (float64, error) {
	sum := 0.0
	for _, n := range nodes {
		answered, err := n.metric(ctx, "starling_http_requests_total", `code="503"`)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", n, err)
		}
		sum += answered
	}
	return sum, nil
}

// changeZone has the victim come back in another zone, so that a third of its zone's copies
// and more move.
func changeZone(ctx context.Context, r *rig) error {
	n := r.victim()
	if err := n.stop(); err != nil {
		return err
	}
	n.zone = r.nodes[0].zone
	if err := n.start(); err != nil {
		return err
	}
	// The table of the cluster says when it has begun.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		began, err := r.nodes[0].metric(ctx, "starling_transition_began_epoch")
		if err != nil || began > 0 {
			return err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return load.Violationf("nothing moved within a minute after a node came back in another zone")
		}
	}
}
