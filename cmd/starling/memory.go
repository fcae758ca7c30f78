package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// gcPercent is what Prometheus sets: most of the memory lives long, so that garbage needs
// less room beside it than the 100% of other programs.
const gcPercent = 75

// limitMemory has the garbage collector work harder as the process nears what its
// container or machine gives it, instead of running into that. The environment variables
// GOMEMLIMIT and GOGC win.
func (cl *commandLine) limitMemory(log *slog.Logger) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if !cl.autoMemLimit {
		return nil
	}
	_, err := memlimit.SetGoMemLimitWithOpts(
		memlimit.WithRatio(cl.memLimitRatio),
		memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)),
		memlimit.WithLogger(log.With("component", "automemlimit")),
	)
	if err != nil {
		return fmt.Errorf("set GOMEMLIMIT: %w", err)
	}
	return nil
}
