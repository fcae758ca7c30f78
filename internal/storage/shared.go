package storage

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
)

// Who aggregates series of the head looks at few of their labels, which many series have in common.
// Which ones those are is remembered by the numbers of series, as their keys are, so that the labels
// of each, far apart in memory, need not be read once more.

const (
	// mostShared is for how many sets of names labels are remembered, at 4 bytes a series each.
	mostShared = 8
	// mostSharedBytes bounds the labels that are remembered of one set of names: some 10,000 of 100 bytes,
	// and their keys.
	mostSharedBytes = 2 << 20
	// unshared is remembered of a series for whose labels there was no room.
	unshared = ^uint32(0)
)

// sharedLabels remembers labels of some names.
type sharedLabels struct {
	names []string
	// pages are *sharedPage by number, of those that seriesKeys has.
	pages sync.Map

	mu sync.RWMutex
	// numbers begin at 1, and are by labels.Labels.BytesWithLabels.
	numbers map[string]uint32
	// values are by number less 1. Those that are there stay as they are.
	values []labels.Labels
	// bytes are those of keys and values.
	bytes int
}

// sharedPage has the numbers of what neighbors have. Zero stands for one that is not known.
type sharedPage [keysPerPage]atomic.Uint32

// number returns that of the labels of a series, or unshared, and scratch for the next one.
func (l *sharedLabels) number(ls labels.Labels, scratch []byte) (uint32, []byte) {
	scratch = ls.BytesWithLabels(scratch, l.names...)
	l.mu.RLock()
	n, known := l.numbers[string(scratch)]
	l.mu.RUnlock()
	if known {
		return n, scratch
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, known := l.numbers[string(scratch)]; known {
		return n, scratch
	}
	value := labels.NewBuilder(ls).Keep(l.names...).Labels()
	size := len(scratch) + int(value.ByteSize())
	if l.bytes+size > mostSharedBytes {
		return unshared, scratch
	}
	l.bytes += size
	// It may be all of ls, which belongs to the head.
	l.values = append(l.values, value.Copy())
	n = uint32(len(l.values))
	l.numbers[string(scratch)] = n
	return n, scratch
}

func (l *sharedLabels) known() []labels.Labels {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.values
}

// sharedSets are the sets of names for which labels are remembered. The zero value is empty.
type sharedSets struct {
	mu sync.Mutex
	// sets are in the order in which they were asked for last.
	sets []*sharedLabels
}

// of returns what is remembered of some names, in place of those that were not asked for the longest if
// there would be too many.
func (s *sharedSets) of(names []string) *sharedLabels {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &sharedLabels{names: slices.Clone(names), numbers: map[string]uint32{}}
	if i := slices.IndexFunc(s.sets, func(l *sharedLabels) bool { return slices.Equal(l.names, names) }); i >= 0 {
		l = s.sets[i]
		s.sets = slices.Delete(s.sets, i, i+1)
	} else if len(s.sets) == mostShared {
		s.sets = slices.Delete(s.sets, 0, 1)
	}
	s.sets = append(s.sets, l)
	return l
}

// forget forgets all of them.
func (s *sharedSets) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sets = nil
}

// reader returns nothing of nothing.
func (l *sharedLabels) reader() *sharedReader {
	if l == nil {
		return nil
	}
	return &sharedReader{sharedLabels: l}
}

// sharedReader reads what is remembered. Not for concurrent use.
type sharedReader struct {
	*sharedLabels
	page       *sharedPage
	pageNumber uint64
	values     []labels.Labels
	scratch    []byte
}

// of returns the labels of a series that are looked at, given all of them. It may return all.
func (r *sharedReader) of(ref promstorage.SeriesRef, ls labels.Labels) labels.Labels {
	if number := uint64(ref) / keysPerPage; r.page == nil || number != r.pageNumber {
		page, known := r.pages.Load(number)
		if !known {
			page, _ = r.pages.LoadOrStore(number, new(sharedPage))
		}
		r.page, r.pageNumber = page.(*sharedPage), number
	}
	at := &r.page[ref%keysPerPage]
	n := at.Load()
	if n == 0 {
		n, r.scratch = r.number(ls, r.scratch)
		at.Store(n)
	}
	if n == unshared {
		return ls
	}
	if int(n) > len(r.values) {
		r.values = r.known()
	}
	return r.values[n-1]
}
