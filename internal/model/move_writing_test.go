package model

// moveWriting is what coordinators of writes and owners do, and what happens to nodes.
var moveWriting = []kind[*mover, moveState]{
	{
		name: "accept: write %w arrives at node %x, at its epoch", numbers: "wx", remote: true,
		can: func(m *mover, s *moveState, a action) bool {
			return !m.AppendsBeforeNext && m.canStore(s, a, underway)
		},
		do: func(_ *mover, s *moveState, a action) {
			w := &s.writes[a.w]
			w.epoch = max(w.epoch, s.nodes[a.x].epoch)
			w.at[a.x] = accepted
		},
	}, {
		name: "store: write %w arrives at node %x and is stored", numbers: "wx", remote: true,
		can: func(m *mover, s *moveState, a action) bool {
			return m.canStore(s, a, underway) || s.writes[a.w].acked == 0 && s.writes[a.w].at[a.x] == accepted
		},
		do: (*mover).store,
	}, {
		name: "sync: node %x syncs its store", numbers: "x",
		can: func(m *mover, s *moveState, a action) bool {
			for y := range m.scenario.nodes {
				if s.pairs[y][a.x].phase == taken {
					return true
				}
			}
			return s.nodes[a.x].unsynced != 0
		},
		do: (*mover).sync,
	}, {
		name: "confirm: node %x confirms write %w", numbers: "wx",
		can: func(m *mover, s *moveState, a action) bool {
			return s.writes[a.w].at[a.x] == stored && s.nodes[a.x].synced.has(m.scenario.writes[a.w])
		},
		do: (*mover).confirm,
	}, {
		name: "note: node %x notes a gap for node %y, for write %w", numbers: "wxy", remote: true,
		can: (*mover).canNote,
		do: func(m *mover, s *moveState, a action) {
			w, p := &s.writes[a.w], &s.pairs[a.x][a.y]
			p.gap = 1
			if p.phase != noSession {
				p.missed = 1
			}
			w.known[a.x] = w.known[a.x].with(a.y)
		},
	}, {
		name: "ack: the client hears that write %w is kept", numbers: "w",
		can: (*mover).canAck,
		do: func(m *mover, s *moveState, a action) {
			// What else the write does can only give somebody more samples, or more gaps.
			s.writes[a.w] = moveWrite{acked: 1}
			s.acked = s.acked.with(m.scenario.writes[a.w])
		},
	}, {
		name: "crash: node %x crashes and restarts", numbers: "x", weight: 2,
		can: func(_ *mover, s *moveState, _ action) bool { return s.crashes > 0 },
		do: func(m *mover, s *moveState, a action) {
			s.crashes--
			m.crash(s, a.x)
			m.settle(s)
		},
	}, {
		name: "lose: node %x is lost for good", numbers: "x", weight: 1,
		can: func(m *mover, s *moveState, a action) bool {
			for _, c := range m.scenario.commands {
				if c.op == remove && c.node == a.x {
					return s.losses > 0
				}
			}
			return false
		},
		do: func(m *mover, s *moveState, a action) {
			s.losses--
			m.crash(s, a.x)
			s.nodes[a.x] = moveNode{gone: 1}
			for y := range s.pairs {
				s.pairs[a.x][y], s.pairs[y][a.x] = movePair{}, movePair{gap: s.pairs[y][a.x].gap}
			}
		},
	},
}

func (m *mover) seriesOf(w uint8) int { return m.scenario.samples[m.scenario.writes[w]] }

// canStore tells whether a write may be stored by a node that has come so far with it. Its
// epoch is that of the first node that stores it: the coordinator was there, too. A removed
// node may store it as well as others: whether its word counts is about how many copies there
// are, not about what is read.
func (m *mover) canStore(s *moveState, a action, at uint8) bool {
	w, n := &s.writes[a.w], &s.nodes[a.x]
	if w.acked != 0 || w.at[a.x] != at || m.outdated(n) {
		return false
	}
	epoch := w.epoch
	if epoch == 0 {
		epoch = n.epoch
	}
	if n.epoch != epoch && m.EpochChecked {
		return false
	}
	return m.at(s, epoch).owners(m.seriesOf(a.w)).has(a.x)
}

func (m *mover) store(s *moveState, a action) {
	w, n := &s.writes[a.w], &s.nodes[a.x]
	if w.epoch == 0 {
		w.epoch = n.epoch
	}
	w.at[a.x] = stored
	if id := m.scenario.writes[a.w]; !n.synced.has(id) {
		n.unsynced = n.unsynced.with(id)
	}
	if s.crashes == 0 {
		m.settle(s)
		m.confirm(s, a)
	}
}

func (m *mover) sync(s *moveState, a action) {
	n := &s.nodes[a.x]
	n.synced, n.unsynced = n.synced|n.unsynced, 0
	for y := range m.scenario.nodes {
		if p := &s.pairs[y][a.x]; p.phase == taken {
			p.phase = kept
		}
	}
}

