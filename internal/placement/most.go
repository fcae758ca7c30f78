package placement

// MostCopies returns how many copies of one key can lie on the slots that are told: none that
// Owners returns has more there. Holes count for nothing.
//
// Slots of one zone hold a copy together where zones suffice, so that a whole zone may be
// missing and no key lacks more than one copy.
func (m *Map) MostCopies(told func(slot int) bool) int {
	in := make([]int, len(m.groups))
	for slot, group := range m.groupOf {
		if group != hole && told(slot) {
			in[group]++
		}
	}
	most, elsewhere := 0, 0
	for i, g := range m.groups {
		most += min(in[i], g.room)
		if in[i] == 0 && g.least == 0 {
			elsewhere++
		}
	}
	if m.copies >= len(m.groups) {
		// Every group that takes all keys has a copy.
		return min(most, m.copies-elsewhere)
	}
	return min(most, m.copies)
}

// Spread tells whether the copies of every key lie in as many zones as there can be.
func (m *Map) Spread() bool {
	large := 0
	for _, g := range m.groups {
		if g.least == 0 {
			large++
		}
	}
	return large >= min(m.copies, m.zones)
}
