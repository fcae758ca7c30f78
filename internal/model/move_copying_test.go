package model

// adopting is how a node comes to the next epoch. Several at a time are as good as one after
// the other with nothing in between.
var adopting = []kind[*mover, moveState]{
	{
		name: "adopt: node %x adopts the next epoch", numbers: "x", remote: true,
		can: func(_ *mover, s *moveState, a action) bool { return s.nodes[a.x].epoch < s.newest },
		do:  (*mover).adopt,
	}, {
		name: "keep: node %x syncs its table", numbers: "x",
		can: func(_ *mover, s *moveState, a action) bool { return s.nodes[a.x].disk < s.nodes[a.x].epoch },
		do:  func(_ *mover, s *moveState, a action) { s.nodes[a.x].disk = s.nodes[a.x].epoch },
	},
}

// adopt also reports the epoch: others may hear of it at once or at any time later, and
// whoever acts on it later acts as one who was slow.
func (m *mover) adopt(s *moveState, a action) {
	n := &s.nodes[a.x]
	n.epoch++
	n.reported = max(n.reported, n.epoch)
	if m.TableSynced {
		n.disk = n.epoch
	}
	t := m.at(s, n.epoch)
	if m.ReadyPerPhase && n.ready != m.began(s, n.epoch) {
		n.ready = 0
	}
	m.carry(s, a.x)
	if m.AppendsBeforeNext {
		for i := range m.scenario.writes {
			if w := &s.writes[i]; w.at[a.x] == stored && w.epoch < n.epoch {
				w.at[a.x] = failed
			}
		}
	}
	if m.ReadAtEpoch && m.CopyAtEpoch {
		m.refuse(s, a.x)
	}
	m.cleanUp(s, a.x, t)
}

// carry takes what a node has copied to the epoch that it comes to. What it gains is copied
// for the whole phase, and what it makes good once, while it owns it. Whether somebody notes a
// gap for it is asked again.
func (m *mover) carry(s *moveState, x uint8) {
	n := &s.nodes[x]
	before, t := m.at(s, n.epoch-1), m.at(s, n.epoch)
	samePhase := m.began(s, n.epoch) < n.epoch
	for series := range n.copies {
		c := n.copies[series]
		n.copies[series] = moveCopy{}
		if c.phase != done && c.phase != renewed {
			continue
		}
		switch {
		case n.damaged != 0 && before.owners(series).has(x) && t.owners(series).has(x):
			if !samePhase {
				c.phase = renewed
			}
		case n.damaged != 0 || !samePhase || m.retains(s, x, series):
			c.phase = waiting
		}
		n.copies[series].phase = c.phase
	}
}

// cleanUp lets a node forget what its table does not give it. That is done at once: a node
// that holds less for longer can only do worse.
func (m *mover) cleanUp(s *moveState, x uint8, t *placed) {
	n := &s.nodes[x]
	keeps := m.ownedBy(x, t.byCurrent, t.byTarget)
	if !m.CleanUpAtEnd {
		keeps = m.ownedBy(x, t.byTarget)
	}
	n.synced &= keeps
	n.unsynced &= keeps
	members := t.members()
	for y := range m.scenario.nodes {
		if !members.has(y) || !members.has(x) {
			s.pairs[x][y] = movePair{}
		}
	}
}

