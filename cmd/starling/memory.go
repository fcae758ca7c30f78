package main

import (
	"fmt"
	"log/slog"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// limitMemory has the garbage collector work harder as the process nears what its
// container or machine gives it, instead of running into that. The environment variable
// GOMEMLIMIT wins.
func (cl *commandLine) limitMemory(log *slog.Logger) error {
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
