//go:build linux

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/freeport"
)

// patience is how long servers may take to start.
const patience = 2 * time.Minute

// Processes says what to run on this machine.
type Processes struct {
	// Program is the path of a binary.
	Program string
	// Dir is where data and logs are kept; it is made.
	Dir string
	// Nodes is how many, Copies how many of them hold each series.
	Nodes, Copies int
	// Args are flags beside those that connect the nodes.
	Args []string
}

// Nodes starts nodes of Starling on 127.0.0.1 and waits until they are a cluster. It has to be
// called from the main goroutine, locked to its thread: the nodes end with that.
func Nodes(ctx context.Context, p Processes) (*Cluster, error) {
	c := &Cluster{Copies: p.Copies}
	c.logs = func() string { return tails(p.Dir) }
	addresses, err := freeport.Addresses(3 * p.Nodes)
	if err != nil {
		return nil, err
	}
	var join []string
	for i := range p.Nodes {
		join = append(join, "--cluster.join="+addresses[3*i+2])
	}
	for i := range p.Nodes {
		a := addresses[3*i:]
		s := &Server{Name: fmt.Sprintf("node-%d", i+1), URL: "http://" + a[0], Dir: filepath.Join(p.Dir, fmt.Sprintf("node-%d", i+1))}
		args := []string{
			"--storage.tsdb.path=" + s.Dir, "--web.listen-address=" + a[0], "--cluster.rpc-address=" + a[1],
			"--cluster.gossip-address=" + a[2], "--cluster.advertise-host=127.0.0.1",
			"--cluster.replication-factor=" + strconv.Itoa(p.Copies),
		}
		if p.Nodes > 1 {
			args = append(append(args, join...), "--cluster.bootstrap-expect="+strconv.Itoa(p.Nodes))
		}
		if err := c.start(s, p.Program, append(args, p.Args...)); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	if err := c.together(ctx); err != nil {
		return nil, errors.Join(err, errors.New(c.Logs()), c.Stop())
	}
	return c, nil
}

// AtOnce has nodes cut blocks as soon as they are due, for loads of hours that take minutes.
const AtOnce = "--storage.tsdb.delayed-compaction.max-percent=0"

// prometheusConfig takes late samples as the nodes do.
const prometheusConfig = "storage:\n  tsdb:\n    out_of_order_time_window: 3h\n"

// Prometheus starts one that receives by remote write, as the nodes do, and scrapes nothing.
func Prometheus(ctx context.Context, p Processes) (*Cluster, error) {
	c := &Cluster{Copies: 1}
	c.logs = func() string { return tails(p.Dir) }
	addresses, err := freeport.Addresses(1)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(p.Dir, "prometheus.yml")
	if err := errors.Join(os.MkdirAll(p.Dir, 0o777), os.WriteFile(config, []byte(prometheusConfig), 0o666)); err != nil {
		return nil, err
	}
	s := &Server{Name: "prometheus", URL: "http://" + addresses[0], Dir: filepath.Join(p.Dir, "prometheus")}
	args := []string{
		"--config.file=" + config, "--storage.tsdb.path=" + s.Dir, "--web.listen-address=" + addresses[0],
		"--web.enable-remote-write-receiver", "--enable-feature=native-histograms",
	}
	if err := c.start(s, p.Program, args); err != nil {
		return nil, err
	}
	if err := s.Ready(ctx, patience); err != nil {
		return nil, errors.Join(err, errors.New(c.Logs()), c.Stop())
	}
	return c, nil
}

// start runs a process. Its log lies beside its directory.
func (c *Cluster) start(s *Server, program string, args []string) error {
	if err := os.MkdirAll(s.Dir, 0o777); err != nil {
		return err
	}
	s.Log = s.Dir + ".log"
	log, err := os.Create(s.Log)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "GODEBUG=gctrace=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.PID = cmd.Process.Pid
	c.Servers = append(c.Servers, s)
	c.stop = append(c.stop, func() error {
		// Its data is not looked at any more, so there is nothing to be orderly about.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return os.RemoveAll(s.Dir)
	})
	return nil
}

// together waits until all nodes serve and are one cluster.
func (c *Cluster) together(ctx context.Context) error {
	for _, s := range c.Servers {
		if err := s.Ready(ctx, patience); err != nil {
			return err
		}
	}
	for _, s := range c.Servers {
		err := Await(ctx, fmt.Sprintf("%s knows %d nodes", s.Name, len(c.Servers)), patience, func(ctx context.Context) error {
			var answer struct{ Data api.ClusterStatus }
			b, err := s.get(ctx, "/api/v1/cluster")
			if err != nil {
				return err
			}
			if err := json.Unmarshal(b, &answer); err != nil {
				return err
			}
			return whole(answer.Data, len(c.Servers))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// whole returns an error unless all nodes are alive, at one epoch, and own a share.
func whole(s api.ClusterStatus, nodes int) error {
	alive := 0
	for _, n := range s.Nodes {
		if n.State == "alive" && n.Epoch == s.Epoch && (n.Slot != nil || nodes == 1) {
			alive++
		}
	}
	if alive != nodes || s.Transition != nil {
		return fmt.Errorf("the cluster is %+v", s)
	}
	return nil
}

// tails are the ends of all logs in a directory, without what the garbage collector wrote.
func tails(dir string) string {
	var text strings.Builder
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log")) // the pattern is good
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var lines []string
		for line := range strings.Lines(string(b)) {
			if collection(line) == 0 {
				lines = append(lines, line)
			}
		}
		const most = 20
		fmt.Fprintf(&text, "%s:\n%s", filepath.Base(path), strings.Join(lines[max(0, len(lines)-most):], ""))
	}
	return text.String()
}
