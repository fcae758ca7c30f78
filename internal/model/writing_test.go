package model

// writing is what coordinators of writes and owners do, and what happens to nodes.
var writing = []kind[*machine, state]{
	{
		name: "judge: node %x reads what it will offer for write %w", numbers: "wx", remote: true,
		can: func(m *machine, s *state, a action) bool {
			w := &s.writes[a.w]
			return !m.OfferAfterStore && m.sentTo(a) && w.goesOn() && w.at[a.x] == underway
		},
		do: func(m *machine, s *state, a action) {
			s.writes[a.w].at[a.x] = judged
			s.writes[a.w].offers[a.x] = m.offer(s, a)
		},
	}, {
		name: "store: write %w arrives at node %x and is stored", numbers: "wx", remote: true,
		can: func(m *machine, s *state, a action) bool {
			before := underway
			if !m.OfferAfterStore {
				before = judged
			}
			return m.sentTo(a) && s.writes[a.w].goesOn() && s.writes[a.w].at[a.x] == before
		},
		do: (*machine).store,
	}, {
		name: "refuse: node %x calls write %w too old", numbers: "wx", remote: true, weight: 2,
		can: func(m *machine, s *state, a action) bool {
			return m.sentTo(a) && s.refusals > 0 && s.writes[a.w].goesOn() && s.writes[a.w].at[a.x] == underway
		},
		do: func(_ *machine, s *state, a action) {
			s.refusals--
			s.writes[a.w].at[a.x] = refused
		},
	}, {
		name: "sync: node %x syncs its store", numbers: "x",
		can: func(m *machine, s *state, a action) bool {
			if s.nodes[a.x].unsynced != 0 {
				return true
			}
			for other := range m.scenario.nodes {
				if s.pairs[other][a.x].stage == received {
					return true
				}
			}
			return false
		},
		do: (*machine).sync,
	}, {
		name: "confirm: node %x confirms write %w", numbers: "wx",
		can: func(m *machine, s *state, a action) bool {
			synced := s.nodes[a.x].synced.has(m.scenario.writes[a.w])
			at := s.writes[a.w].at[a.x]
			return at == stored && (synced || !m.SyncBeforeConfirm) || at == duplicate
		},
		do: func(m *machine, s *state, a action) {
			s.writes[a.w].at[a.x] = confirming
			if m.scenario.prompt {
				s.writes[a.w].at[a.x] = confirmed
			}
			if m.OfferAfterStore {
				s.writes[a.w].offers[a.x] = m.offer(s, a)
			}
		},
	}, {
		name: "hear: the confirmation of write %w by node %x arrives", numbers: "wx", remote: true,
		can: func(_ *machine, s *state, a action) bool { return s.writes[a.w].at[a.x] == confirming },
		do:  func(_ *machine, s *state, a action) { s.writes[a.w].at[a.x] = confirmed },
	}, {
		name: "note: node %x notes a gap for node %y, for write %w", numbers: "wxy", remote: true,
		can: (*machine).canNote,
		do:  (*machine).note,
	}, {
		name: "syncnote: node %x syncs the note for node %y of write %w", numbers: "wxy",
		can: func(_ *machine, s *state, a action) bool { return s.writes[a.w].pending[a.x].has(a.y) },
		do:  (*machine).syncNote,
	}, {
		name: "ack: the client hears that write %w is kept", numbers: "w",
		can: (*machine).canAck,
		do: func(m *machine, s *state, a action) {
			w := &s.writes[a.w]
			w.acked = true
			w.rest()
			s.acked = s.acked.with(m.scenario.writes[a.w])
		},
	}, {
		name: "withdraw: node %x hears that node %y has confirmed write %w, late", numbers: "wxy", remote: true,
		can: func(m *machine, s *state, a action) bool {
			w := &s.writes[a.w]
			return w.late[a.x].has(a.y) && (w.at[a.y] == confirmed || !m.WithdrawConfirmed && w.at[a.y] == stored)
		},
		do: (*machine).withdraw,
	}, {
		name: "firm: node %x waits no longer for late confirmations by node %y", numbers: "xy",
		can: func(_ *machine, s *state, a action) bool {
			p := &s.pairs[a.x][a.y]
			return p.late > 0 && !p.firm
		},
		do: func(m *machine, s *state, a action) { m.keep(s, a.x, a.y) },
	}, {
		name: "clean: node %x removes the withdrawn gap for node %y from its disk", numbers: "xy",
		can: func(m *machine, s *state, a action) bool {
			p := &s.pairs[a.x][a.y]
			return m.scenario.late && p.gap == never && p.disk != never
		},
		do: func(_ *machine, s *state, a action) { s.pairs[a.x][a.y].disk = never },
	}, {
		name: "crash: node %x crashes and restarts", numbers: "x", weight: 2,
		can: func(_ *machine, s *state, _ action) bool { return s.crashes > 0 },
		do: func(m *machine, s *state, a action) {
			s.crashes--
			m.crash(s, a.x)
			m.settle(s)
		},
	}, {
		name: "lose: node %x loses its disk and comes back empty", numbers: "x", weight: 1,
		can: func(_ *machine, s *state, a action) bool { return s.losses > 0 && !s.nodes[a.x].missing },
		do: func(m *machine, s *state, a action) {
			s.losses--
			m.crash(s, a.x)
			s.nodes[a.x] = node{missing: true}
			for y := range s.pairs[a.x] {
				p := &s.pairs[a.x][y]
				p.gap, p.disk, p.firm = never, never, false
			}
		},
	}, {
		name: "damage: node %x finds its store damaged", numbers: "x", weight: 1,
		can: func(_ *machine, s *state, a action) bool { return s.damages > 0 && !s.nodes[a.x].missing },
		do: func(m *machine, s *state, a action) {
			s.damages--
			m.crash(s, a.x)
			s.nodes[a.x] = node{missing: true}
		},
	},
}