// moving is how data moves: target owners make proven reads, and retained owners let others
// vouch for them; and the hand-offs.
var moving = []kind[*mover, moveState]{
	{
		name: "vouch: node %x answers node %y, which copies series %w, or retains it", numbers: "sxy", remote: true,
		can: (*mover).canVouch,
		do: func(m *mover, s *moveState, a action) {
			reader := &s.nodes[a.y]
			t, c := m.at(s, reader.epoch), &reader.copies[a.w]
			c.answered = c.answered.with(a.x)
			if !m.retains(s, a.y, int(a.w)) {
				noted := m.notedBy(s, a.x)
				if reader.old == 0 {
					noted &= m.sources(s, a).set
				}
				c.noted |= noted
				if m.oneRound(reader) {
					c.early[a.x] = s.nodes[a.x].holds() & m.samples[a.w]
				}
			} else if c.answered.len()+1 >= t.byCurrent[a.w].ask {
				*c = moveCopy{phase: done}
			}
		},
	}, {
		name: "copy: node %y reads series %w from node %x", numbers: "sxy", remote: true,
		can: func(m *mover, s *moveState, a action) bool {
			c, ok := m.proven(s, a)
			return ok && (c.servers &^ c.served).has(a.x) && m.mayServe(s, a)
		},
		do: func(m *mover, s *moveState, a action) {
			n := &s.nodes[a.y]
			c, _ := m.proven(s, a)
			c.served = c.served.with(a.x)
			data := s.nodes[a.x].holds() & m.samples[a.w]
			if m.oneRound(n) {
				data = c.early[a.x]
			}
			n.unsynced |= data &^ n.synced
			if c.served == c.servers {
				m.takeOver(s, a.y, c.noted)
				c = moveCopy{phase: done}
			}
			n.copies[a.w] = c
			m.settle(s)
		},
	}, {
		name: "ready: node %x is ready for its epoch", numbers: "x",
		can: (*mover).canBeReady,
		do: func(m *mover, s *moveState, a action) {
			n := &s.nodes[a.x]
			n.ready = m.began(s, n.epoch)
			if n.damaged == 0 {
				n.copies = [maxSeries]moveCopy{}
			}
		},
	}, {
		name: "open: node %y begins a hand-off from node %x, which reads its store", numbers: "xy", remote: true,
		can: func(m *mover, s *moveState, a action) bool {
			p := &s.pairs[a.x][a.y]
			return s.handoffs > 0 && p.gap != 0 && p.phase == noSession && s.nodes[a.y].gone == 0 &&
				(s.nodes[a.x].damaged == 0 || !m.GiveIntact) &&
				(s.nodes[a.x].epoch == s.nodes[a.y].epoch || !m.HandOffAtEpoch)
		},
		do: func(m *mover, s *moveState, a action) {
			s.handoffs--
			t := m.at(s, s.nodes[a.y].epoch)
			owns := m.ownedBy(a.y, t.byCurrent, t.byTarget)
			if !m.HandOffBoth {
				owns = m.ownedBy(a.y, t.byCurrent)
			}
			s.pairs[a.x][a.y] = movePair{gap: 1, phase: onItsWay, data: s.nodes[a.x].holds() & owns}
		},
	}, {
		name: "send: what node %x read arrives at node %y", numbers: "xy", remote: true,
		can: func(_ *mover, s *moveState, a action) bool {
			return s.pairs[a.x][a.y].phase == onItsWay && s.nodes[a.y].gone == 0
		},
		do: func(m *mover, s *moveState, a action) {
			p, n := &s.pairs[a.x][a.y], &s.nodes[a.y]
			n.unsynced |= p.data &^ n.synced
			p.phase = taken
			if n.synced.holds(p.data) {
				p.phase = kept
			}
			p.data = 0
			m.settle(s)
		},
	}, {
		name: "close: node %x hears that node %y has synced all, and closes its gap", numbers: "xy", remote: true,
		can: func(_ *mover, s *moveState, a action) bool { return s.pairs[a.x][a.y].phase == kept },
		do: func(_ *mover, s *moveState, a action) {
			p := &s.pairs[a.x][a.y]
			*p = movePair{gap: p.missed}
		},
	},
}

// retains tells whether a target owner needs no copy of a series.
func (m *mover) retains(s *moveState, x uint8, series int) bool {
	n := &s.nodes[x]
	return m.at(s, n.epoch).byCurrent[series].set.has(x) && n.damaged == 0
}

// notedBy returns the peers that a node notes a gap for.
func (m *mover) notedBy(s *moveState, x uint8) (peers set) {
	for y := range m.scenario.nodes {
		if s.pairs[x][y].gap != 0 {
			peers = peers.with(y)
		}
	}
	return peers
}

