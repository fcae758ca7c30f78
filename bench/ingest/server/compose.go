//go:build linux

package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/acceptance/external"
)

// Compose starts the nodes of docker-compose.yml with files laid over it, as a project of
// their own, and waits until they are a cluster. The repository's top is the working
// directory. Stop removes containers, networks and volumes.
func Compose(ctx context.Context, image string, overlays ...string) (*Cluster, error) {
	command := external.Compose(ctx)
	if len(command) == 0 {
		return nil, errors.New("-compose: neither `docker compose` nor `docker-compose` runs; STARLING_COMPOSE can name one")
	}
	p := &project{name: fmt.Sprintf("starling-bench-%d", os.Getpid())}
	p.env = []string{"STARLING_IMAGE=" + image, "STARLING_1_PORT=0", "STARLING_2_PORT=0", "STARLING_3_PORT=0"}
	p.command = append(command, "-p", p.name, "-f", "docker-compose.yml")
	for _, file := range overlays {
		p.command = append(p.command, "-f", file)
	}
	const nodes = 3
	c := &Cluster{Copies: nodes, logs: p.logs, stop: []func() error{p.down}}
	fail := func(err error) (*Cluster, error) { return nil, errors.Join(err, errors.New(c.Logs()), c.Stop()) }
	services := []string{"starling-1", "starling-2", "starling-3"}
	if _, err := p.run(ctx, append(append(p.command[:len(p.command):len(p.command)], "up", "-d", "--no-build"), services...)...); err != nil {
		return fail(err)
	}
	for _, service := range services {
		s, err := p.server(ctx, service)
		if err != nil {
			return fail(err)
		}
		c.Servers = append(c.Servers, s)
	}
	if err := c.together(ctx); err != nil {
		return fail(err)
	}
	return c, nil
}

// project is one set of containers.
type project struct {
	name    string
	env     []string
	command []string
}

func (p *project) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// server finds the container of a service: its process, its published port and its data.
func (p *project) server(ctx context.Context, service string) (*Server, error) {
	id, err := p.run(ctx, "docker", "ps", "-q",
		"--filter", "label=com.docker.compose.project="+p.name, "--filter", "label=com.docker.compose.service="+service)
	if err != nil {
		return nil, err
	}
	if id == "" || strings.Contains(id, "\n") {
		return nil, fmt.Errorf("want one container of %s, found %q", service, id)
	}
	port, err := p.run(ctx, "docker", "port", id, "9080/tcp")
	if err != nil {
		return nil, err
	}
	address, _, _ := strings.Cut(port, "\n")
	state, err := p.run(ctx, "docker", "inspect", "-f", "{{.State.Pid}} {{range .Mounts}}{{.Source}}{{end}}", id)
	if err != nil {
		return nil, err
	}
	pid, dir, _ := strings.Cut(state, " ")
	s := &Server{Name: service, URL: "http://" + address}
	if s.PID, err = strconv.Atoi(pid); err != nil {
		return nil, fmt.Errorf("process of %s: %w", service, err)
	}
	// Engines on another machine, or in a virtual one, have processes and directories that
	// are not seen from here.
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", s.PID)); err != nil {
		s.PID = 0
	}
	if _, err := os.ReadDir(dir); err == nil {
		s.Dir = dir
	}
	return s, nil
}

// down removes everything. It is called when the context of the run may have ended.
func (p *project) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, err := p.run(ctx, append(p.command[:len(p.command):len(p.command)], "down", "--volumes", "--remove-orphans", "--timeout", "5")...)
	return err
}

func (p *project) logs() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := p.run(ctx, append(p.command[:len(p.command):len(p.command)], "logs", "--tail", "20")...)
	if err != nil {
		return err.Error()
	}
	return out
}