// sentTo tells whether the write of an action goes to its node.
func (m *machine) sentTo(a action) bool {
	return m.ownersOfWrite(a.w).has(a.x)
}

func (m *machine) sampleOf(w uint8) sample { return m.scenario.samples[m.scenario.writes[w]] }

func (m *machine) ownersOfWrite(w uint8) set { return m.scenario.ownersOf(m.sampleOf(w).series) }

// offer returns the peers for which a confirmation by the node would carry a gap that
// begins early enough.
func (m *machine) offer(s *state, a action) set {
	var peers set
	for y := range m.scenario.nodes {
		p := &s.pairs[a.x][y]
		since := p.disk
		if !m.OfferSynced {
			since = p.gap
		}
		if since == never || !p.firm && m.OfferFirm || m.OfferOutside && p.phase != offered && p.phase != early {
			continue
		}
		if since <= m.sampleOf(a.w).at || !m.OfferEarly {
			peers = peers.with(y)
		}
	}
	return peers
}

func (m *machine) store(s *state, a action) {
	n := &s.nodes[a.x]
	id := m.scenario.writes[a.w]
	s.writes[a.w].at[a.x] = stored
	if !n.holds().has(id) {
		n.unsynced = n.unsynced.with(id)
		m.settle(s)
	} else if !m.DuplicateSynced {
		s.writes[a.w].at[a.x] = duplicate
	}
}

func (m *machine) sync(s *state, a action) {
	n := &s.nodes[a.x]
	n.synced, n.unsynced = n.synced|n.unsynced, 0
	for other := range m.scenario.nodes {
		if p := &s.pairs[other][a.x]; p.stage == received {
			p.stage = advanced
		}
	}
}

// settle syncs everything where no crash can come any more: what a sync delays can as well
// be delayed by what follows it.
func (m *machine) settle(s *state) {
	if s.crashes > 0 {
		return
	}
	for x := range m.scenario.nodes {
		m.sync(s, action{x: x})
	}
}

// confirmed returns the owners whose confirmation has arrived.
func (m *machine) confirmed(s *state, w uint8) set {
	var owners set
	for x := range m.scenario.nodes {
		if s.writes[w].at[x] == confirmed {
			owners = owners.with(x)
		}
	}
	return owners
}

// uncovered returns the owners for which a gap must be noted.
func (m *machine) uncovered(s *state, w uint8) set {
	owners := m.ownersOfWrite(w) &^ m.confirmed(s, w)
	for x := range m.scenario.nodes {
		if !m.RefusalCovered && s.writes[w].at[x] == refused {
			owners = owners.without(x)
		}
	}
	return owners
}

// canNote tells whether the coordinator may ask for a note, and has not done so in vain: of
// an owner that confirmed, for one that did not, once the sample is on a write quorum.
func (m *machine) canNote(s *state, a action) bool {
	w := &s.writes[a.w]
	return m.GapBeforeAck && !w.acked && w.at[a.x] == confirmed && m.uncovered(s, a.w).has(a.y) &&
		!(w.offers[a.x] | w.noted[a.x] | w.pending[a.x]).has(a.y) &&
		m.confirmed(s, a.w).len() >= m.scenario.writeQuorum(m.sampleOf(a.w).series)
}

