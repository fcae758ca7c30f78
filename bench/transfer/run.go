//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/bench/proc"
	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/faults/load"
)

const (
	nodes = 3
	// together is how long a cluster may take to be one, without copying.
	together = 2 * time.Minute
	// settle is how long the load runs before it is measured.
	settle = 5 * time.Second
	// profiled is for how long profiles are taken.
	profiled = time.Minute
)

// run is one measurement.
type run struct {
	settings
	data   *data
	dir    string
	number int

	client *load.Client
	nodes  []*node
	// load is the least of a CPU that the load takes of both givers, measured in phases in
	// which nothing is copied: the nodes' own upkeep comes on top now and then.
	load float64
}

// usage is what the nodes have used up to a time.
type usage struct {
	at               time.Time
	givers, receiver time.Duration
	// others is what all other processes of the machine have used, but for this one.
	others time.Duration
}

// rate is the part of a CPU that the givers have used since an earlier time.
func (u usage) rate(since usage) float64 {
	return (u.givers - since.givers).Seconds() / u.at.Sub(since.at).Seconds()
}

// phase is a part of a run with a load.
type phase struct {
	name string
	*latencies
}

// result is what one run has measured.
type result struct {
	floor, floorCPU time.Duration
	// dead is how long gossip took to call the lost node dead; whole how long after the
	// resumption of copying there were three copies of everything.
	dead, whole time.Duration
	// givers and receiver are CPU time while copying, the givers' without what the load costs.
	givers, receiver time.Duration
	// others is the part of the machine's CPUs, from 0 to 1, that went to other programs.
	others float64
	peak   int64 // memory of the receiver
	phases []phase
}

func (r *run) progress(format string, args ...any) {
	progress("run %d: %s", r.number, fmt.Sprintf(format, args...))
}

// progress replaces the last line of progress.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "\r\033[K%s %s", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// measure runs a cluster, takes a node away and brings in another.
func (r *run) measure(ctx context.Context) (result result, err error) {
	r.client, r.load = load.NewClient(load.Papers{}), math.Inf(1)
	ctx, stop := context.WithCancel(ctx)
	var c *clients
	defer func() {
		stop()
		if c != nil {
			c.wg.Wait()
		}
		for _, n := range r.nodes {
			n.kill()
		}
		r.client.Close()
		if err != nil {
			r.showLogs()
		}
		err = errors.Join(err, os.RemoveAll(r.dir))
		fmt.Fprintln(os.Stderr)
	}()
	if err := os.MkdirAll(r.dir, 0o777); err != nil {
		return result, err
	}
	r.progress("copying %d MB to a file", r.data.bytes/1e6)
	if result.floor, result.floorCPU, err = r.data.copyAll(ctx, filepath.Join(r.dir, "copy")); err != nil {
		return result, err
	}
	if _, err := r.data.forget(); err != nil {
		return result, err
	}
	if err := r.found(ctx); err != nil {
		return result, err
	}
	c = use(ctx, r.nodes[:nodes-1], r.data)
	return result, r.lose(ctx, c, &result)
}

// found starts a cluster whose nodes hold the data.
func (r *run) found(ctx context.Context) error {
	for i := range nodes {
		n, err := newNode(filepath.Join(r.dir, fmt.Sprintf("node-%d", i+1)), r.client)
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, n)
		if err := r.data.link(n.dir); err != nil {
			return err
		}
	}
	for _, n := range r.nodes {
		if err := n.start(r.settings, r.nodes, nodes); err != nil {
			return err
		}
	}
	return r.await(ctx, "a cluster", together, func(s api.ClusterStatus) bool { return whole(s) })
}

// whole tells whether three nodes are alive, at one epoch and hold all they own.
func whole(s api.ClusterStatus) bool {
	alive := 0
	for _, n := range s.Nodes {
		if n.Slot != nil && n.State == "alive" && n.Epoch == s.Epoch {
			alive++
		}
	}
	return alive == nodes && len(s.Slots) >= nodes && s.Transition == nil && s.Waiting == 0 && len(s.Gaps) == 0
}

