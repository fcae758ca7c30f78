// Package handles finds the handle of a series by the bytes that a sender names it by.
//
// A sender repeats the labels of a series, byte for byte, with every sample. The cache maps
// these bytes, whatever they look like, to what was made of them the first time. It compares
// the bytes themselves, so that no collision of hashes can take one series for another.
//
// Senders also name the same series in the same order, so a cursor tries first the one that
// followed the last time: that takes a comparison, and neither hash nor lock.
package handles

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

const (
	// shards bounds how many goroutines wait for one another when new series arrive.
	shards = 64
	// idle is how long a series is remembered that nobody sends: longer than the longest
	// interval of scrapes that Prometheus's documentation advises, several times.
	idle = 10 * time.Minute
	// sweep is how many entries are looked at for each one that is added, so that those
	// which are idle go, and a cache is about as large as what is sent.
	sweep = 4
	// entryBytes is what an entry takes beside the bytes of its name and its labels: the
	// entry itself, and its places in the map and in the list of the shard.
	entryBytes = int64(unsafe.Sizeof(entry{})) + 48
)

// Options configure a Cache.
type Options struct {
	// MaxBytes bounds the memory of the cache, by estimate. Series that there is no room for
	// have no handle.
	MaxBytes int64
	// Key computes the partition key of a series.
	Key func(labels.Labels) uint64
	// Interner, if set, is shown all handles; each request has its own.
	Interner func() series.Interner
	// Now is the clock, time.Now if nil.
	Now func() time.Time
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// Cache is a bounded map from names to handles. It may be used by many goroutines.
type Cache struct {
	opts   Options
	seed   maphash.Seed
	serial atomic.Uint64
	// indexes are those of the entries, and what cursors have reserved.
	indexes numbers
	shards  [shards]shard

	added, evicted, refused prometheus.Counter
}

type shard struct {
	mu sync.RWMutex
	// byHash holds the entries, those with the same hash as a list.
	byHash map[uint64]*entry
	// all holds them, nil where one was evicted; free lists those places, and hand is the
	// place that is looked at next.
	all  []*entry
	free []int
	hand int
	// bytes is the memory of the shard's entries.
	bytes int64
}

// entry is one name with its handle.
type entry struct {
	series.Handle
	name string
	hash uint64
	// after is the entry that was asked for behind this one the last time.
	after atomic.Pointer[entry]
	// same is the next entry with the same hash.
	same *entry
	// used is the minute of the last use, or evicted.
	used atomic.Uint32
}

const evicted = math.MaxUint32

// New returns an empty cache.
func New(opts Options) *Cache {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	c := &Cache{opts: opts, seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].byHash = map[uint64]*entry{}
	}
	f := promauto.With(opts.Registerer)
	c.added = f.NewCounter(prometheus.CounterOpts{
		Name: "starling_ingest_handles_added_total",
		Help: "Series whose labels were read because nobody had sent them lately.",
	})
	c.evicted = f.NewCounter(prometheus.CounterOpts{
		Name: "starling_ingest_handles_evicted_total",
		Help: "Series that were forgotten after ten minutes without a sample.",
	})
	c.refused = f.NewCounter(prometheus.CounterOpts{
		Name: "starling_ingest_handles_refused_total",
		Help: "Series that could not be remembered because the memory for that was full; writing them costs more.",
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "starling_ingest_handles",
		Help: "Series that senders named lately and that are remembered.",
	}, func() float64 { n, _ := c.size(); return float64(n) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "starling_ingest_handles_bytes",
		Help: "Memory that the series which are remembered take, by estimate.",
	}, func() float64 { _, n := c.size(); return float64(n) })
	return c
}

// size returns the number of entries and their bytes.
func (c *Cache) size() (entries int, bytes int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		entries += len(s.all) - len(s.free)
		bytes += s.bytes
		s.mu.RUnlock()
	}
	return entries, bytes
}

// minute is the clock of uses.
func (c *Cache) minute() uint32 { return uint32(c.opts.Now().Unix() / 60) }

// Cursor goes through the series of one request. It is not safe for concurrent use; Start
// makes one, and Close ends it.
type Cursor struct {
	cache       *Cache
	last, guess *entry
	now         uint32
	interner    series.LazyInterner
	// reserved are the indexes of the next series that are added.
	reserved run
}

// Close ends the request.
func (c *Cursor) Close() {
	c.interner.Close()
	if c.reserved.from < c.reserved.to {
		c.cache.indexes.give(c.reserved)
	}
	c.reserved = run{}
}

// Start returns a cursor for one request.
func (c *Cache) Start() Cursor {
	return Cursor{cache: c, now: c.minute(), interner: series.LazyInterner{Open: c.opts.Interner}}
}

