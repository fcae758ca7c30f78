package merge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestStrings(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		lists, want := make([][]string, rng.IntN(6)), []string{}
		for i := range lists {
			for range rng.IntN(20) {
				lists[i] = append(lists[i], []string{"", fmt.Sprint(rng.IntN(30))}[min(1, rng.IntN(9))])
			}
			want = append(want, lists[i]...)
			slices.Sort(lists[i])
		}
		slices.Sort(want)
		want = slices.Compact(want)
		limit := len(want)
		if rng.IntN(3) == 0 {
			limit = rng.IntN(len(want) + 1)
		}
		got := []string{}
		Strings(lists, func(s string) bool {
			if len(got) == limit {
				return false
			}
			got = append(got, s)
			return true
		})
		if !slices.Equal(got, want[:limit]) {
			t.Fatalf("seed %d: got %q, want %q", seed, got, want[:limit])
		}
	}
}
