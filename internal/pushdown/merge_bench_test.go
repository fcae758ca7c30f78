package pushdown

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// BenchmarkMerge puts together what three nodes answer with, 10,000 values of 20 steps in all: of
// series that one node has each, in order and as workers have them, and of groups that all have.
func BenchmarkMerge(b *testing.B) {
	const nodes, each, steps = 3, 3333, 20
	g := Grid{Start: 0, End: steps - 1, Step: 1}
	for _, c := range []struct {
		name           string
		op             parser.ItemType
		shared, sorted bool
	}{
		{"series in order", 0, false, true},
		{"series in no order", 0, false, false},
		{"groups in order", parser.SUM, true, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			made := make([][]Values, nodes)
			for i := range nodes * each {
				node, pod := i%nodes, i
				if c.shared {
					pod = i / nodes
				}
				ls := labels.FromStrings("cluster", "eu-west-1", "job", "service", "namespace", fmt.Sprintf("team-%d", pod%20), "pod", fmt.Sprintf("pod-%06d", pod))
				v := NewValues(c.op, ls, steps)
				for step := range v.N {
					v.N[step] = 1
				}
				made[node] = append(made[node], v)
			}
			for _, list := range made {
				if c.sorted {
					slices.SortFunc(list, compare)
				} else {
					rand.New(rand.NewPCG(1, 1)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				}
			}
			f := &Fragment{Op: c.op}
			b.ReportAllocs()
			for b.Loop() {
				parts := make([]*Partial, nodes)
				for i := range parts {
					parts[i] = &Partial{Values: slices.Clone(made[i])}
				}
				if _, err := f.Merge(g, parts, always); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
