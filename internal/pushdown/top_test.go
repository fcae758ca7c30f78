package pushdown

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// The best of the best of all parts are the best of all.
func TestPruneKeepsTheBest(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 3))
		f := &Fragment{Top: 1 + rng.IntN(4), Bottom: rng.IntN(2) == 0, Grouping: []string{"a"}, Without: rng.IntN(2) == 0}
		const steps = 3
		var all []Values
		for i := range rng.IntN(30) {
			v := NewValues(0, labels.FromStrings("__name__", "m", "a", fmt.Sprint(i%3), "b", fmt.Sprint(i), "c", fmt.Sprint(i%2)), steps)
			for step := range steps {
				if rng.IntN(4) > 0 {
					v.N[step], v.V[step] = 1, []float64{math.NaN(), math.Inf(1), math.Inf(-1), float64(rng.IntN(9)), rng.Float64()}[rng.IntN(5)]
				}
			}
			all = append(all, v)
		}
		want := f.top(all, steps)
		parts := make([]Partial, 1+rng.IntN(3))
		for _, v := range all {
			p := &parts[rng.IntN(len(parts))]
			v.N = slices.Clone(v.N)
			p.Values = append(p.Values, v)
		}
		var left []Values
		for i := range parts {
			f.Prune(&parts[i])
			left = append(left, parts[i].Values...)
			for _, group := range f.groups(parts[i].Values) {
				for step := range steps {
					if n := count(parts[i].Values, group, step); n > f.Top {
						t.Fatalf("seed %d: %d samples of a group are left", seed, n)
					}
				}
			}
		}
		if got := f.top(left, steps); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %+v\n%q, want\n%q", seed, f, got, want)
		}
	}
}

func count(values []Values, group []int, step int) (n int) {
	for _, i := range group {
		n += int(values[i].N[step])
	}
	return n
}

// top sorts the samples of each group and step, and returns the values of the best of them.
func (f *Fragment) top(values []Values, steps int) (out []string) {
	for _, group := range f.groups(values) {
		for step := range steps {
			var row []float64
			for _, i := range group {
				if values[i].N[step] > 0 {
					row = append(row, values[i].V[step])
				}
			}
			slices.SortFunc(row, func(a, b float64) int {
				switch {
				case math.IsNaN(a) || math.IsNaN(b):
					return cmp.Compare(number(math.IsNaN(a)), number(math.IsNaN(b)))
				case f.Bottom:
					return cmp.Compare(a, b)
				default:
					return cmp.Compare(b, a)
				}
			})
			if len(row) > 0 {
				key := values[group[0]].Labels.BytesWithLabels(nil, "a")
				if f.Without {
					key = values[group[0]].Labels.BytesWithoutLabels(nil, "__name__", "a")
				}
				out = append(out, fmt.Sprintf("%q %d %v", key, step, row[:min(len(row), f.Top)]))
			}
		}
	}
	slices.Sort(out)
	return out
}
