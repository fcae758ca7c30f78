//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/faults/overlay"
)

// Mistake is a change of the sources that breaks a guarantee, and what finds it: the tests
// of one package, or rows of the suite.
type Mistake struct {
	Name string
	// Breaks is the number of the guarantee.
	Breaks  int
	changes []overlay.Change
	// tests and of are a regular expression and the package of the tests that find it.
	tests, of string
	// row is the fault under which the suite finds it otherwise, and finds a part of what
	// the suite says then.
	row, finds string
}

// Caught says what found a mistake.
type Caught struct {
	Mistake Mistake
	// By is empty if nothing did.
	By   string
	Took time.Duration
}

// Find builds a mistake and runs what should find it. An error says that this could not
// be done, which is not the same as finding it.
func Find(ctx context.Context, c Config, b *Builder, m Mistake) (Caught, error) {
	start := time.Now()
	name := "mistake-" + strings.ReplaceAll(m.Name, " ", "-")
	find := findByRow
	if m.tests != "" {
		find = findByTest
	}
	by, err := find(ctx, c, b, m, name)
	if err != nil {
		return Caught{}, fmt.Errorf("mistake %q: %w", m.Name, err)
	}
	return Caught{Mistake: m, By: by, Took: time.Since(start)}, nil
}

// failedTest matches tests that fail, and those that hang.
var failedTest = regexp.MustCompile(`(?m)^--- FAIL: (\S+)|^\s*running tests:\n\s+(\S+)`)

// findByTest returns the names of the tests that fail with the mistake.
func findByTest(ctx context.Context, _ Config, b *Builder, m Mistake, name string) (string, error) {
	flags, err := b.overlay(ctx, name, m.changes)
	if err != nil {
		return "", err
	}
	args := append([]string{"test", "-count=1", "-timeout=1m", "-run=" + m.tests}, flags...)
	out, err := b.golang(ctx, append(args, "./"+m.of)...)
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(out, "no tests to run"):
		return "", fmt.Errorf("%s has no test %s", m.of, m.tests)
	case err == nil:
		return "", nil
	case !errors.As(err, &exit):
		return "", err
	}
	found := failedTest.FindAllStringSubmatch(out, -1)
	if found == nil {
		return "", err // it does not compile, or ended otherwise
	}
	var tests []string
	for _, f := range found {
		if name := f[1] + f[2]; !slices.Contains(tests, name) {
			tests = append(tests, name)
		}
	}
	return strings.Join(tests, ", ") + " of " + m.of, nil
}

// findByRow returns what the row reports of a build with the mistake.
func findByRow(ctx context.Context, c Config, b *Builder, m Mistake, name string) (string, error) {
	rows := Rows()
	i := slices.IndexFunc(rows, func(r Row) bool { return r.Name == m.row })
	if i < 0 {
		return "", fmt.Errorf("there is no row %q", m.row)
	}
	c.Program = func(ctx context.Context, injected bool) (string, error) {
		changes := m.changes
		if injected {
			changes = append(Injected(), changes...)
		}
		return b.Program(ctx, name, changes)
	}
	c.Logs = "" // they are expected to fail
	res, err := Run(ctx, c, rows[i])
	err = errors.Join(err, b.forget(name))
	f := slices.IndexFunc(res.Failures, func(f string) bool { return strings.Contains(f, m.finds) })
	if err != nil || f < 0 {
		return "", err
	}
	return fmt.Sprintf("row %q: %s", m.row, load.Excerpt([]byte(res.Failures[f]))), nil
}

// Write writes one line.
func (c Caught) Write(w io.Writer) {
	by := c.By
	if by == "" {
		by = "NOTHING"
	}
	fmt.Fprintf(w, "%-44s breaks %2d, caught by %s (%s)\n", c.Mistake.Name, c.Mistake.Breaks, by, c.Took.Round(time.Second))
}
