//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/starling-tsdb/starling/bench/proc"
	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/freeport"
)

// node is one process.
type node struct {
	dir               string
	http, rpc, gossip string
	cmd               *exec.Cmd
	client            *load.Client
}

// newNode makes the place of a node.
func newNode(dir string, client *load.Client) (*node, error) {
	a, err := freeport.Addresses(3)
	if err != nil {
		return nil, err
	}
	return &node{dir: dir, http: a[0], rpc: a[1], gossip: a[2], client: client}, os.MkdirAll(dir, 0o777)
}

// start runs the node. Its log lies beside its directory.
func (n *node) start(s settings, seeds []*node, expect int) error {
	args := []string{
		"--storage.tsdb.path=" + n.dir, "--web.listen-address=" + n.http, "--cluster.rpc-address=" + n.rpc,
		"--cluster.gossip-address=" + n.gossip, "--cluster.advertise-host=127.0.0.1",
		"--cluster.bootstrap-expect=" + strconv.Itoa(expect),
	}
	for _, seed := range seeds {
		args = append(args, "--cluster.join="+seed.gossip)
	}
	if s.rate != "" {
		args = append(args, "--cluster.transfer-rate="+s.rate)
	}
	log, err := os.Create(n.dir + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(s.program, args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return n.cmd.Start()
}

// kill ends the process at once. A second time it does nothing.
func (n *node) kill() {
	if n.cmd == nil || n.cmd.Process == nil || n.cmd.ProcessState != nil {
		return
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

// get reads an answer of status 200.
func (n *node) get(ctx context.Context, path string) ([]byte, error) {
	r, err := n.client.Get(ctx, "http://"+n.http+path)
	if err == nil && r.Status != http.StatusOK {
		err = fmt.Errorf("%s answered %d: %s", path, r.Status, load.Excerpt(r.Body))
	}
	return r.Body, err
}

// status is what the node says of the cluster.
func (n *node) status(ctx context.Context) (api.ClusterStatus, error) {
	var s struct{ Data api.ClusterStatus }
	b, err := n.get(ctx, "/api/v1/cluster")
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s.Data, err
}

// command has the cluster agree on a change.
func (n *node) command(ctx context.Context, name string, body api.CommandRequest) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	r, err := n.client.Do(ctx, http.MethodPost, "http://"+n.http+"/api/v1/cluster/"+name, header, text)
	if err == nil && r.Status != http.StatusOK {
		err = fmt.Errorf("%s answered %d: %s", name, r.Status, load.Excerpt(r.Body))
	}
	return err
}

// cpu is what the process has used so far, user and system; 0 if it was killed.
func (n *node) cpu() (time.Duration, error) {
	if n.cmd.ProcessState != nil {
		return 0, nil
	}
	return proc.CPU(n.cmd.Process.Pid)
}

// peak is the most memory that the process had, in bytes.
func (n *node) peak() (int64, error) {
	_, peak, err := proc.Memory(n.cmd.Process.Pid)
	return peak, err
}

// profile writes a CPU profile of some seconds.
func (n *node) profile(ctx context.Context, d time.Duration, path string) error {
	b, err := n.get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(d.Seconds())))
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, b, 0o666))
}
