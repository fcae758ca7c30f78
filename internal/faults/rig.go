//go:build linux

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/faults/wire"
)

const (
	httpPort   = 9080
	rpcPort    = 9081
	gossipPort = 7946
)

// rig is a cluster of processes, each in a network namespace.
type rig struct {
	dir    string
	wire   *wire.Switch
	subnet netip.Prefix
	// places are all there is room for, in the order of their numbers; nodes are those that
	// are to be members now, at first the founders.
	places   []*node
	nodes    []*node
	founders int
	// epoch is that of the last command that the cluster agreed on.
	epoch  uint64
	client *load.Client
	// secrets are what all is encrypted by, nil if nothing is.
	secrets *secrets
	// flags are for all nodes, beside those that say where they are.
	flags []string
	// undo takes down what was set up, the last first.
	undo []func() error
}

// Available tells why rigs cannot be built on this machine, or returns nil.
func Available() error {
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("needs the command ip (iproute2)")
	}
	return wire.Available()
}

// newRig sets up the network and the directories of founders and of nodes that may come
// later, and starts nothing. The caller closes the rig, after an error too.
func newRig(ctx context.Context, dir, program string, founders, spares int) (*rig, error) {
	r := &rig{dir: dir, wire: wire.New(), client: load.NewClient(load.Papers{}), founders: founders}
	r.undo = append(r.undo, r.wire.Close)
	var err error
	if r.subnet, err = freeSubnet(); err != nil {
		return r, err
	}
	// The harness has an address in the network too, to be a client.
	if err := r.plug(ctx, "", r.address(254)); err != nil {
		return r, err
	}
	for i := range founders + spares {
		n := &node{
			rig: r, number: i + 1, program: program, address: r.address(i + 1),
			netns: fmt.Sprintf("%s%d-%d", netnsPrefix, os.Getpid(), i+1),
			dir:   filepath.Join(dir, fmt.Sprintf("node-%d", i+1)),
			log:   filepath.Join(dir, fmt.Sprintf("node-%d.log", i+1)),
		}
		r.places = append(r.places, n)
		if err := r.addNode(ctx, n); err != nil {
			return r, err
		}
	}
	for _, n := range r.places[:founders] {
		r.admit(n)
	}
	return r, nil
}

func (r *rig) addNode(ctx context.Context, n *node) error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	if err := run(ctx, "ip", "netns", "add", n.netns); err != nil {
		return err
	}
	r.undo = append(r.undo, func() error { return deleteNetns(n.netns) }, n.close)
	if err := run(ctx, "ip", "-n", n.netns, "link", "set", "lo", "up"); err != nil {
		return err
	}
	return r.plug(ctx, n.netns, n.address)
}

// plug gives a namespace, or this one if the name is empty, an address in the network.
func (r *rig) plug(ctx context.Context, netns string, address netip.Addr) error {
	last := address.As4()[3]
	device := fmt.Sprintf("sf%d-%d", os.Getpid()%1_000_000, last)
	if err := r.wire.Attach(device, address); err != nil {
		return err
	}
	ip := []string{"ip"}
	if netns != "" {
		if err := run(ctx, "ip", "link", "set", device, "netns", netns); err != nil {
			return err
		}
		ip = append(ip, "-n", netns)
	}
	if err := run(ctx, append(ip, "addr", "add", fmt.Sprintf("%s/%d", address, r.subnet.Bits()), "dev", device)...); err != nil {
		return err
	}
	return run(ctx, append(ip, "link", "set", device, "mtu", strconv.Itoa(wire.MTU), "up")...)
}

func (r *rig) address(last int) netip.Addr {
	a := r.subnet.Addr().As4()
	a[3] = byte(last)
	return netip.AddrFrom4(a)
}

// addresses are those of the nodes.
func (r *rig) addresses() []netip.Addr {
	var all []netip.Addr
	for _, n := range r.nodes {
		all = append(all, n.address)
	}
	return all
}

// freeSubnet finds a network in 198.18.0.0/15, which is for tests of networks, that no
// interface of this machine is in.
func freeSubnet() (netip.Prefix, error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for i := range 256 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(os.Getpid() + i), 0}), 24)
		taken := false
		for _, a := range used {
			other, err := netip.ParsePrefix(a.String())
			taken = taken || err == nil && prefix.Overlaps(other)
		}
		if !taken {
			return prefix, nil
		}
	}
	return netip.Prefix{}, errors.New("no free network in 198.18.0.0/16")
}

// start starts all nodes and waits until they are one cluster.
func (r *rig) start(ctx context.Context) error {
	for _, n := range r.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	_, err := r.converge(ctx, time.Minute)
	return err
}

// each runs f for all nodes, and returns the first error.
func (r *rig) each(f func(*node) error) error {
	for _, n := range r.nodes {
		if err := f(n); err != nil {
			return fmt.Errorf("node %d: %w", n.number, err)
		}
	}
	return nil
}

// close kills what runs and takes everything down.
func (r *rig) close() error {
	r.client.Close()
	var err error
	for i := len(r.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, r.undo[i]())
	}
	r.undo = nil
	return err
}

// run runs a short command to its end. It outlives a canceled ctx, so that nothing is
// left half done.
func run(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// netnsPrefix begins the names of our namespaces; the process's ID follows.
const netnsPrefix = "starling-faults-"

func deleteNetns(name string) error {
	return run(context.Background(), "ip", "netns", "del", name)
}

// Sweep removes the namespaces and directories of runs that were killed.
func Sweep(work string) error {
	names, err := filepath.Glob("/run/netns/" + netnsPrefix + "*")
	if err != nil {
		return err
	}
	var failed error
	for _, name := range names {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(name), netnsPrefix), "-")
		if pid, err := strconv.Atoi(owner); err == nil && !alive(pid) {
			failed = errors.Join(failed, deleteNetns(filepath.Base(name)))
		}
	}
	dirs, err := filepath.Glob(filepath.Join(work, netnsPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), netnsPrefix)); err == nil && !alive(pid) {
			failed = errors.Join(failed, removeWork(dir))
		}
	}
	return failed
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// WorkDir makes the directory of this run below work, for data and mounts.
func WorkDir(work string) (dir string, remove func() error, err error) {
	dir = filepath.Join(work, netnsPrefix+strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	return dir, func() error { return removeWork(dir) }, nil
}

// removeWork unmounts what is mounted below a directory, and removes it.
func removeWork(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			err = errors.Join(err, unmount(f[1]))
		}
	}
	if err != nil {
		return err // and not what is mounted there
	}
	return os.RemoveAll(dir)
}

func unmount(path string) error {
	if err := syscall.Unmount(path, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
