package ledger

import (
	"cmp"
	"maps"
	"slices"
)

// Kind is what can be wrong with a sample.
type Kind string

// What can be wrong with a sample.
const (
	// Lost: acknowledged, and missing from a successful answer or from the disks.
	Lost Kind = "lost"
	// Duplicated: two values for one timestamp.
	Duplicated Kind = "duplicated"
	// Invented: never sent, or with another value.
	Invented Kind = "invented"
	// Thin: acknowledged and kept, on fewer nodes than it should be.
	Thin Kind = "thin"
	// Stray: on a node that does not own it.
	Stray Kind = "stray"
)

// Kinds are all that can be wrong.
var Kinds = []Kind{Lost, Duplicated, Invented, Thin, Stray}

// find notes a fault of a sample, the first time it is met. The caller holds the lock.
func (l *Ledger) find(k Kind, s Sample, detail string) {
	if _, known := l.findings[k][s]; !known {
		l.findings[k][s] = detail
	}
}

// Found returns how many samples have a fault of a kind.
func (l *Ledger) Found(k Kind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.findings[k])
}

// Examples returns up to n faults of a kind, as text, the oldest samples first.
func (l *Ledger) Examples(k Kind, n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	samples := slices.SortedFunc(maps.Keys(l.findings[k]), func(a, b Sample) int {
		return cmp.Or(cmp.Compare(a.T, b.T), a.Series.compare(b.Series))
	})
	var out []string
	for _, s := range samples[:min(n, len(samples))] {
		out = append(out, string(k)+": "+s.String()+": "+l.findings[k][s])
	}
	return out
}
