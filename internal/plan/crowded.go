package plan

import (
	"math/rand/v2"
	"slices"

	"github.com/starling-tsdb/starling/internal/table"
)

// crowdedSample is the number of keys that Crowded places. The standard error is half a
// percentage point at most.
const crowdedSample = 10_000

// Crowded is about which part of the series, from 0 to 1, have their copies in fewer zones
// than they could, because a zone is too small for them. It is exact if it is 0.
func Crowded(a *table.Assignment) float64 {
	placed := Place(a)
	if placed.Spread() {
		return 0
	}
	zone := func(slot int) string { return a.Slots[slot].Zone }
	zones := map[string]bool{}
	for slot, s := range a.Slots {
		if s.Node != "" {
			zones[zone(slot)] = true
		}
	}
	possible, crowded := min(placed.Copies(), len(zones)), 0
	keys := rand.NewPCG(0, 0)
	var owners []int
	for range crowdedSample {
		owners = placed.Owners(keys.Uint64(), owners)
		used := 0
		for i, o := range owners {
			if !slices.ContainsFunc(owners[:i], func(earlier int) bool { return zone(earlier) == zone(o) }) {
				used++
			}
		}
		if used < possible {
			crowded++
		}
	}
	return float64(crowded) / crowdedSample
}
