//go:build linux

package faults

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/wire"
)

// Rows returns all faults, in the order in which they run. Each is there for 5 to 30
// seconds, and one for two minutes.
func Rows() []Row {
	rows := []Row{
		{Name: "none", Short: true, harm: func(ctx context.Context, _ *rig) error { return sleep(ctx, 10*time.Second) }},
		{Name: "kill -9 of one", Short: true, harm: killOne},
		{Name: "kill -9 of one, then another", Nodes: 5, harm: killTwo},
		{Name: "kill -9 of all", Short: true, harm: killAll},
		{Name: "power loss of all", prepare: onImages, harm: powerLoss},
		{Name: "SIGSTOP for 5 s", Short: true, harm: pauseFor(5 * time.Second)},
		{Name: "SIGSTOP for 30 s", harm: pauseFor(30 * time.Second)},
		{Name: "SIGSTOP for 120 s", harm: pauseFor(120 * time.Second)},
		{Name: "partition", Short: true, harm: partition},
		{Name: "partition in halves", Nodes: 4, harm: partitionInHalves},
		{Name: "one-way partition out", harm: oneWay(func(n *node) []netip.Addr { return n.alone() }, (*node).others)},
		{Name: "one-way partition in", harm: oneWay((*node).others, func(n *node) []netip.Addr { return n.alone() })},
		{Name: "partitions in turn", harm: partitionsInTurn},
		{Name: "30% of gossip lost", Nodes: 5, harm: underRule(25*time.Second, func(*rig) wire.Rule { return wire.Lose(0.3, gossipPort) })},
		{Name: "delay, duplicates, reordering", harm: underRule(25*time.Second, func(r *rig) wire.Rule {
			return wire.Jumble(r.addresses(), 10*time.Millisecond)
		})},
		{Name: "slow syncs on one", Injected: true, harm: injected(20*time.Second, oneNode, "sync-delay=500ms")},
		{Name: "slow syncs on all", Injected: true, harm: injected(20*time.Second, allNodes, "sync-delay=100ms")},
		{Name: "failing syncs on one", Injected: true, harm: injected(10*time.Second, oneNode, "sync-error=input/output error")},
		{Name: "failing syncs on all", Injected: true, harm: injected(10*time.Second, allNodes, "sync-error=input/output error")},
		{Name: "disk full", prepare: onSmallDisk, harm: fillDisk},
		{Name: "read-only file system", prepare: onImages, harm: readOnly},
		{Name: "one of few CPUs", harm: starved(20*time.Second, oneNode, 0.1)},
		{Name: "all of few CPUs", harm: starved(20*time.Second, allNodes, 0.3)},
		{Name: "rolling restart", Short: true, harm: rollingRestart},
		{Name: "disk image of one start ago", harm: olderImage(1)},
		{Name: "disk image of two starts ago", harm: olderImage(2)},
		{Name: "hole in a log", Short: true, harm: damagedLog},
	}
	for _, skew := range []string{"20m", "-20m", "2h", "-2h"} {
		rows = append(rows, Row{
			Name: "clock of one " + signed(skew), Injected: true, harm: injected(15*time.Second, oneNode, "skew="+skew),
		})
	}
	return slices.Concat(rows, zones(), transitions(), rotations())
}

func signed(skew string) string {
	if skew[0] == '-' {
		return skew
	}
	return "+" + skew
}

// victim is the node that most faults strike.
func (r *rig) victim() *node { return r.nodes[len(r.nodes)-1] }

func oneNode(r *rig) []*node  { return []*node{r.victim()} }
func allNodes(r *rig) []*node { return r.nodes }

func (n *node) alone() []netip.Addr { return []netip.Addr{n.address} }

func (n *node) others() []netip.Addr {
	var others []netip.Addr
	for _, o := range n.rig.nodes {
		if o != n {
			others = append(others, o.address)
		}
	}
	return others
}

func killOne(ctx context.Context, r *rig) error { return r.victim().die(ctx, 8*time.Second) }