// Guess returns the handle of the series that followed the last one the last time, if text
// begins with its name, and the length of that. Whether the name ends there, and not only
// begins, is the caller's to see; if it does not, Find goes on as if nothing was guessed.
func (c *Cursor) Guess(text []byte) (h *series.Handle, length int) {
	if c.last == nil {
		return nil, 0
	}
	e := c.last.after.Load()
	if e == nil || len(text) < len(e.name) || string(text[:len(e.name)]) != e.name || !c.use(e) {
		return nil, 0
	}
	c.guess = e
	return &e.Handle, len(e.name)
}

// Accept says that what Guess has just returned is the next series of the request.
func (c *Cursor) Accept() { c.last = c.guess }

// use marks an entry as used, unless it was evicted.
func (c *Cursor) use(e *entry) bool {
	for {
		switch used := e.used.Load(); {
		case used == evicted:
			return false
		case used == c.now, e.used.CompareAndSwap(used, c.now):
			return true
		}
	}
}

// Find returns the handle of the series with a name, the next one of the request, or nil.
func (c *Cursor) Find(name []byte) *series.Handle {
	hash := maphash.Bytes(c.cache.seed, name)
	s := &c.cache.shards[hash%shards]
	s.mu.RLock()
	e := s.find(hash, name)
	s.mu.RUnlock()
	if e == nil || !c.use(e) {
		return nil
	}
	c.follow(e)
	return &e.Handle
}

func (c *Cursor) follow(e *entry) {
	if c.last != nil {
		c.last.after.Store(e)
	}
	c.last = e
}

// Add remembers the series with a name, the next one of the request, by its canonical labels.
// Without room for it, it returns nil. Neither argument is kept.
func (c *Cursor) Add(name []byte, ls labels.Labels) *series.Handle {
	cache := c.cache
	hash := maphash.Bytes(cache.seed, name)
	e := &entry{name: string(name), hash: hash}
	e.Labels, e.Key, e.Serial = ls, cache.opts.Key(ls), cache.serial.Add(1)
	c.interner.Intern(&e.Handle)
	e.used.Store(c.now)
	e, ok := cache.shards[hash%shards].add(c, e, name)
	if !ok {
		cache.refused.Inc()
		return nil
	}
	c.follow(e)
	return &e.Handle
}

// index returns the index of the next series that is added.
func (c *Cursor) index() uint32 {
	r := &c.reserved
	if r.from == r.to {
		*r = c.cache.indexes.take()
	}
	r.from++
	return r.from - 1
}

func (s *shard) find(hash uint64, name []byte) *entry {
	for e := s.byHash[hash]; e != nil; e = e.same {
		if e.name == string(name) {
			return e
		}
	}
	return nil
}

// add puts an entry with that name in, or returns the one that another request has put in
// meanwhile.
func (s *shard) add(c *Cursor, e *entry, name []byte) (*entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.find(e.hash, name); other != nil {
		return other, true
	}
	for range sweep {
		s.look(c.cache, c.now)
	}
	if s.bytes+e.bytes() > c.cache.opts.MaxBytes/shards {
		return nil, false
	}
	if n := len(s.free); n > 0 {
		s.all[s.free[n-1]], s.free = e, s.free[:n-1]
	} else {
		s.all = append(s.all, e)
	}
	e.Index = c.index()
	e.same = s.byHash[e.hash]
	s.byHash[e.hash] = e
	s.bytes += e.bytes()
	c.cache.added.Inc()
	return e, true
}

// look evicts the entry under the hand if it is idle, and moves the hand.
func (s *shard) look(c *Cache, now uint32) {
	if len(s.all) == 0 {
		return
	}
	s.hand = (s.hand + 1) % len(s.all)
	e := s.all[s.hand]
	if e == nil {
		return
	}
	used := e.used.Load()
	if int64(now)-int64(used) < int64(idle/time.Minute) || !e.used.CompareAndSwap(used, evicted) {
		return
	}
	s.remove(e)
	c.indexes.give(run{e.Index, e.Index + 1})
	c.evicted.Inc()
}

func (s *shard) remove(e *entry) {
	if first := s.byHash[e.hash]; first == e {
		if e.same == nil {
			delete(s.byHash, e.hash)
		} else {
			s.byHash[e.hash] = e.same
		}
	} else {
		for first.same != e {
			first = first.same
		}
		first.same = e.same
	}
	s.all[s.hand] = nil
	s.free = append(s.free, s.hand)
	s.bytes -= e.bytes()
	// What it led to is not to be kept by who still leads to it.
	e.after.Store(nil)
}

func (e *entry) bytes() int64 {
	return entryBytes + int64(len(e.name)) + int64(e.Labels.ByteSize())
}
