//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/load"
)

// stopTimeout is how long a node may take to end after SIGTERM.
const stopTimeout = 40 * time.Second

// node is one member: its place and, while it runs, its process. One goroutine controls it.
type node struct {
	rig     *rig
	number  int
	program string
	address netip.Addr
	netns   string
	dir     string
	log     string
	// zone is what the next start says, empty for none.
	zone   string
	member atomic.Bool

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process has ended
	outcome error         // how, once ended is closed
}

// Base is the URL of its HTTP API.
func (n *node) Base() string {
	if n.rig.secrets != nil {
		return "https://" + n.at(httpPort)
	}
	return "http://" + n.at(httpPort)
}

// Member tells whether the load talks to it.
func (n *node) Member() bool { return n.member.Load() }

func (n *node) at(port int) string { return netip.AddrPortFrom(n.address, uint16(port)).String() }

func (n *node) args() []string {
	args := []string{
		"--storage.tsdb.path=" + n.dir,
		"--web.listen-address=" + n.at(httpPort),
		"--cluster.rpc-address=" + n.at(rpcPort),
		"--cluster.gossip-address=" + n.at(gossipPort),
		"--cluster.advertise-host=" + n.address.String(),
		"--cluster.zone=" + n.zone,
	}
	if n.number <= n.rig.founders {
		args = append(args, "--cluster.bootstrap-expect="+strconv.Itoa(n.rig.founders))
	}
	for _, other := range n.rig.nodes {
		args = append(args, "--cluster.join="+other.at(gossipPort))
	}
	if n.rig.secrets != nil {
		args = append(args, n.securedFlags()...)
	}
	return append(args, n.rig.flags...)
}

// start runs the node. Its log is appended to a file.
func (n *node) start() error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// ip executes the program in its place: the process is the node.
	cmd := exec.Command("ip", append([]string{"netns", "exec", n.netns, n.program}, n.args()...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), controlVariable+"="+n.orders())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		// The signal of a parent's death is sent when the thread dies that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			n.outcome = cmd.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd, n.ended = cmd, ended
	return nil
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

func (n *node) signal(s syscall.Signal) error {
	if !n.running() {
		return fmt.Errorf("it does not run: %w", n.outcomeOf())
	}
	return n.cmd.Process.Signal(s)
}

func (n *node) outcomeOf() error {
	if n.outcome == nil {
		return errors.New("exit status 0, or never started")
	}
	return n.outcome
}

// kill ends the process at once.
func (n *node) kill() error {
	if err := n.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-n.ended
	return nil
}

// stop asks the process to end and waits for it. Another status than 0 is a violation.
func (n *node) stop() error {
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-n.ended:
		if n.outcome != nil {
			return load.Violationf("node %d ended with %v after SIGTERM", n.number, n.outcome)
		}
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(load.Violationf("node %d still ran %s after SIGTERM", n.number, stopTimeout), n.kill())
	}
}

func (n *node) pause() error  { return n.signal(syscall.SIGSTOP) }
func (n *node) resume() error { return n.signal(syscall.SIGCONT) }

// close kills the process if it runs.
func (n *node) close() error {
	if !n.running() {
		return nil
	}
	return n.kill()
}

// settled tells why the node does not yet see a whole cluster of that many members without
// open gaps, or is not whole itself, or returns nil.
func (n *node) settled(ctx context.Context, members int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if !n.running() {
		return fmt.Errorf("it ended: %w", n.outcomeOf())
	}
	r, err := n.rig.client.Get(ctx, n.Base()+"/-/ready")
	if err != nil {
		return err
	}
	if r.Status != http.StatusOK {
		return fmt.Errorf("not ready: %s", load.Excerpt(r.Body))
	}
	if err := n.seesAll(ctx, members); err != nil {
		return err
	}
	gaps, err := n.metric(ctx, "starling_gaps_open")
	if err != nil {
		return err
	}
	if gaps != 0 {
		return fmt.Errorf("%g gaps are open", gaps)
	}
	damaged, err := n.metric(ctx, "starling_storage_damaged_ranges")
	if err != nil {
		return err
	}
	if damaged != 0 {
		return fmt.Errorf("%g ranges of time are damaged", damaged)
	}
	return nil
}

func (n *node) seesAll(ctx context.Context, members int) error {
	r, err := n.rig.client.Get(ctx, n.Base()+"/api/v1/cluster")
	if err != nil {
		return err
	}
	var status struct {
		Data struct {
			Epoch      uint64
			Transition any
			Waiting    int
			Nodes      []struct {
				State string
				Slot  *int
				Epoch uint64
			}
		}
	}
	if err := json.Unmarshal(r.Body, &status); err != nil {
		return fmt.Errorf("/api/v1/cluster: %d: %w: %s", r.Status, err, load.Excerpt(r.Body))
	}
	whole := 0
	for _, m := range status.Data.Nodes {
		if m.State == "alive" && m.Slot != nil && m.Epoch == status.Data.Epoch {
			whole++
		}
	}
	if status.Data.Transition != nil || status.Data.Waiting > 0 {
		return errors.New("a transition is under way")
	}
	if status.Data.Epoch < n.rig.epoch {
		return fmt.Errorf("is at epoch %d, agreed is %d", status.Data.Epoch, n.rig.epoch)
	}
	if whole < members || whole > len(n.rig.nodes) {
		return fmt.Errorf("sees %d of %d members, alive and at its epoch", whole, members)
	}
	return nil
}

// metric returns the sum of a metric's series with all of some labels, 0 if there are none.
func (n *node) metric(ctx context.Context, name string, labels ...string) (float64, error) {
	return n.rig.client.Metric(ctx, n.Base(), name, labels...)
}

// converge waits until every node sees the whole cluster, is ready and has no gap open, and
// returns how long that took. That it takes longer than within is a violation.
func (r *rig) converge(ctx context.Context, within time.Duration) (time.Duration, error) {
	const every = 200 * time.Millisecond
	start := time.Now()
	for {
		err := r.each(func(n *node) error { return n.settled(ctx, len(r.nodes)) })
		took := time.Since(start)
		if err == nil {
			return took, nil
		}
		if took > within {
			return took, load.Violationf("the cluster did not come together within %s: %v", within, err)
		}
		if err := sleep(ctx, every); err != nil {
			return took, err
		}
	}
}

// sleep lets time pass in the cluster, which runs in real time.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
