package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/acceptance/external"
	"github.com/starling-tsdb/starling/internal/faults/overlay"
)

// buildPrometheus compiles a program of the Prometheus release that go.mod names, prometheus
// or promtool, unless an earlier run has, and answers its path.
func buildPrometheus(t *testing.T, name string) string {
	t.Helper()
	start := time.Now()
	program, err := external.Prometheus(t.Context(), repository, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s after %s", filepath.Base(program), time.Since(start).Round(time.Second))
	return program
}

// buildImage makes an image that holds one static program and nothing else. The tag
// belongs to this run; the image is removed with the test.
func buildImage(t *testing.T, tag, program string) string {
	t.Helper()
	dir := t.TempDir()
	if err := external.CopyProgram(program, filepath.Join(dir, "program")); err != nil {
		t.Fatal(err)
	}
	dockerfile := "FROM scratch\nCOPY program /program\nENTRYPOINT [\"/program\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	return dockerBuild(t, tag, dir)
}

// buildStarlingImage does what `make image` does, under a tag of this run, with changes of the
// sources.
func buildStarlingImage(t *testing.T, changes ...overlay.Change) string {
	t.Helper()
	tag := fmt.Sprintf("starling:acceptance-%d", os.Getpid())
	make := command{dir: repository, args: []string{"make", "image", "IMAGE=" + tag}}
	if len(changes) > 0 {
		list, err := overlay.Write(t.TempDir(), overlay.Place{Repository: repository}, changes)
		if err != nil {
			t.Fatal(err)
		}
		make.env = []string{"GOFLAGS=" + os.Getenv("GOFLAGS") + " -overlay=" + list}
	}
	mustRun(t, make)
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
