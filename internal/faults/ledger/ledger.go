// Package ledger remembers what a client sent and what it was answered, and holds what a
// database returns against that.
//
// The value of a sample is a function of its series and its timestamp, so that a value
// found in the wrong place, or one that nobody sent, shows. Acknowledgements are numbered:
// a reader takes a Mark before it asks, and everything acknowledged before the mark must
// be in a successful answer. No clock is involved.
package ledger

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Sample names one sample; what its value has to be follows from the name.
type Sample struct {
	Series Series
	T      int64 // milliseconds
}

// String is how findings name a sample.
func (s Sample) String() string { return fmt.Sprintf("%s @%d", s.Series, s.T) }

// Point is what a database holds for a timestamp of a series.
type Point struct {
	T int64 // milliseconds
	V float64
	// Count is that of a native histogram, whose sum is V; 0 for floats.
	Count uint64
}

// Answer is what was returned for a question, by series. A series without points may be
// missing.
type Answer map[Series][]Point

// Question is what was asked for: all samples of some series in a range of time, both ends
// included, in milliseconds.
type Question struct {
	Series     []Series
	Mint, Maxt int64
}

// Mark stands for all acknowledgements that came before it.
type Mark uint64

// state of a sample that was sent: the number of its acknowledgement, or one of these.
const (
	sent    = 0
	refused = ^uint64(0)
)

// Ledger is what one client, made of many senders and readers, remembers. All methods may
// be called by many goroutines at once.
type Ledger struct {
	mu   sync.Mutex
	acks uint64
	// states holds every sample that was ever sent.
	states map[Series]map[int64]uint64
	counts Counts
	// findings keeps each fault of a sample once, whoever meets it again.
	findings map[Kind]map[Sample]string
}

// Counts are the samples of a ledger.
type Counts struct{ Sent, Acknowledged, Refused int }

// New returns an empty ledger.
func New() *Ledger {
	l := &Ledger{states: map[Series]map[int64]uint64{}, findings: map[Kind]map[Sample]string{}}
	for _, k := range Kinds {
		l.findings[k] = map[Sample]string{}
	}
	return l
}

// Send notes samples that are about to be sent. It comes before the first byte leaves.
// A sample that is sent again is the same sample.
func (l *Ledger) Send(samples []Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range samples {
		of := l.states[s.Series]
		if of == nil {
			of = map[int64]uint64{}
			l.states[s.Series] = of
		}
		if _, known := of[s.T]; !known {
			of[s.T] = sent
			l.counts.Sent++
		}
	}
}

// Acknowledge notes that a request with these samples was answered with success.
func (l *Ledger) Acknowledge(samples []Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks++
	for _, s := range samples {
		switch l.states[s.Series][s.T] {
		case sent:
			l.states[s.Series][s.T] = l.acks
			l.counts.Acknowledged++
		case refused:
			l.states[s.Series][s.T] = l.acks
			l.counts.Refused--
			l.counts.Acknowledged++
		}
	}
}

// Refuse notes that a request with these samples was answered as invalid. They may be
// stored or not.
func (l *Ledger) Refuse(samples []Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range samples {
		if l.states[s.Series][s.T] == sent {
			l.states[s.Series][s.T] = refused
			l.counts.Refused++
		}
	}
}

// Mark returns the mark that a reader takes before it asks.
func (l *Ledger) Mark() Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Mark(l.acks)
}

// Counts returns how many samples there are.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// Series returns all series of which something was sent, sorted.
func (l *Ledger) Series() []Series {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Keys(l.states), Series.compare)
}

// Sizes returns how many samples of each series are acknowledged.
func (l *Ledger) Sizes() map[Series]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	sizes := make(map[Series]int, len(l.states))
	for s, of := range l.states {
		for _, state := range of {
			if acknowledged(state) {
				sizes[s]++
			}
		}
	}
	return sizes
}

