package merge

// Strings calls yield with the strings of sorted lists in order, each once, until it returns
// false. The lists are used up.
func Strings(lists [][]string, yield func(string) bool) {
	h := stringHeap(make([][]string, 0, len(lists)))
	for _, l := range lists {
		if len(l) > 0 {
			h = append(h, l)
		}
	}
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.sink(i)
	}
	last, begun := "", false
	for len(h) > 1 {
		s := h[0][0]
		if !begun || s != last {
			if !yield(s) {
				return
			}
			last, begun = s, true
		}
		h = h.pop()
	}
	if len(h) == 0 {
		return
	}
	for _, s := range h[0] {
		if (!begun || s != last) && !yield(s) {
			return
		}
		last, begun = s, true
	}
}

// stringHeap are lists of which none is empty; the first one begins with the least string.
type stringHeap [][]string

// pop removes the least string.
func (h stringHeap) pop() stringHeap {
	if h[0] = h[0][1:]; len(h[0]) == 0 {
		h[0] = h[len(h)-1]
		h = h[:len(h)-1]
	}
	h.sink(0)
	return h
}

// sink moves a list down to where it belongs.
func (h stringHeap) sink(i int) {
	for {
		least := 2*i + 1
		if least >= len(h) {
			return
		}
		if r := least + 1; r < len(h) && h[r][0] < h[least][0] {
			least = r
		}
		if h[i][0] <= h[least][0] {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}
