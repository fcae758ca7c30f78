// Package damage keeps what is broken in a data directory from passing for what was never
// written.
//
// Damage is found in three ways: by [Inspect], before the TSDB opens the directory, since
// the TSDB cuts a log at the first bad byte and the next start looks clean; by a [Scrub] of
// the blocks; and by [Guard], around the queriers of the TSDB, in what a query reads.
// Whatever finds damage first writes the time range that may lack samples into the
// [Ledger], a file that is synced before anything is repaired. What is broken is kept aside
// for the operator, what is whole stays in service.
//
// Nothing here knows of a cluster: what a range in the ledger means for a query is for
// others to say.
package damage

import (
	"fmt"
	"math"
	"time"
)

// Kind says which part of the data directory is damaged.
type Kind string

const (
	// WAL is the write-ahead log, its checkpoint included.
	WAL Kind = "wal"
	// WBL is the log of out-of-order samples.
	WBL Kind = "wbl"
	// HeadChunks are the head's memory-mapped chunks. They are made anew from the logs
	// when the store is opened.
	HeadChunks Kind = "head chunks"
	// Block is one block.
	Block Kind = "block"
	// Notes is the ledger itself.
	Notes Kind = "notes"
	// OldCopy is the whole directory, where it was put back from an older copy of itself.
	OldCopy Kind = "old copy"
)

// kinds are all of them, for the metrics.
func kinds() []Kind { return []Kind{WAL, WBL, HeadChunks, Block, Notes, OldCopy} }

// Range is a range of time for which samples may be missing. It is a value.
type Range struct {
	// MinTime and MaxTime are inclusive, in milliseconds since the epoch. They are
	// math.MinInt64 and math.MaxInt64 where nothing is known.
	MinTime int64 `json:"minTime"`
	MaxTime int64 `json:"maxTime"`
	Kind    Kind  `json:"kind"`
	// Name is the file, below the data directory, or the block's ULID.
	Name string `json:"name"`
	// Detail is what is wrong, on one line.
	Detail string    `json:"detail"`
	Found  time.Time `json:"found"`
	// Suspect marks what a crash leaves: a log whose last record is torn, with nothing
	// behind it, where everything that was confirmed had been synced. What is missing
	// was never confirmed, unless the disk lied.
	Suspect bool `json:"suspect,omitempty"`
}

// Overlaps tells whether the range has a time in common with mint to maxt, both inclusive.
func (r Range) Overlaps(mint, maxt int64) bool { return r.MinTime <= maxt && mint <= r.MaxTime }

// String describes the range on one line.
func (r Range) String() string {
	return fmt.Sprintf("%s %s from %s to %s: %s", r.Kind, r.Name, clock(r.MinTime), clock(r.MaxTime), r.Detail)
}

// clock prints a time, and the ends of time as such.
func clock(ms int64) string {
	switch ms {
	case math.MinInt64:
		return "the beginning"
	case math.MaxInt64:
		return "the end"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano)
}

// sub and add stop at the ends of time.
func sub(t, d int64) int64 {
	if t < math.MinInt64+d {
		return math.MinInt64
	}
	return t - d
}

func add(t, d int64) int64 {
	if t > math.MaxInt64-d {
		return math.MaxInt64
	}
	return t + d
}
