// Package kit is what the benchmarks of real processes share.
package kit

import (
	"context"
	"slices"
	"strconv"
	"time"
)

// Pause waits for a time, not at all if it is not positive, or returns why ctx has ended.
func Pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Number writes a number with three digits or so.
func Number(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// Milli writes a duration in milliseconds.
func Milli(d time.Duration) string { return Number(float64(d) / float64(time.Millisecond)) }

// Median is 0 for none, and the mean of the two in the middle for an even number.
func Median[T ~int64 | ~float64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}
