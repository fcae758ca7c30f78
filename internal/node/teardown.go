package node

import (
	"errors"
	"fmt"
	"log/slog"
)

// teardown is a stack of named steps, run in reverse of the order in which they were added.
type teardown struct {
	steps []teardownStep
}

type teardownStep struct {
	name string
	stop func() error
}

func (t *teardown) add(name string, stop func() error) {
	t.steps = append(t.steps, teardownStep{name, stop})
}

// run stops everything, whatever fails, and joins what failed.
func (t *teardown) run(logger *slog.Logger) error {
	var errs []error
	for i := len(t.steps) - 1; i >= 0; i-- {
		step := t.steps[i]
		logger.Debug("Stopping", "part", step.name)
		if err := step.stop(); err != nil {
			errs = append(errs, fmt.Errorf("stopping %s: %w", step.name, err))
		}
	}
	t.steps = nil
	return errors.Join(errs...)
}
