package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// cacheDir keeps what takes minutes to build between runs.
func cacheDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("STARLING_ACCEPTANCE_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatalf("no cache directory, set STARLING_ACCEPTANCE_CACHE: %v", err)
		}
		dir = filepath.Join(user, "starling-acceptance")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildPrometheus compiles a program of the Prometheus release that go.mod names,
// prometheus or promtool, and answers its path. `go install` refuses a module with replace directives, and its
// go.work names directories that a module does not carry, so it is built in a copy of
// the module. Left out, by Prometheus's own build tag, are service discovery mechanisms
// and their dependencies; without the tag builtinassets there is no web interface.
func buildPrometheus(t *testing.T, name string) string {
	t.Helper()
	const module = "github.com/prometheus/prometheus"
	var m struct{ Version, Dir string }
	// The version first: `go mod download` without one would also be given `@latest`.
	m.Version = mustRun(t, command{dir: repository, args: []string{"go", "list", "-m", "-f", "{{.Version}}", module}})
	out := mustRun(t, command{dir: repository, args: []string{"go", "mod", "download", "-json", module + "@" + m.Version}})
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("go mod download -json: %v", err)
	}

	program := filepath.Join(cacheDir(t), fmt.Sprintf("%s-%s-%s-%s", name, m.Version, runtime.Version(), runtime.GOARCH))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	start := time.Now()
	source := filepath.Join(t.TempDir(), "prometheus")
	if err := os.CopyFS(source, os.DirFS(m.Dir)); err != nil {
		t.Fatal(err)
	}
	version, err := os.ReadFile(filepath.Join(source, "VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(t.TempDir(), name)
	mustRun(t, command{
		dir: source,
		env: []string{"GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0", "GOOS=linux"},
		args: []string{
			"go", "build", "-trimpath", "-buildvcs=false", "-tags", "netgo,remove_all_sd",
			"-ldflags", "-s -w -X github.com/prometheus/common/version.Version=" + strings.TrimSpace(string(version)),
			"-o", unfinished, "./cmd/" + name,
		},
	})
	if err := copyProgram(unfinished, program); err != nil {
		t.Fatal(err)
	}
	t.Logf("built %s in %s", filepath.Base(program), time.Since(start).Round(time.Second))
	return program
}

// copyProgram puts a finished program in its place in one step, across file systems too.
func copyProgram(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".tmp", content, 0o755); err != nil {
		return err
	}
	return os.Rename(to+".tmp", to)
}

// buildImage makes an image that holds one static program and nothing else. The tag
// belongs to this run; the image is removed with the test.
func buildImage(t *testing.T, tag, program string) string {
	t.Helper()
	dir := t.TempDir()
	if err := copyProgram(program, filepath.Join(dir, "program")); err != nil {
		t.Fatal(err)
	}
	dockerfile := "FROM scratch\nCOPY program /program\nENTRYPOINT [\"/program\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	return dockerBuild(t, tag, dir)
}

// buildStarlingImage does what `make image` does, under a tag of this run.
func buildStarlingImage(t *testing.T, tag string) string {
	t.Helper()
	mustRun(t, command{dir: repository, args: []string{"make", "image", "IMAGE=" + tag}})
	removeImage(t, tag)
	return tag
}

// buildWorkloadImage packs what the Prometheus scrape. It is compiled with the settings
// of `make image`, whose packages it shares.
func buildWorkloadImage(t *testing.T, tag string) string {
	t.Helper()
	static := []string{"CGO_ENABLED=0", "GOOS=linux"}
	return buildImage(t, tag, buildGo(t, "./internal/acceptance/workload", static, []string{"-trimpath"}))
}

func dockerBuild(t *testing.T, tag, dir string) string {
	t.Helper()
	mustRun(t, command{args: []string{"docker", "build", "--network", "none", "-q", "-t", tag, dir}})
	removeImage(t, tag)
	return tag
}
