// Package expiry decides which samples are expired: those before a horizon that every node
// keeps, tells the others, takes over from them, and never lowers. It is pure. Times are in
// milliseconds.
//
// The horizon is the greater of two parts, since they are believed to a different degree.
// The one of time follows from the retention and from a clock: a node computes its own and
// takes another one's only where it could be its own within Slack, as clocks differ. So a node
// with a wrong clock, or with a short retention by mistake, expires nothing on others. The
// one of size is what some disk had no room for, which nobody else can check: it is taken as
// it is told, but never into the last hours.
//
// By its clock alone a node does not expire anything either: time is counted from the newest
// sample that it holds, as the TSDB does, as far as that is not ahead of the clock. A store
// that nobody writes to keeps what it has, and a clock that runs ahead is not believed until
// there are samples of that time.
package expiry

import (
	"cmp"
	"math"
	"slices"
)

const (
	// None is the horizon of a store of which nothing has expired, and the newest sample of
	// one without samples.
	None = math.MinInt64

	// Step is what the part of time is a multiple of: it rises at the same moments on all
	// nodes, and seldom enough to be written down each time.
	Step = 10 * 60 * 1000

	// Slack is by how much clocks may differ. It is the time by which a sample may lie ahead.
	Slack = 10 * 60 * 1000
)

// Horizon is the time before which samples are expired, by why they are.
type Horizon struct {
	Time int64 `json:"timeMs"`
	Size int64 `json:"sizeMs"`
}

// Never is the horizon of a store of which nothing has expired.
func Never() Horizon { return Horizon{Time: None, Size: None} }

// At returns the time before which samples are expired.
func (h Horizon) At() int64 { return max(h.Time, h.Size) }

// Max returns the horizon of a store in which both hold.
func (h Horizon) Max(o Horizon) Horizon {
	return Horizon{Time: max(h.Time, o.Time), Size: max(h.Size, o.Size)}
}

// Limits are how much a node is to keep.
type Limits struct {
	// Time is for how long samples are kept, 0 for ever.
	Time int64
	// Size is how many bytes are kept, 0 for no limit.
	Size int64
}

// Word is what a node tells others.
type Word struct {
	Horizon Horizon
	Limits  Limits
}

// Rule decides for one node.
type Rule struct {
	Limits Limits
	// Head is how far back a node may hold samples in memory. Nothing younger expires,
	// whatever the limits say.
	Head int64
}

// Block is one of the blocks of a node.
type Block struct {
	// End is exclusive.
	End   int64
	Bytes int64
}

// ByTime returns how far the horizon rises by the node's own clock, given the time of its
// newest sample. None if it does not keep samples for a time, or has none.
func (r Rule) ByTime(now, newest int64) int64 {
	if r.Limits.Time == 0 || newest == None {
		return None
	}
	return floor(min(now, newest) - max(r.Limits.Time, r.Head))
}

// BySize returns how far the horizon has to rise for the blocks, and the other bytes that
// count with them, to fit into the limit: to the end of a block, or None if they do. Where
// the limit would need more than that the last hours stay all the same.
func (r Rule) BySize(now, newest, other int64, blocks []Block) int64 {
	if r.Limits.Size == 0 || newest == None {
		return None
	}
	blocks = slices.SortedFunc(slices.Values(blocks), func(a, b Block) int { return cmp.Compare(b.End, a.End) })
	last := min(now, newest) - r.Head
	sum := other
	for _, b := range blocks {
		if sum += b.Bytes; sum > r.Limits.Size && b.End <= last {
			return b.End
		}
	}
	return None
}

// Adopt returns the node's horizon after it has heard of another one's, which it believes part
// by part, wholly or not at all: a part that is refused comes from a wrong clock, or from
// other limits, and says nothing about when samples of this node expire.
func (r Rule) Adopt(own, told Horizon, now int64) Horizon {
	if r.Limits.Time > 0 && told.Time <= now+Slack-max(r.Limits.Time, r.Head) {
		own.Time = max(own.Time, told.Time)
	}
	if told.Size <= now+Slack-r.Head {
		own.Size = max(own.Size, told.Size)
	}
	return own
}

// floor returns the multiple of Step at or before t.
func floor(t int64) int64 {
	rest := t % Step
	if rest < 0 {
		rest += Step
	}
	return t - rest
}
