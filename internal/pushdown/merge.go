package pushdown

import (
	"container/heap"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
)

// betweenChecks is how many values are sorted or merged between two calls of check.
const betweenChecks = 4096

// Merge puts together what all nodes make of a fragment, each of series of its own. Values are
// sorted by labels; they take over those of the parts. It is fastest where those of each part are
// sorted, too. Check is called every few milliseconds, and ends the merge by its error. An error
// that is an *UnprovenError asks for another way.
func (f *Fragment) Merge(g Grid, parts []*Partial, check func() error) (*Partial, error) {
	whole := &Partial{}
	var runs runs
	values := 0
	for _, p := range parts {
		whole.Samples += p.Samples
		whole.Found = whole.Found || p.Found
		values += len(p.Values)
		some, err := sortedRuns(p.Values, check)
		if err != nil {
			return nil, err
		}
		for _, s := range some {
			runs = append(runs, run{values: s, order: len(runs)})
		}
	}
	whole.Values = slices.Grow(whole.Values, values)
	example := NewValues(f.Op, labels.EmptyLabels(), 0)
	heap.Init(&runs)
	for n := 1; len(runs) > 0; n++ {
		if n%betweenChecks == 0 {
			if err := check(); err != nil {
				return nil, err
			}
		}
		next := &runs[0].values[0]
		if err := next.check(example, g.Len()); err != nil {
			return nil, err
		}
		last := len(whole.Values) - 1
		if last >= 0 && labels.Equal(whole.Values[last].Labels, next.Labels) {
			if err := whole.Values[last].merge(f.Op, next); err != nil {
				return nil, err
			}
		} else {
			whole.Values = append(whole.Values, *next)
		}
		runs.advance()
	}
	return whole, nil
}

func compare(a, b Values) int { return labels.Compare(a.Labels, b.Labels) }

// sortedRuns returns the values of a part as lists of which each is sorted.
func sortedRuns(values []Values, check func() error) (all [][]Values, err error) {
	if len(values) == 0 {
		return nil, check()
	}
	if slices.IsSortedFunc(values, compare) {
		return [][]Values{values}, check()
	}
	for some := range slices.Chunk(values, betweenChecks) {
		if err := check(); err != nil {
			return nil, err
		}
		slices.SortFunc(some, compare)
		all = append(all, some)
	}
	return all, nil
}

// run is what is left of a sorted list of values, with its place among the lists.
type run struct {
	values []Values
	order  int
}

// runs are a heap of lists that are not empty, by their first values. Equal ones are in the order of
// the parts, so that the same parts give the same sums.
type runs []run

// Len implements heap.Interface.
func (r runs) Len() int { return len(r) }

// Less implements heap.Interface.
func (r runs) Less(i, j int) bool {
	if c := compare(r[i].values[0], r[j].values[0]); c != 0 {
		return c < 0
	}
	return r[i].order < r[j].order
}

// Swap implements heap.Interface.
func (r runs) Swap(i, j int) { r[i], r[j] = r[j], r[i] }

// Push implements heap.Interface.
func (r *runs) Push(x any) { *r = append(*r, x.(run)) }

// Pop implements heap.Interface.
func (r *runs) Pop() any {
	last := len(*r) - 1
	x := (*r)[last]
	*r = (*r)[:last]
	return x
}

// advance drops the first value of all.
func (r *runs) advance() {
	first := &(*r)[0]
	if first.values = first.values[1:]; len(first.values) == 0 {
		heap.Pop(r)
		return
	}
	heap.Fix(r, 0)
}
