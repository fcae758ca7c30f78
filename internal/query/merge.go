package query

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
)

// merger walks the buffered answers of several nodes in label order. One goroutine uses
// it.
type merger struct {
	heads     headHeap
	labels    labels.Labels
	lanes     [][]chunk
	divergent int // series whose copies differed
}

func newMerger(answers []answer) *merger {
	m := &merger{heads: make(headHeap, 0, len(answers))}
	for _, a := range answers {
		if len(a.series) > 0 {
			m.heads = append(m.heads, a.series)
		}
	}
	heap.Init(&m.heads)
	return m
}

// Next moves to the next series. After it, labels are those of the series and lanes its
// chunks, owned by the caller.
func (m *merger) Next() bool {
	if len(m.heads) == 0 {
		return false
	}
	first := m.pop()
	m.labels = first.labels
	var others [][]chunk
	for len(m.heads) > 0 && labels.Equal(m.heads[0][0].labels, first.labels) {
		next := m.pop()
		if !slices.EqualFunc(next.chunks, first.chunks, chunk.equal) {
			others = append(others, next.chunks)
		}
	}
	if others == nil {
		m.lanes = appendLanes(nil, first.chunks)
		return true
	}
	m.divergent++
	m.lanes = lanesOf(append(others, first.chunks))
	return true
}

// pop takes the next series off the node that is first in label order.
func (m *merger) pop() stored {
	s := m.heads[0][0]
	if m.heads[0] = m.heads[0][1:]; len(m.heads[0]) > 0 {
		heap.Fix(&m.heads, 0)
	} else {
		heap.Pop(&m.heads)
	}
	return s
}

// headHeap orders what is left of the nodes' answers by the labels that come next.
type headHeap [][]stored

func (h headHeap) Len() int           { return len(h) }
func (h headHeap) Less(i, j int) bool { return labels.Compare(h[i][0].labels, h[j][0].labels) < 0 }
func (h headHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *headHeap) Push(x any)        { *h = append(*h, x.([]stored)) }

func (h *headHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// lanesOf reduces the copies of one series to lanes: lists of chunks that do not
// overlap, and that hold each distinct chunk once. The fullest copy is kept whole and
// comes first, so that copies which merely lack some of its chunks vanish. Lanes depend
// on what the copies hold and not on which node holds it. The copies are sorted lists of
// chunks.
func lanesOf(copies [][]chunk) [][]chunk {
	slices.SortFunc(copies, func(a, b []chunk) int {
		return cmp.Or(cmp.Compare(countSamples(b), countSamples(a)), slices.CompareFunc(a, b, compareChunks))
	})
	copies = slices.CompactFunc(copies, func(a, b []chunk) bool { return slices.EqualFunc(a, b, chunk.equal) })
	lanes := make([][]chunk, 0, len(copies))
	for i, list := range copies {
		if i > 0 {
			list = without(list, copies[:i])
		}
		lanes = appendLanes(lanes, list)
	}
	return lanes
}

func countSamples(list []chunk) int {
	n := 0
	for _, c := range list {
		n += numSamples(c.data)
	}
	return n
}

func (c chunk) equal(d chunk) bool { return c.compare(d) == 0 }

// without returns the chunks that are in none of the other lists.
func without(list []chunk, others [][]chunk) []chunk {
	var rest []chunk
	for _, c := range list {
		known := slices.ContainsFunc(others, func(other []chunk) bool {
			_, found := slices.BinarySearchFunc(other, c, compareChunks)
			return found
		})
		if !known {
			rest = append(rest, c)
		}
	}
	return rest
}

// appendLanes appends a sorted list of chunks as one lane, or as several if chunks
// overlap, which those of one node do not do as a rule.
func appendLanes(lanes [][]chunk, list []chunk) [][]chunk {
	overlap := false
	for i := 1; i < len(list) && !overlap; i++ {
		overlap = list[i].mint <= list[i-1].maxt
	}
	if !overlap {
		if len(list) > 0 {
			lanes = append(lanes, list)
		}
		return lanes
	}
	first := len(lanes)
	for _, c := range list {
		free := slices.IndexFunc(lanes[first:], func(lane []chunk) bool { return lane[len(lane)-1].maxt < c.mint })
		if free < 0 {
			lanes = append(lanes, []chunk{c})
			continue
		}
		lanes[first+free] = append(lanes[first+free], c)
	}
	return lanes
}