// copies tells whether a node is to become ready, for a series, or to make it good.
func (m *mover) copies(s *moveState, x uint8, series int) bool {
	n := &s.nodes[x]
	if n.damaged != 0 {
		return m.rebuilds(s, x, series)
	}
	if n.ready != 0 || n.gone != 0 {
		return false
	}
	t := m.at(s, n.epoch)
	return t.phase == copying && t.byTarget[series].set.has(x)
}

// mayServe tells whether an owner may answer one that copies.
func (m *mover) mayServe(s *moveState, a action) bool {
	source, reader := &s.nodes[a.x], &s.nodes[a.y]
	t := m.at(s, reader.epoch)
	if source.gone != 0 || source.damaged != 0 && m.RebuildMissing || !m.sources(s, a).set.has(a.x) ||
		m.RemovedUncopied && t.removed.has(a.x) {
		return false
	}
	if source.epoch == reader.epoch {
		return true
	}
	atEpoch := m.CopyAtEpoch
	switch {
	case reader.damaged != 0:
		atEpoch = m.RebuildAtEpoch
	case m.retains(s, a.y, int(a.w)):
		atEpoch = m.RetainedAtEpoch
	}
	return !atEpoch && source.epoch < reader.epoch
}

func (m *mover) canVouch(s *moveState, a action) bool {
	c := &s.nodes[a.y].copies[a.w]
	if !m.copies(s, a.y, int(a.w)) || c.phase >= serving || c.answered.has(a.x) || !m.mayServe(s, a) {
		return false
	}
	if !m.retains(s, a.y, int(a.w)) {
		return true
	}
	return !m.vouchedFor(s, a.y, int(a.w)) && (s.pairs[a.x][a.y].gap == 0 || !m.RetainedClean)
}

// vouchedFor tells whether a retained owner lacks nothing.
func (m *mover) vouchedFor(s *moveState, x uint8, series int) bool {
	n := &s.nodes[x]
	return n.copies[series].phase == done || !m.RetainedQuorum || m.at(s, n.epoch).byCurrent[series].ask <= 1
}

// proven returns what a target owner does about a series once it knows who serves it.
func (m *mover) proven(s *moveState, a action) (moveCopy, bool) {
	c := s.nodes[a.y].copies[a.w]
	if c.phase >= done || !m.copies(s, a.y, int(a.w)) || m.retains(s, a.y, int(a.w)) {
		return c, false
	}
	if c.phase == serving {
		return c, true
	}
	o, quorum, damaged := m.sources(s, a), 1, s.nodes[a.y].damaged != 0
	if damaged && m.RebuildQuorum || !damaged && m.CopyQuorum {
		quorum = o.ask
	}
	answered, noted := c.answered, c.noted&o.set
	if damaged && !m.RebuildApart {
		answered |= o.set & set(0).with(a.y)
	}
	if answered.len() < quorum {
		return c, false
	}
	if damaged && !m.RebuildClean || !damaged && !m.CopyClean {
		noted = 0
	}
	next := moveCopy{phase: serving, servers: m.servers(o, quorum, answered, noted), early: c.early}
	next.servers = next.servers.without(a.y)
	if s.nodes[a.y].old != 0 {
		next.noted = c.noted
	}
	return next, true
}

func (m *mover) canBeReady(s *moveState, a action) bool {
	n := &s.nodes[a.x]
	if n.damaged != 0 {
		return !m.DamagedUnready && m.retainsAll(s, a.x)
	}
	owns := false
	for series := range m.scenario.series {
		if !m.at(s, n.epoch).byTarget[series].set.has(a.x) {
			continue
		}
		owns = true
		if !m.copies(s, a.x, series) {
			return false
		}
		if m.retains(s, a.x, series) && !m.vouchedFor(s, a.x, series) || !m.retains(s, a.x, series) && n.copies[series].phase != done {
			return false
		}
	}
	return owns && (n.unsynced == 0 || !m.CopySynced)
}

// isReady tells whether a node is ready for the newest epoch, as far as it has to be.
func (m *mover) isReady(s *moveState, x uint8) bool {
	n, t := &s.nodes[x], m.newest(s)
	return n.ready == m.began(s, s.newest) || n.ready != 0 && !m.ReadyPerPhase || m.ownedBy(x, t.byTarget) == 0
}
