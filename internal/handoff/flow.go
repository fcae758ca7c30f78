package handoff

import (
	"sync"
	"time"
)

// flowMinutes is how far back a Flow remembers.
const flowMinutes = 7 * 24 * 60

// Flow remembers how many samples were stored in each minute of the last week of this
// process, to estimate how much a peer lacks that has been away since. It may be used
// concurrently.
type Flow struct {
	mu     sync.Mutex
	counts [flowMinutes]float64
	newest int64 // the last minute that is counted, since the epoch
}

// Add counts samples that are stored now.
func (f *Flow) Add(samples int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[f.advance(time.Now())%flowMinutes] += float64(samples)
}

// Since estimates how many samples were stored since a time, in milliseconds.
func (f *Flow) Since(ms int64) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.advance(time.Now())
	minute := time.Minute.Milliseconds()
	n := 0.0
	for m := now; m > now-flowMinutes && m >= 0; m-- {
		switch start := m * minute; {
		case start >= ms:
			n += f.counts[m%flowMinutes]
		case start+minute > ms:
			return n + f.counts[m%flowMinutes]*float64(start+minute-ms)/float64(minute)
		default:
			return n
		}
	}
	return n
}

// advance forgets the minutes that have become older than a week, and returns the present
// one. It is called with mu held.
func (f *Flow) advance(now time.Time) int64 {
	minute := max(now.Unix()/60, f.newest, 0)
	for m := max(f.newest+1, minute-flowMinutes+1); m <= minute; m++ {
		f.counts[m%flowMinutes] = 0
	}
	f.newest = minute
	return minute
}
