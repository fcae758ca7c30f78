package plan

import (
	"math/rand/v2"
	"slices"

	"github.com/starling-tsdb/starling/internal/table"
)

// Losses returns, by the number of owners from 0 to all copies, the share of series that have so
// many of their owners among the given nodes and those that are removed. It is an estimate, and
// takes a good part of a second.
func Losses(a *table.Assignment, gone []table.NodeID) []float64 {
	lost := make([]bool, len(a.Slots))
	for i, s := range a.Slots {
		lost[i] = s.Removed || slices.Contains(gone, s.Node)
	}
	placed := Place(a)
	shares := make([]float64, placed.Copies()+1)
	keys := rand.NewPCG(0, 0)
	var owners []int
	for range sampleSize {
		owners = placed.Owners(keys.Uint64(), owners)
		n := 0
		for _, o := range owners {
			if lost[o] {
				n++
			}
		}
		shares[n] += 1.0 / sampleSize
	}
	return shares
}
