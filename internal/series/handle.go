package series

import (
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
)

// Handle is what a node remembers of a series that it is sent again and again, so that its
// labels need not be read, hashed, looked up and sent each time. It is a short cut and no
// more: whatever has no handle goes by its labels.
//
// A handle belongs to one node. All fields but the store's are constant, and any goroutine
// may read them.
type Handle struct {
	// Labels are those of the series, canonical.
	Labels labels.Labels
	// Key is the partition key of the series.
	Key uint64
	// Index numbers the handle among those that are remembered at one time, from 0 without
	// large holes; another series gets it when this one is forgotten. Serial is never used
	// again.
	Index  uint32
	Serial uint64

	// stored is how the node's store knows the series, 0 for not at all. Its meaning is the
	// store's.
	stored atomic.Uint64
}

// Interner has handles that are new share the memory of their labels with the store, for the
// length of one request. It is for one goroutine.
type Interner interface {
	// Intern gives a handle, which nobody else knows yet, the labels that the store keeps where
	// they are equal to its own, and has the store remember how it knows the series.
	Intern(h *Handle)
	// Close ends it.
	Close()
}

// LazyInterner is an Interner that Open opens when it is first asked. Without Open handles stay
// as they are. After Close it is as it was before.
type LazyInterner struct {
	Open   func() Interner
	opened Interner
}

// Intern implements Interner.
func (l *LazyInterner) Intern(h *Handle) {
	if l.opened == nil {
		if l.Open == nil {
			return
		}
		l.opened = l.Open()
	}
	l.opened.Intern(h)
}

// Close implements Interner.
func (l *LazyInterner) Close() {
	if l.opened != nil {
		l.opened.Close()
		l.opened = nil
	}
}

// Stored returns what the store remembered, 0 for nothing.
func (h *Handle) Stored() uint64 { return h.stored.Load() }

// SetStored has the store remember how it knows the series.
func (h *Handle) SetStored(ref uint64) { h.stored.Store(ref) }
