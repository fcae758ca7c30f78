package handles

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

// clock is a time that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newTestCache(maxBytes int64) (*Cache, *clock) {
	c := &clock{time.Unix(1_700_000_000, 0)}
	return New(Options{MaxBytes: maxBytes, Key: labels.Labels.Hash, Now: c.now}), c
}

func nameOf(i int) []byte { return fmt.Appendf(nil, "series-%d;", i) }

func labelsOf(i int) labels.Labels { return labels.FromStrings("__name__", fmt.Sprint("m", i)) }

// ask goes through a request as a decoder does, and returns its handles. Names end with a
// semicolon, so that a name that is guessed ends where the asked one does.
func ask(c *Cache, request []int) []*series.Handle {
	var found []*series.Handle
	cursor := c.Start()
	defer cursor.Close()
	for _, i := range request {
		name := nameOf(i)
		h, n := cursor.Guess(name)
		if h != nil && n == len(name) {
			cursor.Accept()
		} else if h = cursor.Find(name); h == nil {
			h = cursor.Add(name, labelsOf(i))
		}
		found = append(found, h)
	}
	return found
}

// TestSameBytesSameHandle asks in many orders, forgets, and looks whether a handle was ever
// that of another series, and whether two series that are remembered had one index.
func TestSameBytesSameHandle(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		c, clk := newTestCache(1 << 20)
		serials := map[uint64]int{}
		for range 60 {
			request := rnd.Perm(40)[:1+rnd.IntN(39)]
			if rnd.IntN(2) == 0 { // in order, as most requests are
				first := rnd.IntN(30)
				for i := range request {
					request[i] = (first + i) % 40
				}
			}
			for i, h := range ask(c, request) {
				if h == nil {
					t.Fatalf("seed %d: no room in an empty cache", seed)
				}
				if !labels.Equal(h.Labels, labelsOf(request[i])) || h.Key != labelsOf(request[i]).Hash() {
					t.Fatalf("seed %d: series %d has the handle of %s", seed, request[i], h.Labels)
				}
				if other, ok := serials[h.Serial]; ok && other != request[i] {
					t.Fatalf("seed %d: serial %d of series %d and %d", seed, h.Serial, other, request[i])
				}
				serials[h.Serial] = request[i]
			}
			byIndex := map[uint32]uint64{}
			for i := range c.shards {
				for _, e := range c.shards[i].all {
					if e == nil {
						continue
					}
					if other, ok := byIndex[e.Index]; ok {
						t.Fatalf("seed %d: index %d of serials %d and %d", seed, e.Index, other, e.Serial)
					}
					byIndex[e.Index] = e.Serial
				}
			}
			clk.at = clk.at.Add(time.Duration(rnd.IntN(8)) * time.Minute)
		}
	}
}

// TestGuessIsAPrefix: what is guessed may be the beginning of another name only.
func TestGuessIsAPrefix(t *testing.T) {
	c, _ := newTestCache(1 << 20)
	cursor := c.Start()
	first := cursor.Add([]byte("a"), labelsOf(1))
	second := cursor.Add([]byte("b"), labelsOf(2))
	cursor = c.Start()
	if h, _ := cursor.Guess([]byte("a")); h != nil {
		t.Errorf("the first of a request was guessed: %s", h.Labels)
	}
	if h := cursor.Find([]byte("a")); h != first {
		t.Errorf("found %v", h)
	}
	if h, n := cursor.Guess([]byte("bb")); h != second || n != 1 {
		t.Errorf("guessed %v of length %d", h, n)
	}
	if h := cursor.Find([]byte("bb")); h != nil {
		t.Errorf("found %s for a name that was never added", h.Labels)
	}
	third := cursor.Add([]byte("bb"), labelsOf(3))
	cursor = c.Start()
	cursor.Find([]byte("a"))
	if h, n := cursor.Guess([]byte("bb")); h != third || n != 2 {
		t.Errorf("guessed %v of length %d behind a, want what followed the last time", h, n)
	}
}