// note has a node note a gap, sync it and say so. With some rules off that is not one step.
func (m *machine) note(s *state, a action) {
	w, p, since := &s.writes[a.w], &s.pairs[a.x][a.y], m.since(a)
	if m.scenario.late && !p.firm {
		p.late++
		w.late[a.x] = w.late[a.x].with(a.y)
		p.gap = min(p.disk, since)
		p.disk = p.gap
		w.noted[a.x] = w.noted[a.x].with(a.y)
		return
	}
	p.firm = true
	switch {
	case !m.NoteMarksAtSync:
		p.miss(since)
		w.pending[a.x] = w.pending[a.x].with(a.y)
		return
	case !m.OfferSynced || !m.NoteSynced:
		p.gap = min(p.gap, since)
		p.miss(since)
		w.pending[a.x] = w.pending[a.x].with(a.y)
		if !m.NoteSynced {
			w.noted[a.x] = w.noted[a.x].with(a.y)
		}
		return
	}
	p.gap = min(p.gap, since)
	p.disk = p.gap
	p.miss(since)
	w.noted[a.x] = w.noted[a.x].with(a.y)
}

// syncNote is the rest of note, where it is not one step.
func (m *machine) syncNote(s *state, a action) {
	w, p, since := &s.writes[a.w], &s.pairs[a.x][a.y], m.since(a)
	w.pending[a.x] = w.pending[a.x].without(a.y)
	w.noted[a.x] = w.noted[a.x].with(a.y)
	p.gap = min(p.gap, since)
	p.disk = min(p.disk, since)
}

// withdraw takes a note back. With the last one the gap is gone.
func (m *machine) withdraw(s *state, a action) {
	w, p := &s.writes[a.w], &s.pairs[a.x][a.y]
	w.late[a.x] = w.late[a.x].without(a.y)
	p.late -= min(p.late, 1)
	if p.late == 0 || !m.WithdrawCounted {
		p.gap, p.late, p.firm = never, 0, false
	}
	w.rest()
}

// keep makes a gap firm: no note for it can be withdrawn any more.
func (m *machine) keep(s *state, x, y uint8) {
	s.pairs[x][y].firm = true
	if !m.FirmForgets {
		return
	}
	s.pairs[x][y].late = 0
	for i := range m.scenario.writes {
		s.writes[i].late[x] = s.writes[i].late[x].without(y)
		s.writes[i].rest()
	}
}

// goesOn tells whether owners may still confirm a write and anybody cares.
func (w *write) goesOn() bool { return !w.acked || w.late != [maxNodes]set{} }

// rest forgets what does not matter once a write is acknowledged: what else it does can only
// give somebody more samples, or more gaps, but where notes can still be withdrawn.
func (w *write) rest() {
	if !w.acked {
		return
	}
	kept := write{acked: true, pending: w.pending}
	if w.goesOn() {
		kept.at, kept.late = w.at, w.late
	}
	*w = kept
}

// since is where the gap begins that is noted for a write.
func (m *machine) since(a action) instant {
	if !m.NoteFromSample {
		return m.sampleOf(a.w).at + 1
	}
	return m.sampleOf(a.w).at
}

// miss tells the window under way, if there is one, of a note.
func (p *pair) miss(since instant) {
	if p.phase == windowed || p.phase == sent || p.phase == early {
		p.missed = min(p.missed, since)
	}
}

// canAck is the rule of an acknowledgement: a write quorum confirmed, and each owner that
// did not is covered by a gap on a write quorum of those that did.
func (m *machine) canAck(s *state, a action) bool {
	w := &s.writes[a.w]
	confirmed := m.confirmed(s, a.w)
	quorum := m.scenario.writeQuorum(m.sampleOf(a.w).series)
	if w.acked || confirmed.len() < quorum {
		return false
	}
	if !m.GapBeforeAck {
		return true
	}
	if !m.GapQuorum {
		quorum = 1
	}
	uncovered := m.uncovered(s, a.w)
	for y := range m.scenario.nodes {
		if !uncovered.has(y) {
			continue
		}
		noted := 0
		for x := range m.scenario.nodes {
			if confirmed.has(x) && (w.offers[x] | w.noted[x]).has(y) {
				noted++
			}
		}
		if noted < quorum {
			return false
		}
	}
	return true
}

// crash takes from a node what is not synced, ends what it was about, and starts it again.
func (m *machine) crash(s *state, x uint8) {
	s.nodes[x].unsynced = 0
	for i := range m.scenario.writes {
		w := &s.writes[i]
		w.pending[x] = 0
		if at := w.at[x]; at == judged || at == stored || at == duplicate {
			w.at[x] = failed
		}
	}
	for y := range m.scenario.nodes {
		p := &s.pairs[x][y]
		p.gap = p.disk
		m.keep(s, x, y)
		p.firm = p.gap != never
		p.busy, p.next = false, never
		m.end(p, m.RestartEndsSession)
		if q := &s.pairs[y][x]; q.stage == received {
			q.stage, q.got, q.old, q.last = nothing, never, false, false
		}
	}
	for i := range m.scenario.reads {
		r := &s.reads[i]
		switch {
		case !m.SameSession:
		case r.phase == asking:
			r.answered = r.answered.without(x)
			r.gaps[x], r.data[x] = 0, 0
		case r.phase == serving && (m.target(r) &^ r.served).has(x):
			r.phase = over
		}
	}
}
