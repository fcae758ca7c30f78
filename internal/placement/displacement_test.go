package placement

import (
	"fmt"
	"slices"
	"testing"
)

// maxMoved bounds what moves, as a multiple of what has to, and maxMovedLimited where a zone
// is so small that its nodes take a share of the keys only.
const maxMoved, maxMovedLimited = 1.07, 1.3

func TestDisplacement(t *testing.T) {
	const copies = 3
	type change struct {
		name          string
		before, after []Slot
	}
	joins := func(n, zones int) change {
		return change{fmt.Sprintf("%d zones, join %d to %d", zones, n, n+1), zoned(n, zones), zoned(n+1, zones)}
	}
	leaves := func(n, zones int) change {
		return change{fmt.Sprintf("%d zones, leave %d to %d", zones, n, n-1), zoned(n, zones), without(zoned(n, zones), 1)}
	}
	var changes []change
	for _, n := range []int{3, 5, 19} {
		changes = append(changes, joins(n, 1))
	}
	for _, n := range []int{6, 20} {
		leave := leaves(n, 1)
		fill := change{fmt.Sprintf("1 zones, fill the hole of %d", n), leave.after, leave.before}
		changes = append(changes, leave, fill)
	}
	for _, zones := range []int{2, 3, 5} {
		for _, n := range []int{6, 8, 18} {
			changes = append(changes, joins(n, zones), leaves(n+1, zones))
		}
	}
	uneven := func(before, after string) {
		changes = append(changes, change{before + " to " + after, layout(before), layout(after)})
	}
	for _, grown := range []string{"a", "b", "c"} {
		uneven("a a a a b b b b c", "a a a a b b b b c "+grown)
		uneven("a a a a b b b b c c", "a a a a b b b b c c "+grown)
	}
	uneven("a a a a b b b b c", "a a a - b b b b c")
	uneven("a a a a b b b b c c", "a a a a b b b b - c")
	uneven("a a a b b b c", "a a a b b b c c")
	uneven("a a a a a b b c c", "a a a a a b b c c c")
	uneven("a a b b c c", "a a b b - c")
	uneven("a b c", "a b c a")
	uneven("a b c a", "a b c a b")
	uneven("a a a a a a a a a a b c", "a a a a a a a a a a b c b")
	uneven("a a a a a a a a a a b c b", "a a a a a a a a a a b c b c")
	uneven("a a a a a a a a a a b c b c", "a a a a a a a a a a b c b c b")
	uneven("a a a a a a a a b b b b b b b b c c", "a a a a a a a a b b b b b b b b c c c")
	uneven("a a a a a a a b b b b b b b c d", "a a a a a a a b b b b b b b c d c")
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			total, twice, best := moved(c.before, c.after, copies)
			ratio := float64(total) / float64(best)
			t.Logf("%d of %d copies move (%.2f%%), at best %d: %.3f times the optimum; two or more copies of %.2f%% of the series",
				total, copies*seriesCount, 100*float64(total)/(copies*seriesCount), best, ratio, 100*float64(twice)/seriesCount)
			most := maxMoved
			if !NewMap(c.before, copies).Spread() || !NewMap(c.after, copies).Spread() {
				most = maxMovedLimited
			}
			if ratio > most {
				t.Errorf("%.3f times the optimum moves, want at most %.2f", ratio, most)
			}
		})
	}
}

// A hole gives away its own copies and no others, one per key, and what it gives away
// does not fall on a neighbour. When a node fills it, every copy lies where it lay.
func TestHole(t *testing.T) {
	const copies = 3
	for _, n := range []int{6, 20} {
		full := zoneless(n)
		for _, hole := range []int{0, 1, n - 1} {
			t.Run(fmt.Sprintf("slot %d of %d", hole, n), func(t *testing.T) {
				holed := without(full, hole)
				filled := append(slices.Clone(holed[:hole]), Slot{Occupied: true})
				filled = append(filled, holed[hole+1:]...)
				mf, mh, mr := NewMap(full, copies), NewMap(holed, copies), NewMap(filled, copies)
				var of, oh, or []int
				for _, key := range seriesKeys() {
					of, oh, or = mf.Owners(key, of), mh.Owners(key, oh), mr.Owners(key, or)
					if !slices.Equal(of, or) {
						t.Fatalf("key %016x: owners %v, and %v after the hole was filled", key, of, or)
					}
					for _, o := range of {
						if o != hole && !slices.Contains(oh, o) {
							t.Fatalf("key %016x: owners %v became %v", key, of, oh)
						}
					}
				}
				load := loads(t, holed, copies)
				mean := float64(copies*seriesCount) / float64(n-1)
				worst := float64(slices.Max(load)) / mean
				t.Logf("load ratio of the fullest node %.3f", worst)
				if worst > 1.02 {
					t.Errorf("the fullest node holds %.3f times the mean: %v", worst, load)
				}
			})
		}
	}
}
