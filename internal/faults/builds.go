//go:build linux

package faults

import (
	"bytes"
	"context"
	_ "embed" // for the injected code
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/starling-tsdb/starling/internal/faults/overlay"
)

// Builder compiles the program and changed copies of it.
type Builder struct {
	// Repository is the top of the source tree.
	Repository string
	// Dir is where programs and overlays are written.
	Dir string

	mu    sync.Mutex
	built map[string]string
}

// Program returns the path of a build with some changes; it is built once for each name.
func (b *Builder) Program(ctx context.Context, name string, changes []overlay.Change) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if path, ok := b.built[name]; ok {
		return path, nil
	}
	flags, err := b.overlay(ctx, name, changes)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.Dir, "starling-"+name)
	if _, err := b.golang(ctx, append([]string{"build", "-o", path}, append(flags, "./cmd/starling")...)...); err != nil {
		return "", err
	}
	if b.built == nil {
		b.built = map[string]string{}
	}
	b.built[name] = path
	return path, nil
}

// forget removes a build.
func (b *Builder) forget(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := b.built[name]
	delete(b.built, name)
	return os.Remove(path)
}

// overlay writes changed files and returns the flags that make go use them.
func (b *Builder) overlay(ctx context.Context, name string, changes []overlay.Change) ([]string, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	goroot, err := b.golang(ctx, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	at := overlay.Place{Repository: b.Repository, GOROOT: strings.TrimSpace(goroot)}
	list, err := overlay.Write(filepath.Join(b.Dir, "overlay-"+name), at, changes)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", name, err)
	}
	return []string{"-overlay", list}, nil
}

// golang runs go with the settings of everybody, so that packages come from its cache.
func (b *Builder) golang(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.Repository
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("go %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

//go:embed injected.go.txt
var injectedCode string

// Injected are the changes of the build whose clock can be set and whose syncs can fail.
// They lie beneath the program, in Go's own packages, so that they concern every clock and
// every file of it, and the program has no code for tests.
func Injected() []overlay.Change {
	return []overlay.Change{
		{File: "cmd/starling/injected.go", New: injectedCode},
		{
			File: "GOROOT/src/time/time.go",
			Old:  "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}",
			New:  "\tsec, nsec, mono := runtimeNow()\n\tsec += InjectedSkew.Load()\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}",
		},
		{
			File: "GOROOT/src/time/time.go", Old: "import (\n",
			New: "import (\n\t\"internal/runtime/atomic\"\n",
		},
		{
			File: "GOROOT/src/time/time.go", Old: "type Month int\n",
			New: "type Month int\n\n// InjectedSkew is added to the wall clock, in seconds.\nvar InjectedSkew atomic.Int64\n",
		},
		{
			File: "GOROOT/src/os/file_posix.go", Old: "\tif e := f.pfd.Fsync(); e != nil {\n",
			New: "\tif hook := InjectedSync.Load(); hook != nil {\n\t\tif e := (*hook)(); e != nil {\n\t\t\treturn f.wrapErr(\"sync\", e)\n\t\t}\n\t}\n" +
				"\tif e := f.pfd.Fsync(); e != nil {\n",
		},
		{
			File: "GOROOT/src/os/file_posix.go", Old: "import (\n",
			New: "import (\n\t\"sync/atomic\"\n",
		},
		{
			File: "GOROOT/src/os/file_posix.go", Old: "// Chtimes changes the access",
			New: "// InjectedSync, if set, is called before each sync, and may fail it.\nvar InjectedSync atomic.Pointer[func() error]\n\n// Chtimes changes the access",
		},
	}
}

// controlVariable names the file from which an injected build takes its orders.
const controlVariable = "STARLING_INJECT"

// order tells the node, an injected build, what to do from now on: skew=DURATION,
// sync-delay=DURATION, sync-error=TEXT, or nothing.
func (n *node) order(what string) error {
	next := n.orders() + ".new"
	if err := os.WriteFile(next, []byte(what), 0o644); err != nil {
		return err
	}
	return os.Rename(next, n.orders())
}

func (n *node) orders() string { return n.dir + ".orders" }
