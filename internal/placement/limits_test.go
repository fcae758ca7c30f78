package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSpread prints what becomes of zones of different sizes: how full the fullest node is, and
// how many series lie in how many zones.
func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		copies int
		sizes  []int
		// strict tells that all series lie in as many zones as there can be; crowded is the
		// share of the others in percent, about.
		strict  bool
		crowded float64
	}{
		{3, []int{3, 3, 3}, true, 0},
		{3, []int{2, 2, 2}, true, 0},
		{3, []int{2, 2, 1}, true, 0},
		{3, []int{3, 2, 2}, true, 0},
		{3, []int{5, 2, 2}, true, 0},
		{3, []int{4, 4, 2}, true, 0},
		{3, []int{3, 3, 1}, false, 14.3},
		{3, []int{4, 4, 1}, false, 33.3},
		{3, []int{9, 9, 1}, false, 68.4},
		{3, []int{4, 1, 1}, true, 0},
		{3, []int{10, 2, 1}, false, 100},
		{3, []int{10, 1, 1}, false, 100},
		{3, []int{20, 1, 1}, false, 100},
		{3, []int{6}, true, 0},
		{3, []int{3, 3}, true, 0},
		{3, []int{5, 1}, true, 0},
		{3, []int{10, 1}, false, 45.5},
		{3, []int{2, 2, 2, 1}, true, 0},
		{3, []int{4, 4, 4, 1}, true, 0},
		{3, []int{5, 5, 1, 1}, true, 0},
		{3, []int{10, 10, 1, 1}, false, 45.5},
		{3, []int{6, 1, 1, 1, 1, 1, 1}, true, 0},
		{2, []int{4, 1}, false, 20},
		{2, []int{9, 1}, false, 60},
		{5, []int{3, 2, 2, 2, 2}, true, 0},
		{5, []int{6, 6, 1}, false, 23.1},
	} {
		t.Run(fmt.Sprintf("%d copies in zones of %v", tt.copies, tt.sizes), func(t *testing.T) {
			slots := sized(tt.sizes...)
			m := NewMap(slots, tt.copies)
			load, zones := make([]int, len(slots)), map[int]int{}
			var owners []int
			for _, key := range seriesKeys() {
				owners = m.Owners(key, owners)
				zones[zonesOf(slots, owners)]++
				for _, o := range owners {
					load[o]++
				}
			}
			fullest := float64(slices.Max(load)) * float64(len(slots)) / float64(tt.copies*seriesCount)
			crowded := 0.0
			for n, series := range zones {
				share := 100 * float64(series) / seriesCount
				t.Logf("%.1f%% of the series lie in %d zones", share, n)
				if n < min(tt.copies, len(tt.sizes)) {
					crowded += share
				}
			}
			t.Logf("the fullest node holds %.2f times the mean", fullest)
			if m.Spread() != tt.strict || tt.strict != (crowded == 0) || math.Abs(crowded-tt.crowded) > 0.5 {
				t.Errorf("spread strictly: %t, %.1f%% in fewer zones; want %t, %.1f%%", m.Spread(), crowded, tt.strict, tt.crowded)
			}
			if fullest > 1.01*MaxLoad {
				t.Errorf("the fullest node holds %.2f times the mean", fullest)
			}
		})
	}
}

// TestLoadIsBounded: no node is given more than MaxLoad times the mean, whatever the zones.
func TestLoadIsBounded(t *testing.T) {
	const keys = 20_000
	worst, limited := 0.0, 0
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 3))
		copies, sizes := 1+rng.IntN(6), make([]int, 1+rng.IntN(7))
		for i := range sizes {
			sizes[i] = 1 + rng.IntN(1+rng.IntN(12))
		}
		slots := sized(sizes...)
		m, load := NewMap(slots, copies), make([]int, len(slots))
		var owners []int
		for range keys {
			owners = m.Owners(rng.Uint64(), owners)
			for _, o := range owners {
				load[o]++
			}
		}
		if !m.Spread() {
			limited++
		}
		mean := float64(m.Copies()*keys) / float64(len(slots))
		fullest := float64(slices.Max(load))
		worst = max(worst, fullest/mean)
		// Six standard deviations of a fair draw.
		if most := MaxLoad * mean; fullest > most+6*math.Sqrt(most) {
			t.Errorf("seed %d: %d copies in zones of %v: the fullest node holds %.3f times the mean", seed, copies, sizes, fullest/mean)
		}
	}
	t.Logf("at most %.3f times the mean; the copies of all series could not be spread in %d cases", worst, limited)
	if worst < 0.9*MaxLoad || limited == 0 {
		t.Error("no case came near the bound")
	}
}

// A look-up must not depend on the order of floating-point operations: nodes of different
// kinds would not agree.
func TestLeast(t *testing.T) {
	for _, tt := range []struct {
		power       int
		part, whole uint64
		want        float64
	}{
		{1, 1, 3, 1. / 3},
		{1, 5, 9, 5. / 9},
		{2, 1, 4, 0.5},
		{3, 1, 8, 0.5},
		{7, 1, 1000, math.Pow(0.001, 1./7)},
	} {
		if got := float64(least(tt.power, tt.part, tt.whole)) / (1 << 64); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("the %dth root of %d/%d is %v, want %v", tt.power, tt.part, tt.whole, got, tt.want)
		}
	}
}
