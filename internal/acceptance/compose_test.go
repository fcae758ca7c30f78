package acceptance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/acceptance/external"
)

// project is one set of containers with a network of its own.
type project struct {
	name string
	env  []string
	// compose is the command line up to Compose's subcommand.
	compose []string
	// secrets are what the front doors ask for, nil for nothing.
	secrets *secrets
}

// newProject prepares a project of docker-compose.yml with files laid over it; nothing runs
// until up. All of it is removed with the test, after the containers' logs were printed if
// the test failed.
func newProject(t *testing.T, overlays []string, env ...string) *project {
	t.Helper()
	p := &project{name: fmt.Sprintf("starling-acceptance-%d", os.Getpid()), env: env}
	p.compose = append(external.Compose(t.Context()), "-p", p.name, "-f", filepath.Join(repository, "docker-compose.yml"))
	for _, file := range overlays {
		p.compose = append(p.compose, "-f", file)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if t.Failed() {
			p.printLogs(ctx, t)
		}
		down := append(p.compose[:len(p.compose):len(p.compose)], "down", "--volumes", "--remove-orphans", "--timeout", "5")
		if _, err := (command{env: p.env, args: down}).run(ctx); err != nil {
			t.Errorf("removing containers: %v", err)
		}
	})
	return p
}

func (p *project) up(t *testing.T, services ...string) {
	t.Helper()
	args := append(p.compose[:len(p.compose):len(p.compose)], "up", "-d", "--no-build")
	mustRun(t, command{env: p.env, args: append(args, services...)})
}

// container answers the ID of a service's container.
func (p *project) container(t *testing.T, service string) string {
	t.Helper()
	id := mustRun(t, command{args: []string{
		"docker", "ps", "-aq",
		"--filter", "label=com.docker.compose.project=" + p.name,
		"--filter", "label=com.docker.compose.service=" + service,
	}})
	if id == "" || strings.Contains(id, "\n") {
		t.Fatalf("want one container of %s, found %q", service, id)
	}
	return id
}

// docker runs a command of the engine on the container of a service.
func (p *project) docker(t *testing.T, service string, args ...string) string {
	t.Helper()
	return mustRun(t, command{args: append(append([]string{"docker"}, args...), p.container(t, service))})
}

// url answers where a service's port is published on the loopback interface. It may
// change when a container is started again.
func (p *project) url(t *testing.T, service string, port int) string {
	t.Helper()
	out := mustRun(t, command{args: []string{"docker", "port", p.container(t, service), fmt.Sprintf("%d/tcp", port)}})
	address, _, _ := strings.Cut(out, "\n")
	return p.secrets.scheme() + address
}

// printLogs shows the last lines of every container, for whoever reads the failure.
func (p *project) printLogs(ctx context.Context, t *testing.T) {
	args := []string{"docker", "ps", "-a", "--filter", "label=com.docker.compose.project=" + p.name, "--format", "{{.Names}}"}
	names, err := command{args: args}.run(ctx)
	if err != nil {
		t.Logf("listing containers: %v", err)
		return
	}
	for name := range strings.FieldsSeq(names) {
		out, err := exec.CommandContext(ctx, "docker", "logs", "--tail", "60", name).CombinedOutput()
		if err != nil {
			t.Logf("logs of %s: %v", name, err)
		}
		t.Logf("──── %s\n%s", name, out)
	}
}

// removeImage drops a tag when the test ends.
func removeImage(t *testing.T, tag string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := (command{args: []string{"docker", "image", "rm", tag}}).run(ctx); err != nil {
			t.Errorf("removing the image: %v", err)
		}
	})
}
