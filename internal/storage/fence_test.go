package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestFenceTellsWhyAWriteFailed has the counter of failed writes looked at before the write that failed
// returns, as by another append.
func TestFenceTellsWhyAWriteFailed(t *testing.T) {
	var log strings.Builder
	f := newFence("data", slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "fenced"}, []string{"reason"}))
	failures := &failureCounters{}
	for _, name := range watched() {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name})
		if name == walFailures {
			c.Inc()
		}
		failures.MustRegister(c)
	}
	f.watch(failures)

	if err := f.check(); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "(wal)") {
		t.Errorf("before the write returns: %v", err)
	}
	for _, cause := range []error{syscall.EROFS, errors.New("another one")} {
		if err := f.raise(fmt.Errorf("commit to the TSDB: %w", cause)); !errors.Is(err, syscall.EROFS) {
			t.Errorf("raised for %v: %v", cause, err)
		}
	}
	if err := f.check(); !errors.Is(err, ErrFenced) || !errors.Is(err, syscall.EROFS) {
		t.Errorf("afterwards: %v", err)
	}
	if told := strings.Count(log.String(), syscall.EROFS.Error()); told != 1 || strings.Count(log.String(), "level=ERROR") != 2 {
		t.Errorf("the log tells of it %d times:\n%s", told, &log)
	}
	if len(f.raised) != 1 {
		t.Errorf("the fence was raised %d times", len(f.raised))
	}
}
