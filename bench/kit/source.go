package kit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Build builds ./cmd/starling, at the top of the repository, into a file, by the profile that
// make uses.
func Build(ctx context.Context, file string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-pgo", "cmd/starling/starling.pgo", "-o", file, "./cmd/starling")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the program: %w", err)
	}
	return nil
}

// Commit names the sources that are measured, if they are in a repository of Git.
func Commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--tags", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
