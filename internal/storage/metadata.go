package storage

import (
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/starling-tsdb/starling/internal/series"
)

const (
	maxFamilies         = 100_000
	maxEntriesPerFamily = 8
	// maxMetadataBytes bounds the text of all entries; the maps about double it.
	maxMetadataBytes = 32 << 20
)

// families is the metadata of metric families, which the TSDB can store but not return.
// It is bounded: at a limit new families are dropped and counted, and of the entries of
// one family the oldest goes.
type families struct {
	dropped prometheus.Counter

	mu      sync.RWMutex
	entries map[string][]metadata.Metadata // the newest first
	bytes   int
	// version grows with every change; a file holds what was there at one version.
	version uint64
}

func newFamilies(dropped prometheus.Counter) *families {
	return &families{dropped: dropped, entries: make(map[string][]metadata.Metadata)}
}

// add takes metadata in. Senders repeat the same entries all the time, so the known ones
// cost a look-up under a shared lock.
func (f *families) add(ms []series.Metadata) {
	if len(ms) == 0 {
		return
	}
	var fresh []series.Metadata
	f.mu.RLock()
	for _, m := range ms {
		if m.Family != "" && !m.IsEmpty() && !slices.Contains(f.entries[m.Family], m.Metadata) {
			fresh = append(fresh, m)
		}
	}
	f.mu.RUnlock()
	if len(fresh) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range fresh {
		f.addLocked(m)
	}
}

func (f *families) addLocked(m series.Metadata) {
	known := f.entries[m.Family]
	if slices.Contains(known, m.Metadata) {
		return
	}
	size := len(m.Family) + sizeOf(m.Metadata)
	if f.bytes+size > maxMetadataBytes || (known == nil && len(f.entries) >= maxFamilies) {
		f.dropped.Inc()
		return
	}
	if len(known) == maxEntriesPerFamily {
		f.bytes -= len(m.Family) + sizeOf(known[len(known)-1])
		known = known[:len(known)-1]
	}
	// The strings may be part of a request's body, which must not be kept alive.
	m.Help, m.Unit = strings.Clone(m.Help), strings.Clone(m.Unit)
	f.entries[strings.Clone(m.Family)] = append([]metadata.Metadata{m.Metadata}, known...)
	f.bytes += size
	f.version++
}

func sizeOf(m metadata.Metadata) int { return len(m.Type) + len(m.Unit) + len(m.Help) }

// get is Store.Metadata.
func (f *families) get(family string, limit, limitPerMetric int) map[string][]metadata.Metadata {
	f.mu.RLock()
	defer f.mu.RUnlock()
	res := make(map[string][]metadata.Metadata)
	var names []string
	if family != "" {
		if _, ok := f.entries[family]; ok {
			names = []string{family}
		}
	} else {
		names = make([]string, 0, len(f.entries))
		for name := range f.entries {
			names = append(names, name)
		}
	}
	if limit >= 0 && limit < len(names) {
		slices.Sort(names)
		names = names[:limit]
	}
	for _, name := range names {
		ms := f.entries[name]
		if limitPerMetric > 0 && limitPerMetric < len(ms) {
			ms = ms[:limitPerMetric]
		}
		res[name] = slices.Clone(ms)
	}
	return res
}
