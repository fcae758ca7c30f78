package pushdown

import (
	"container/heap"
	"math"
	"slices"
)

// Prune leaves of each group, at each step, the samples only that can be among the Top of all
// nodes together: those that are among the Top here. Of equal ones any may stay, as with the
// engine.
func (f *Fragment) Prune(p *Partial) {
	for _, group := range f.groups(p.Values) {
		if len(group) <= f.Top {
			continue
		}
		best := &best{bottom: f.Bottom}
		for step := range p.Values[group[0]].N {
			best.of(p.Values, group, step, f.Top)
		}
	}
	p.Values = slices.DeleteFunc(p.Values, func(v Values) bool {
		return !slices.ContainsFunc(v.N, func(n uint64) bool { return n > 0 })
	})
}

// groups returns the places of values that the engine compares with each other.
func (f *Fragment) groups(values []Values) [][]int {
	var groups [][]int
	number := map[string]int{}
	names := f.Names()
	var key []byte
	for i := range values {
		key = f.Key(values[i].Labels, names, key)
		n, known := number[string(key)]
		if !known {
			n = len(groups)
			number[string(key)] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], i)
	}
	return groups
}

// best is a heap with the worst of the best samples of a step on top.
type best struct {
	bottom bool
	values []float64
	places []int
}

// of drops the samples of a step that are not among the k best of a group.
func (b *best) of(values []Values, group []int, step, k int) {
	b.values, b.places = b.values[:0], b.places[:0]
	for _, i := range group {
		v := &values[i]
		switch {
		case v.N[step] == 0:
		case len(b.places) < k:
			heap.Push(b, ranked{v.V[step], i})
		case b.worse(b.values[0], v.V[step]):
			values[b.places[0]].N[step] = 0
			b.values[0], b.places[0] = v.V[step], i
			heap.Fix(b, 0)
		default:
			v.N[step] = 0
		}
	}
}

// worse tells whether one value comes after another. Whatever is asked for, NaN comes last.
func (b *best) worse(v, than float64) bool {
	switch {
	case math.IsNaN(v):
		return !math.IsNaN(than)
	case b.bottom:
		return v > than
	default:
		return v < than
	}
}

type ranked struct {
	value float64
	place int
}

// Len implements heap.Interface.
func (b *best) Len() int { return len(b.values) }

// Less implements heap.Interface.
func (b *best) Less(i, j int) bool { return b.worse(b.values[i], b.values[j]) }

// Swap implements heap.Interface.
func (b *best) Swap(i, j int) {
	b.values[i], b.values[j] = b.values[j], b.values[i]
	b.places[i], b.places[j] = b.places[j], b.places[i]
}

// Push implements heap.Interface.
func (b *best) Push(x any) {
	r := x.(ranked)
	b.values, b.places = append(b.values, r.value), append(b.places, r.place)
}

// Pop implements heap.Interface.
func (b *best) Pop() any {
	last := len(b.values) - 1
	r := ranked{b.values[last], b.places[last]}
	b.values, b.places = b.values[:last], b.places[:last]
	return r
}
