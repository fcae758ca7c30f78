package handles

import (
	"math/rand/v2"
	"testing"
)

// TestNumbers takes runs and gives parts of them back, in any order.
func TestNumbers(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var n numbers
		taken := map[uint32]bool{}
		var list []uint32
		most := 0
		for range 2000 {
			if rnd.IntN(5) > 0 || len(list) == 0 {
				r := n.take()
				if r.from >= r.to {
					t.Fatalf("seed %d: an empty run %v", seed, r)
				}
				kept := r.from + 1 + rnd.Uint32N(r.to-r.from)
				if kept < r.to {
					n.give(run{kept, r.to})
				}
				for i := r.from; i < kept; i++ {
					if taken[i] {
						t.Fatalf("seed %d: %d was given twice", seed, i)
					}
					taken[i] = true
					list = append(list, i)
				}
			}
			for rnd.IntN(30) > 0 && len(list) > int(seed)*10 {
				i := rnd.IntN(len(list))
				n.give(run{list[i], list[i] + 1})
				delete(taken, list[i])
				list[i] = list[len(list)-1]
				list = list[:len(list)-1]
			}
			most = max(most, len(list))
			if n.free != 64*len(n.taken)-len(taken) {
				t.Fatalf("seed %d: %d of %d numbers are free with %d taken", seed, n.free, 64*len(n.taken), len(taken))
			}
		}
		if limit := most*leastFree/(leastFree-1) + 2*64; 64*len(n.taken) > limit {
			t.Errorf("seed %d: %d numbers where %d were taken at most", seed, 64*len(n.taken), most)
		}
	}
}

// TestIndexesFollow: series that come together are neighbours, though other requests come
// between, and so are those that take the places of idle ones.
func TestIndexesFollow(t *testing.T) {
	c, clk := newTestCache(1 << 30)
	jumps := func(first, each int) (jumps, highest int) {
		a, b := c.Start(), c.Start()
		defer a.Close()
		defer b.Close()
		var last [2]uint32
		for i := range each {
			for j, cursor := range []*Cursor{&a, &b} {
				h := cursor.Add(nameOf(first+j*each+i), labelsOf(first+j*each+i))
				if h.Index != last[j]+1 {
					jumps++
				}
				last[j], highest = h.Index, max(highest, int(h.Index))
			}
		}
		return jumps, highest
	}
	for generation := range 20 {
		n, highest := jumps(generation*4000, 2000)
		// Some places of the generation before are free before others.
		if n > 1000 || highest > 6000 {
			t.Errorf("generation %d: %d of 4000 series do not follow the one before; the highest index is %d", generation, n, highest)
		}
		clk.at = clk.at.Add(idle)
	}
}
