package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/acceptance/external"
	"github.com/starling-tsdb/starling/internal/freeport"
)

// repository is the top of the source tree, relative to this package.
const repository = "../.."

// requireAcceptance skips the test unless it was asked for.
func requireAcceptance(t *testing.T) {
	t.Helper()
	if asked := os.Getenv("STARLING_ACCEPTANCE"); asked != "1" && asked != long {
		t.Skip("takes minutes and builds Prometheus: set STARLING_ACCEPTANCE=1, or run `make faults`")
	}
}

// long is what STARLING_ACCEPTANCE is set to for the longest tests too.
const long = "long"

// requireLong skips the test unless the longest ones were asked for.
func requireLong(t *testing.T) {
	t.Helper()
	if os.Getenv("STARLING_ACCEPTANCE") != long {
		t.Skip("takes five minutes: set STARLING_ACCEPTANCE=long")
	}
}

// requireContainers skips the test unless it was asked for and an engine answers.
func requireContainers(t *testing.T) {
	t.Helper()
	requireAcceptance(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Version}}").CombinedOutput()
	if err != nil {
		t.Skipf("no container engine answers: docker version: %v: %s", err, bytes.TrimSpace(out))
	}
	if len(external.Compose(ctx)) == 0 {
		t.Skip("no Compose: neither `docker compose` nor `docker-compose` runs; STARLING_COMPOSE can name one")
	}
}

// command describes a program to run to its end.
type command struct {
	dir  string
	env  []string
	args []string
}

// run answers what the program wrote to standard output; on failure the error carries
// what it wrote to standard error.
func (c command) run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(c.args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// mustRun runs a program and ends the test if that fails.
func mustRun(t *testing.T, c command) string {
	t.Helper()
	out, err := c.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// eventually polls until check returns nil, and ends the test with check's last error
// when that takes longer than the given time.
func eventually(t *testing.T, within time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	ticks := time.NewTicker(250 * time.Millisecond)
	defer ticks.Stop()
	start := time.Now()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			t.Logf("%s after %s", what, time.Since(start).Round(100*time.Millisecond))
			return
		}
		// The end of the wait itself says less than what was missing before it.
		if last == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s: %v", within, what, last)
		case <-ticks.C:
		}
	}
}

// pause lets the system run for a while under whatever was started.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// freeAddresses answers n addresses, host:port, of the loopback interface.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	addresses, err := freeport.Addresses(n)
	if err != nil {
		t.Fatal(err)
	}
	return addresses
}

// buildGo compiles a package of this repository and answers the path of the program.
func buildGo(t *testing.T, pkg string, env, flags []string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	args := append([]string{"go", "build", "-o", out}, flags...)
	mustRun(t, command{dir: repository, env: env, args: append(args, pkg)})
	return out
}
