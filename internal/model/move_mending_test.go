package model

// mending is how nodes find that they lost what they had, and make it good: by proven reads
// among the other owners.
var mending = []kind[*mover, moveState]{
	{
		name: "damage: node %x finds its store damaged", numbers: "x", weight: 1,
		can: func(m *mover, s *moveState, a action) bool { return s.fragile.has(a.x) && m.bears(s, a.x) },
		do: func(m *mover, s *moveState, a action) {
			m.lack(s, a.x)
			s.nodes[a.x].damaged = s.nodes[a.x].epoch
		},
	}, {
		// The worst that it can be is a copy from the very beginning.
		name: "age: node %x finds that its directory is an old copy", numbers: "x", weight: 1,
		can: func(m *mover, s *moveState, a action) bool { return s.aged.has(a.x) && m.bears(s, a.x) },
		do: func(m *mover, s *moveState, a action) {
			m.lack(s, a.x)
			s.pairs[a.x] = [maxNodes]movePair{}
			n := &s.nodes[a.x]
			n.old, n.epoch, n.disk, n.damaged = 1, 1, 1, s.newest
			if !m.OldCopyLater {
				n.damaged = n.epoch
			}
		},
	}, {
		name: "mend: node %x has made good what it lost, and counts again", numbers: "x",
		can: (*mover).canMend,
		do: func(m *mover, s *moveState, a action) {
			n := &s.nodes[a.x]
			n.damaged, n.old = 0, 0
			t := m.at(s, n.epoch)
			for series := range n.copies {
				// What was read in the copying is copied.
				c := moveCopy{}
				if series < len(m.scenario.series) && n.ready == 0 && t.phase == copying && n.copies[series].phase == done &&
					t.byTarget[series].set.has(a.x) && !m.retains(s, a.x, series) {
					c.phase = done
				}
				n.copies[series] = c
			}
		},
	},
}

// lack takes from a node all that it holds.
func (m *mover) lack(s *moveState, x uint8) {
	s.fragile, s.aged = 0, 0
	m.crash(s, x)
	n := &s.nodes[x]
	n.synced = 0
	if m.ReadyTakenBack && !m.scenario.late {
		n.ready = 0
	}
}

// outdated tells whether a node may have an older table than it had.
func (m *mover) outdated(n *moveNode) bool {
	return m.OldCopyRefuses && n.old != 0 && n.epoch <= n.damaged
}

// bears tells whether what a node holds may be lost: the other owners that are read from hold
// it as well, now and in the phase that follows.
func (m *mover) bears(s *moveState, x uint8) bool {
	t := m.newest(s)
	spare := func(owners []owned) bool {
		for i := range owners {
			if o := &owners[i]; o.set.has(x) && o.set.len() <= o.ask {
				return false
			}
		}
		return true
	}
	target := t.phase == switching || t.phase == copying && m.scenario.late
	return (t.phase == switching || spare(t.byCurrent)) && (!target || spare(t.byTarget))
}

// rebuilds tells whether a damaged node may read now what it lost of a series.
func (m *mover) rebuilds(s *moveState, x uint8, series int) bool {
	n := &s.nodes[x]
	t := m.at(s, n.epoch)
	if n.gone != 0 || n.epoch <= n.damaged && m.RebuildLater || !t.members().has(x) {
		return false
	}
	return t.byCurrent[series].set.has(x) || t.byTarget[series].set.has(x) && m.RebuildAll
}

// sources returns the owners that one copies from.
func (m *mover) sources(s *moveState, a action) *owned {
	n := &s.nodes[a.y]
	t := m.at(s, n.epoch)
	if n.damaged != 0 && (t.phase == switching || t.phase == copying && !m.RebuildRead) {
		return &t.byTarget[a.w]
	}
	return &t.byCurrent[a.w]
}

// oneRound tells whether stores are read with the answers: that is a mistake.
func (m *mover) oneRound(reader *moveNode) bool {
	if reader.damaged != 0 {
		return !m.RebuildSecondRound
	}
	return !m.CopySecondRound
}

// takeOver has an old copy note the gaps that it may have noted.
func (m *mover) takeOver(s *moveState, x uint8, noted set) {
	if s.nodes[x].old == 0 || !m.RebuildTakesNotes {
		return
	}
	for y := range m.scenario.nodes {
		if noted.without(x).has(y) {
			s.pairs[x][y].gap = 1
		}
	}
}

func (m *mover) canMend(s *moveState, a action) bool {
	n := &s.nodes[a.x]
	t := m.at(s, n.epoch)
	if n.damaged == 0 || n.epoch <= n.damaged && m.RebuildLater || !t.members().has(a.x) || n.unsynced != 0 && m.RebuildSynced {
		return false
	}
	for series := range m.scenario.series {
		if m.rebuilds(s, a.x, series) && !m.rebuilt(s, a.x, series) {
			return false
		}
	}
	return true
}

// rebuilt tells whether all of a series is made good. There is nothing to read if the node
// is the one that serves it.
func (m *mover) rebuilt(s *moveState, x uint8, series int) bool {
	if s.nodes[x].copies[series].phase >= done {
		return true
	}
	c, ok := m.proven(s, action{w: uint8(series), y: x})
	return ok && c.servers == 0
}

// retainsAll tells whether a target owner that is not ready yet gains nothing.
func (m *mover) retainsAll(s *moveState, x uint8) bool {
	n := &s.nodes[x]
	t := m.at(s, n.epoch)
	owned := m.ownedBy(x, t.byTarget)
	return t.phase == copying && n.ready == 0 && owned != 0 && m.ownedBy(x, t.byCurrent).holds(owned)
}
