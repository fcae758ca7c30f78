// Package readable is how numbers, times and what nodes say of the cluster are put into words,
// the same on terminals and on the page.
package readable

import (
	"fmt"
	"time"
)

const (
	// Clock is how times of the day are shown, in UTC as in a node's log.
	Clock = "2006-01-02 15:04:05 MST"
	// Minute is how times of samples are shown, in UTC.
	Minute = "2006-01-02 15:04"
)

// Count renders a number of things in at most four digits.
func Count(n float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		switch {
		case n < 9.95 && unit != "":
			return fmt.Sprintf("%.1f%s", n, unit)
		case n < 999.5:
			return fmt.Sprintf("%.0f%s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.0fT", n)
}

// Size renders bytes.
func Size(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		switch {
		case n < 9.95 && unit != "B":
			return fmt.Sprintf("%.1f %s", n, unit)
		case n < 1023.5:
			return fmt.Sprintf("%.0f %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f TiB", n)
}

// Amount renders samples, and the bytes that they take.
func Amount(samples, bytes int64) string {
	return fmt.Sprintf("%s samples, %s", Count(float64(samples)), Size(float64(bytes)))
}

// Percent renders a part of a whole.
func Percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }

// Span renders how long something takes, by its two greatest units.
func Span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// Seconds is a number of seconds as a duration.
func Seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
