// Package external finds and builds programs of others that acceptance tests and benchmarks
// run beside Starling: a Prometheus of the release that go.mod names, and Compose.
package external

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// cacheDir keeps what takes minutes to build between runs.
func cacheDir() (string, error) {
	dir := os.Getenv("STARLING_ACCEPTANCE_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache directory, set STARLING_ACCEPTANCE_CACHE: %w", err)
		}
		dir = filepath.Join(user, "starling-acceptance")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// Prometheus compiles a program of the Prometheus release that go.mod of the repository
// names, prometheus or promtool, and returns its path; a second time it is there already.
// `go install` refuses a module with replace directives, and its go.work names directories
// that a module does not carry, so it is built in a copy of the module. Left out, by
// Prometheus's own build tag, are service discovery mechanisms and their dependencies;
// without the tag builtinassets there is no web interface.
func Prometheus(ctx context.Context, repository, name string) (program string, err error) {
	const module = "github.com/prometheus/prometheus"
	var m struct{ Version, Dir string }
	// The version first: `go mod download` without one would also be given `@latest`.
	m.Version, err = run(ctx, repository, nil, "go", "list", "-m", "-f", "{{.Version}}", module)
	if err != nil {
		return "", err
	}
	out, err := run(ctx, repository, nil, "go", "mod", "download", "-json", module+"@"+m.Version)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		return "", fmt.Errorf("go mod download -json: %w", err)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	program = filepath.Join(cache, fmt.Sprintf("%s-%s-%s-%s", name, m.Version, runtime.Version(), runtime.GOARCH))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	return program, build(ctx, m.Dir, name, program)
}

// build compiles a program from a copy of a module.
func build(ctx context.Context, module, name, program string) (err error) {
	work, err := os.MkdirTemp("", "starling-"+name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	source := filepath.Join(work, "source")
	if err := os.CopyFS(source, os.DirFS(module)); err != nil {
		return err
	}
	version, err := os.ReadFile(filepath.Join(source, "VERSION"))
	if err != nil {
		return err
	}
	unfinished := filepath.Join(work, name)
	_, err = run(ctx, source, []string{"GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0", "GOOS=linux"},
		"go", "build", "-trimpath", "-buildvcs=false", "-tags", "netgo,remove_all_sd",
		"-ldflags", "-s -w -X github.com/prometheus/common/version.Version="+strings.TrimSpace(string(version)),
		"-o", unfinished, "./cmd/"+name)
	if err != nil {
		return err
	}
	return CopyProgram(unfinished, program)
}

// CopyProgram puts a finished program in its place in one step, across file systems too.
func CopyProgram(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".tmp", content, 0o755); err != nil {
		return err
	}
	return os.Rename(to+".tmp", to)
}

// Compose returns how Compose is called here, nothing if it is not. Both the plugin and the
// older program are in use, and docker-compose.yml is for both; STARLING_COMPOSE can name
// another.
func Compose(ctx context.Context) []string {
	if c := os.Getenv("STARLING_COMPOSE"); c != "" {
		return strings.Fields(c)
	}
	for _, c := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.CommandContext(ctx, c[0], append(c[1:], "version")...).Run() == nil {
			return c
		}
	}
	return nil
}

// run returns what a program wrote to standard output; on failure the error carries what it
// wrote to standard error.
func run(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}