// die kills the node and starts it again after a while.
func (n *node) die(ctx context.Context, down time.Duration) error {
	if err := n.kill(); err != nil {
		return err
	}
	if err := sleep(ctx, down); err != nil {
		return err
	}
	return n.start()
}

func killTwo(ctx context.Context, r *rig) error {
	if err := r.nodes[1].die(ctx, 6*time.Second); err != nil {
		return err
	}
	if _, err := r.converge(ctx, convergeTimeout); err != nil {
		return err
	}
	return r.nodes[2].die(ctx, 6*time.Second)
}

func killAll(ctx context.Context, r *rig) error {
	if err := r.each((*node).kill); err != nil {
		return err
	}
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	return r.each((*node).start)
}

func pauseFor(d time.Duration) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		if err := r.victim().pause(); err != nil {
			return err
		}
		return errors.Join(sleep(ctx, d), r.victim().resume())
	}
}

// underRule lets the network follow a rule for a while.
func underRule(d time.Duration, rule func(*rig) wire.Rule) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		r.wire.Set(rule(r))
		defer r.wire.Set(nil)
		return sleep(ctx, d)
	}
}

// apart cuts both ways between two groups.
func apart(a, b []netip.Addr) wire.Rule { return wire.Both(wire.Cut(a, b), wire.Cut(b, a)) }

func partition(ctx context.Context, r *rig) error {
	return underRule(20*time.Second, func(r *rig) wire.Rule {
		return apart(r.victim().alone(), r.victim().others())
	})(ctx, r)
}

func partitionInHalves(ctx context.Context, r *rig) error {
	return underRule(25*time.Second, func(r *rig) wire.Rule {
		all, half := r.addresses(), len(r.nodes)/2
		return apart(all[:half], all[half:])
	})(ctx, r)
}

func oneWay(from, to func(*node) []netip.Addr) func(context.Context, *rig) error {
	return underRule(20*time.Second, func(r *rig) wire.Rule { return wire.Cut(from(r.victim()), to(r.victim())) })
}

// partitionsInTurn cuts off one node after the other, without a pause between: what the
// first missed, the second has to hand over to it, perhaps while it misses more itself.
func partitionsInTurn(ctx context.Context, r *rig) error {
	defer r.wire.Set(nil)
	for round := range 6 {
		n := r.nodes[round%len(r.nodes)]
		r.wire.Set(apart(n.alone(), n.others()))
		if err := sleep(ctx, 4*time.Second); err != nil {
			return err
		}
		r.wire.Set(nil)
		if err := sleep(ctx, time.Second/2); err != nil {
			return err
		}
	}
	return nil
}

// injected gives nodes an order of the injected build for a while.
func injected(d time.Duration, which func(*rig) []*node, order string) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		for _, n := range which(r) {
			if err := n.order(order); err != nil {
				return err
			}
		}
		err := sleep(ctx, d)
		for _, n := range which(r) {
			err = errors.Join(err, n.order(""))
		}
		return err
	}
}

// starved lets nodes run for a share of the time only.
func starved(d time.Duration, which func(*rig) []*node, share float64) func(context.Context, *rig) error {
	const turn = 100 * time.Millisecond
	running := time.Duration(share * float64(turn))
	return func(ctx context.Context, r *rig) error {
		for end := time.Now().Add(d); time.Now().Before(end); {
			for _, n := range which(r) {
				if err := n.pause(); err != nil {
					return err
				}
			}
			err := sleep(ctx, turn-running)
			for _, n := range which(r) {
				err = errors.Join(err, n.resume())
			}
			if err := errors.Join(err, sleep(ctx, running)); err != nil {
				return err
			}
		}
		return nil
	}
}

func rollingRestart(ctx context.Context, r *rig) error {
	for _, n := range r.nodes {
		if err := n.stop(); err != nil {
			return err
		}
		if err := n.start(); err != nil {
			return err
		}
		if _, err := r.converge(ctx, convergeTimeout); err != nil {
			return err
		}
	}
	return nil
}