// Span returns the oldest and the newest timestamp that was sent.
func (l *Ledger) Span() (mint, maxt int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := true
	for _, of := range l.states {
		for t := range of {
			if first {
				mint, maxt, first = t, t, false
			}
			mint, maxt = min(mint, t), max(maxt, t)
		}
	}
	return mint, maxt
}

// Check holds a successful answer against what was acknowledged before the mark, and
// against everything that was sent. It is called after the answer came. Who says where the
// answer is from.
func (l *Ledger) Check(who string, mark Mark, q Question, a Answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := make(map[Series]bool, len(q.Series))
	for _, s := range q.Series {
		asked[s] = true
		l.checkSeries(who, s, a[s])
		l.checkMissing(who, mark, q, s, a[s])
	}
	for s, points := range a {
		if !asked[s] {
			l.find(Invented, Sample{Series: s}, fmt.Sprintf("%s: %d points of a series that was not asked for", who, len(points)))
		}
	}
}

// checkSeries finds points that were not sent, and timestamps that come twice.
func (l *Ledger) checkSeries(who string, s Series, points []Point) {
	seen := make(map[int64]bool, len(points))
	for _, p := range points {
		key := Sample{Series: s, T: p.T}
		if seen[p.T] {
			l.find(Duplicated, key, who+": timestamp twice")
		}
		seen[p.T] = true
		if _, known := l.states[s][p.T]; !known {
			l.find(Invented, key, who+": never sent")
			continue
		}
		if want := s.PointAt(p.T); !want.same(p) {
			l.find(Invented, key, fmt.Sprintf("%s: %v, sent was %v", who, p, want))
		}
	}
}

// checkMissing finds samples acknowledged before the mark that an answer lacks.
func (l *Ledger) checkMissing(who string, mark Mark, q Question, s Series, points []Point) {
	seen := make(map[int64]bool, len(points))
	for _, p := range points {
		seen[p.T] = true
	}
	for t, state := range l.states[s] {
		if acknowledged(state) && state <= uint64(mark) && q.Mint <= t && t <= q.Maxt && !seen[t] {
			l.find(Lost, Sample{Series: s, T: t}, who+": acknowledged and missing")
		}
	}
}

func acknowledged(state uint64) bool { return state != sent && state != refused }

// CheckCopies holds the copies that nodes have of the series that they own against what was
// acknowledged: fewer than least of one is a loss, fewer than all of them is thin. Nothing
// may be written any more. Copies are by node.
func (l *Ledger) CheckCopies(copies map[string]Answer, owners func(Series) []string, least, all int) {
	found := map[Sample]int{}
	for node, a := range copies {
		for s, points := range a {
			if !slices.Contains(owners(s), node) {
				continue
			}
			seen := make(map[int64]bool, len(points))
			for _, p := range points {
				if !seen[p.T] {
					found[Sample{Series: s, T: p.T}]++
				}
				seen[p.T] = true
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for node, a := range copies {
		for s, points := range a {
			l.checkSeries("copy of "+node, s, points)
		}
	}
	for s, of := range l.states {
		for t, state := range of {
			if !acknowledged(state) {
				continue
			}
			key := Sample{Series: s, T: t}
			switch n := found[key]; {
			case n < least:
				l.find(Lost, key, fmt.Sprintf("on %d owners' disks, acknowledged means %d at least", n, least))
			case n < all:
				l.find(Thin, key, fmt.Sprintf("on %d owners' disks, the table asks for %d", n, all))
			}
		}
	}
}

// CheckStrays finds what nodes have and do not own. A node may keep for some time what it owned,
// and has it in memory for longer. Copies are by node.
func (l *Ledger) CheckStrays(copies map[string]Answer, owners func(Series) []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for node, a := range copies {
		for s, points := range a {
			if slices.Contains(owners(s), node) {
				continue
			}
			for _, p := range points {
				l.find(Stray, Sample{Series: s, T: p.T}, "on "+node+", which does not own it")
			}
		}
	}
}
