package handles

import (
	"math/bits"
	"sync"
)

// numbers are the indexes of handles. Those that one request takes follow one another, so that
// who knows series by them meets the series of a request in order, in memory as on the wire.
// New ones are begun only while less than a quarter of the others are free.
type numbers struct {
	mu sync.Mutex
	// taken has a bit for each number, free counts those that are not set, and hand is the
	// word that is looked at next.
	taken []uint64
	free  int
	hand  int
}

// run is the numbers from one up to, and without, another one.
type run struct{ from, to uint32 }

// leastFree is the part of all numbers, one of so many, that has to be free before the hand
// goes round once more.
const leastFree = 4

// take reserves some numbers that follow one another, one at least.
func (n *numbers) take() run {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if n.hand == len(n.taken) {
			if n.free*leastFree < 64*len(n.taken) || n.free == 0 {
				n.taken = append(n.taken, 0)
				n.free += 64
			} else {
				n.hand = 0
			}
		}
		if w := n.taken[n.hand]; ^w != 0 {
			from := bits.TrailingZeros64(^w)
			length := bits.TrailingZeros64(w >> from) // 64 if nothing is taken behind
			r := run{from: uint32(64*n.hand + from), to: uint32(64*n.hand + min(64, from+length))}
			n.set(r)
			return r
		}
		n.hand++
	}
}

// give makes the numbers free again.
func (n *numbers) give(r run) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set(r)
}

// set changes the state of all numbers of a run, which is within a word.
func (n *numbers) set(r run) {
	w := &n.taken[r.from/64]
	before := bits.OnesCount64(*w)
	*w ^= (1<<(r.to-r.from) - 1) << (r.from % 64)
	n.free -= bits.OnesCount64(*w) - before
}