// settle syncs everything where no crash can come any more: what a sync delays can as well
// be delayed by what follows it.
func (m *mover) settle(s *moveState) {
	if s.crashes > 0 {
		return
	}
	for x := range m.scenario.nodes {
		m.sync(s, action{x: x})
	}
}

// confirm tells the coordinator that a sample is kept, and which gaps are noted.
func (m *mover) confirm(s *moveState, a action) {
	w := &s.writes[a.w]
	w.at[a.x] = confirmed
	for y := range m.scenario.nodes {
		if p := &s.pairs[a.x][y]; p.gap != 0 && p.phase == noSession && m.at(s, w.epoch).owners(m.seriesOf(a.w)).has(y) {
			w.known[a.x] = w.known[a.x].with(y)
		}
	}
}

func (m *mover) confirmed(w *moveWrite) (owners set) {
	for x := range m.scenario.nodes {
		if w.at[x] == confirmed {
			owners = owners.with(x)
		}
	}
	return owners
}

// demand is what an assignment asks of a write before it is acknowledged.
type demand struct {
	*owned
	stored, noted bool
	uncovered     set // owners that have to be noted
}

// demands returns those of both assignments, and whether enough owners confirmed.
func (m *mover) demands(s *moveState, a action) (both [2]demand, enough bool) {
	w := &s.writes[a.w]
	t, series, confirmed := m.at(s, w.epoch), m.seriesOf(a.w), m.confirmed(w)
	both = [2]demand{
		{&t.byCurrent[series], m.WriteCurrent, m.NoteCurrent, 0},
		{&t.byTarget[series], m.WriteTarget, m.NoteTarget, 0},
	}
	if t.phase == settled {
		both[1] = both[0]
		both[0].stored, both[0].noted, both[1].stored, both[1].noted = true, true, true, true
	}
	enough = true
	for i := range both {
		d := &both[i]
		if !d.stored {
			d.noted = false
			continue
		}
		if (confirmed & d.set).len() < d.write {
			enough = false
		}
		if d.noted {
			d.uncovered = d.set &^ confirmed &^ t.removed
		}
	}
	return both, enough
}

// canNote tells whether the coordinator may ask for a note.
func (m *mover) canNote(s *moveState, a action) bool {
	w := &s.writes[a.w]
	if w.acked != 0 || w.at[a.x] != confirmed || w.known[a.x].has(a.y) || m.NotesBeforeNext && s.nodes[a.x].epoch != w.epoch || m.outdated(&s.nodes[a.x]) {
		return false
	}
	both, enough := m.demands(s, a)
	if !enough && !m.scenario.eager {
		return false
	}
	for i := range both {
		if both[i].uncovered.has(a.y) && (both[i].set.has(a.x) || !m.NotePerAssignment) {
			return true
		}
	}
	return false
}

// canAck is the rule of an acknowledgement: in each assignment a write quorum confirmed, and
// each owner that did not is covered by a gap on a write quorum of those that did.
func (m *mover) canAck(s *moveState, a action) bool {
	w := &s.writes[a.w]
	if w.acked != 0 || w.epoch == 0 {
		return false
	}
	both, enough := m.demands(s, a)
	if !enough {
		return false
	}
	for i := range both {
		d := &both[i]
		for y := range m.scenario.nodes {
			if !d.uncovered.has(y) {
				continue
			}
			noted := 0
			for x := range m.scenario.nodes {
				if w.known[x].has(y) && (d.set.has(x) || !m.NotePerAssignment) {
					noted++
				}
			}
			if noted < d.write {
				return false
			}
		}
	}
	return true
}

// crash takes from a node what is not synced, ends what it was about, and starts it again.
func (m *mover) crash(s *moveState, x uint8) {
	n := &s.nodes[x]
	n.unsynced, n.copies, n.epoch = 0, [maxSeries]moveCopy{}, n.disk
	for i := range m.scenario.writes {
		if w := &s.writes[i]; w.at[x] == stored || w.at[x] == accepted {
			w.at[x] = failed
		}
	}
	for y := range m.scenario.nodes {
		if p := &s.pairs[x][y]; p.phase != noSession {
			*p = movePair{gap: p.gap}
		}
		if p := &s.pairs[y][x]; p.phase == taken {
			*p = movePair{gap: p.gap}
		}
	}
	m.refuse(s, x)
}

// refuse lets whoever reads under a proof that relies on a node begin again: it restarted, or
// went to another epoch. A read that begins again is one that had not begun.
func (m *mover) refuse(s *moveState, x uint8) {
	for i := range m.scenario.reads {
		if r := &s.reads[i]; r.phase == asking && r.answered.has(x) || r.phase == serving && (r.servers&^r.served).has(x) {
			*r = moveRead{phase: over}
		}
	}
	for y := range m.scenario.nodes {
		for series := range m.scenario.series {
			c := &s.nodes[y].copies[series]
			if c.phase == asking && c.answered.has(x) && !m.retains(s, y, series) || c.phase == serving && (c.servers&^c.served).has(x) {
				*c = moveCopy{}
			}
		}
	}
}