// await polls the first node until ok holds, and shows how far copying is.
func (r *run) await(ctx context.Context, what string, limit time.Duration, ok func(api.ClusterStatus) bool) error {
	start := time.Now()
	for {
		s, err := r.nodes[0].status(ctx)
		if err == nil && ok(s) {
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case limit > 0 && time.Since(start) > limit:
			return errors.Join(fmt.Errorf("after %s still not: %s; the cluster is %+v", limit, what, s), err)
		}
		r.progress("%.0fs: %s%s", time.Since(start).Seconds(), what, copying(s))
		if err := kit.Pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// copying describes how far the nodes are that copy.
func copying(s api.ClusterStatus) (text string) {
	if s.Transition == nil {
		return ""
	}
	for _, c := range s.Transition.Copying {
		if !c.Ready {
			text += fmt.Sprintf(", %.0f%%, %.1fM samples, %.2fM/s", 100*c.Done, float64(c.Samples)/1e6, c.SamplesPerSecond/1e6)
		}
	}
	return text
}

// used sums up the CPU time of the two that stay, that of the last node, and of all else.
func (r *run) used() (u usage, err error) {
	u.at = time.Now()
	all, err := proc.MachineCPU()
	for i, n := range r.nodes {
		cpu, failed := n.cpu()
		err = errors.Join(err, failed)
		if i < nodes-1 {
			u.givers += cpu
		} else {
			u.receiver = cpu
		}
	}
	u.others = all - u.givers - u.receiver - proc.OwnCPU()
	return u, err
}

// quiet measures a phase in which nothing is copied.
func (r *run) quiet(ctx context.Context, c *clients, name string, result *result) error {
	if err := kit.Pause(ctx, settle); err != nil {
		return err
	}
	c.next()
	r.progress("measuring %s", name)
	before, err := r.used()
	if err != nil {
		return err
	}
	if err := kit.Pause(ctx, r.each); err != nil {
		return err
	}
	result.phases = append(result.phases, phase{name, c.next()})
	after, err := r.used()
	r.load = min(r.load, after.rate(before))
	return err
}

// lose takes the last node and its data away, and brings in another in its place.
func (r *run) lose(ctx context.Context, c *clients, result *result) error {
	if err := r.quiet(ctx, c, "three nodes", result); err != nil {
		return err
	}
	lost := r.nodes[nodes-1]
	lost.kill()
	start := time.Now()
	if err := os.RemoveAll(lost.dir); err != nil {
		return err
	}
	var lostID string
	err := r.await(ctx, "the lost node is called dead", together, func(s api.ClusterStatus) bool {
		lostID = find(s, "dead", true)
		return lostID != ""
	})
	if err != nil {
		return err
	}
	result.dead = time.Since(start)
	if err := r.quiet(ctx, c, "one node lost", result); err != nil {
		return err
	}
	if err := r.replace(ctx, lostID); err != nil {
		return err
	}
	if err := r.copy(ctx, c, result); err != nil {
		return err
	}
	return r.quiet(ctx, c, "afterwards", result)
}

// find returns the ID of a node in this state, with or without a slot.
func find(s api.ClusterStatus, state string, slot bool) string {
	for _, n := range s.Nodes {
		if n.State == state && (n.Slot != nil) == slot {
			return n.ID
		}
	}
	return ""
}

// replace starts a fresh node that has the slot of the lost one. Copying is held back
// meanwhile: by itself the node would join as a fourth, and begin to copy for that.
func (r *run) replace(ctx context.Context, lost string) error {
	if err := r.nodes[0].command(ctx, "pause", api.CommandRequest{}); err != nil {
		return err
	}
	n, err := newNode(filepath.Join(r.dir, "fresh"), r.client)
	if err != nil {
		return err
	}
	seeds := r.nodes
	r.nodes = append(r.nodes[:nodes-1:nodes-1], n)
	if err := n.start(r.settings, seeds, 0); err != nil {
		return err
	}
	fresh := ""
	err = r.await(ctx, "the fresh node joins", together, func(s api.ClusterStatus) bool {
		if s.Transition == nil {
			return false
		}
		for _, slot := range s.Transition.Slots {
			if slot.Node != "" && !held(s, slot.Node) {
				fresh = slot.Node
			}
		}
		return fresh != ""
	})
	if err != nil {
		return err
	}
	given := true
	return r.nodes[0].command(ctx, "replace", api.CommandRequest{Old: lost, New: fresh, Lost: &given})
}

// held tells whether a node has a slot of the current assignment.
func held(s api.ClusterStatus, id string) bool {
	for _, slot := range s.Slots {
		if slot.Node == id {
			return true
		}
	}
	return false
}

// copy has the fresh node copy, and measures that.
func (r *run) copy(ctx context.Context, c *clients, result *result) error {
	if err := r.quiet(ctx, c, "a fresh node that waits", result); err != nil {
		return err
	}
	before, err := r.used()
	if err != nil {
		return err
	}
	c.next()
	if err := r.nodes[0].command(ctx, "resume", api.CommandRequest{}); err != nil {
		return err
	}
	profiles := r.profile(ctx)
	if err := r.await(ctx, "copying", 0, whole); err != nil {
		return err
	}
	after, err := r.used()
	if err != nil {
		return err
	}
	result.phases = append(result.phases, phase{"copying", c.next()})
	result.account(before, after, r.load)
	if result.peak, err = r.nodes[nodes-1].peak(); err != nil {
		return err
	}
	return errors.Join(r.complete(ctx), <-profiles)
}

// account takes what was used from before to after, less what the load costs the givers. The
// receiver has little of it.
func (r *result) account(before, after usage, load float64) {
	r.whole = after.at.Sub(before.at)
	r.givers = after.givers - before.givers - time.Duration(load*float64(r.whole))
	r.receiver = after.receiver - before.receiver
	r.others = (after.others - before.others).Seconds() / r.whole.Seconds() / float64(runtime.NumCPU())
}

// profile takes profiles, if they are wanted. The channel tells the outcome.
func (r *run) profile(ctx context.Context) <-chan error {
	outcome := make(chan error, nodes)
	if r.profiles == "" {
		outcome <- nil
		return outcome
	}
	go func() {
		receiver := make(chan error)
		go func() {
			receiver <- r.nodes[nodes-1].profile(ctx, profiled, filepath.Join(r.profiles, "receiver.pprof"))
		}()
		err := r.nodes[0].profile(ctx, profiled, filepath.Join(r.profiles, "giver.pprof"))
		outcome <- errors.Join(err, <-receiver)
	}()
	return outcome
}

// complete tells what is missing on the node that copied.
func (r *run) complete(ctx context.Context) error {
	copied, err := r.client.Metric(ctx, "http://"+r.nodes[nodes-1].http, "starling_transition_copied_samples_total")
	if err == nil && copied < float64(r.data.samples) {
		err = fmt.Errorf("only %.0f of %d samples were copied", copied, r.data.samples)
	}
	return err
}

// showLogs prints the end of the log of each node.
func (r *run) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(r.dir, "*.log"))
	for _, path := range logs {
		const most = 3000
		if b, err := os.ReadFile(path); err == nil {
			fmt.Fprintf(os.Stderr, "\n%s:\n%s", filepath.Base(path), b[max(0, len(b)-most):])
		}
	}
}