func TestCollisionsOfHashes(t *testing.T) {
	c, clk := newTestCache(1 << 20)
	s := &c.shards[0]
	cursor := c.Start()
	defer cursor.Close()
	put := func(name string) *entry {
		e := &entry{name: name, hash: 64}
		e.Serial = c.serial.Add(1)
		e.used.Store(c.minute())
		cursor.now = c.minute()
		e, ok := s.add(&cursor, e, []byte(name))
		if !ok {
			t.Fatal("no room")
		}
		return e
	}
	var all []*entry
	for i := range 3 {
		all = append(all, put(fmt.Sprint(i)))
	}
	if again := put("1"); again != all[1] {
		t.Error("a name was added twice")
	}
	for i, e := range all {
		if got := s.find(64, fmt.Append(nil, i)); got != e {
			t.Errorf("found %v by the name of %v", got, e)
		}
	}
	// The one in the middle is idle, then the one that was put first.
	for _, idleOne := range []int{1, 0} {
		clk.at = clk.at.Add(idle)
		for i, e := range all {
			if i != idleOne && e.used.Load() != evicted {
				e.used.Store(c.minute())
			}
		}
		for range len(s.all) {
			s.look(c, c.minute())
		}
		for i, e := range all {
			want := e
			if all[i].used.Load() == evicted {
				want = nil
			}
			if got := s.find(64, fmt.Append(nil, i)); got != want {
				t.Errorf("without %d: found %v by the name of %d, want %v", idleOne, got, i, want)
			}
		}
	}
	if n := s.find(64, []byte("2")); n == nil || len(s.byHash) != 1 || len(s.free) != 2 {
		t.Errorf("left: %v, %d hashes, %d free places", n, len(s.byHash), len(s.free))
	}
}

// TestChurnIsBounded replaces all series again and again: what is idle goes, whether or not
// the cache is full, and one that is full goes on with those it knows.
func TestChurnIsBounded(t *testing.T) {
	const each = 2000
	request := func(generation int) []int {
		r := make([]int, each)
		for i := range r {
			r[i] = generation*each + i
		}
		return r
	}
	c, clk := newTestCache(1 << 30)
	largest := 0
	for generation := range 40 {
		ask(c, request(generation))
		n, _ := c.size()
		largest = max(largest, n)
		clk.at = clk.at.Add(idle / 2)
	}
	// Three generations are not idle yet, and what the hand has not passed is left.
	if largest > 6*each {
		t.Errorf("%d entries for %d series at a time", largest, each)
	}
	n, bytes := c.size()
	small, clk := newTestCache(bytes / int64(n) * each / 2)
	for range 3 {
		known := 0
		for _, h := range ask(small, request(0)) {
			if h != nil {
				known++
			}
		}
		if known < each/4 || known > each*3/4 {
			t.Errorf("%d of %d series are remembered where there is room for half", known, each)
		}
		if _, b := small.size(); b > small.opts.MaxBytes {
			t.Errorf("%d bytes of %d", b, small.opts.MaxBytes)
		}
		clk.at = clk.at.Add(time.Minute)
	}
	clk.at = clk.at.Add(idle)
	known := 0
	for i, h := range ask(small, request(1)) {
		if h != nil {
			known++
			if !labels.Equal(h.Labels, labelsOf(each+i)) {
				t.Fatalf("series %d has the handle of %s", each+i, h.Labels)
			}
		}
	}
	if known < each/4 {
		t.Errorf("%d of %d new series took the places of idle ones", known, each)
	}
}

func TestConcurrentUse(t *testing.T) {
	c := New(Options{MaxBytes: 1 << 20, Key: labels.Labels.Hash})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 2))
			for range 200 {
				request := rnd.Perm(100)
				for i, h := range ask(c, request) {
					if !labels.Equal(h.Labels, labelsOf(request[i])) {
						t.Errorf("series %d has the handle of %s", request[i], h.Labels)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if n, _ := c.size(); n != 100 {
		t.Errorf("%d entries for 100 series", n)
	}
}

// BenchmarkCursor goes through 60,000 series with names of 270 bytes, as a node that is sent
// that many does.
func BenchmarkCursor(b *testing.B) {
	const n = 60_000
	names := make([][]byte, n)
	for i := range names {
		names[i] = fmt.Appendf(nil, "%0260d series %06d", 0, i)
	}
	c := New(Options{MaxBytes: 1 << 30, Key: labels.Labels.Hash})
	cursor := c.Start()
	for i, name := range names {
		cursor.Add(name, labelsOf(i))
	}
	b.Run("guess", func(b *testing.B) {
		cursor := c.Start()
		cursor.Find(names[0])
		for i := 1; b.Loop(); i++ {
			if h, _ := cursor.Guess(names[i%n]); h == nil {
				cursor.Find(names[i%n]) // the first again
				continue
			}
			cursor.Accept()
		}
	})
	b.Run("find", func(b *testing.B) {
		cursor := c.Start()
		for i := 0; b.Loop(); i++ {
			if cursor.Find(names[i%n]) == nil {
				b.Fatal("lost")
			}
		}
	})
}
