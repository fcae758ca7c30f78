package model

// handingOff is what a node x that notes a gap, and the node y that it is for, do about it.
var handingOff = []kind[*machine, state]{
	{
		name: "open: node %y begins a hand-off from node %x, which stops offering the gap", numbers: "xy", remote: true,
		can: func(m *machine, s *state, a action) bool {
			p := &s.pairs[a.x][a.y]
			return m.StopBeforeRead && s.handoffs > 0 && p.firm && p.phase == offered
		},
		do: func(m *machine, s *state, a action) {
			s.handoffs--
			s.pairs[a.x][a.y].phase = opened
			if m.scenario.prompt {
				m.readWindow(s, a)
			}
		},
	}, {
		name: "window: node %x reads a window for node %y from its store", numbers: "xy",
		can: func(m *machine, s *state, a action) bool {
			p := &s.pairs[a.x][a.y]
			return p.phase == opened || !m.StopBeforeRead && s.handoffs > 0 && p.phase == offered && p.firm
		},
		do: (*machine).readWindow,
	}, {
		name: "stop: node %x stops offering its gap for node %y", numbers: "xy",
		can: func(_ *machine, s *state, a action) bool { return s.pairs[a.x][a.y].phase == early },
		do:  func(_ *machine, s *state, a action) { s.pairs[a.x][a.y].phase = windowed },
	}, {
		name: "send: the window of node %x arrives at node %y", numbers: "xy", remote: true,
		can: func(_ *machine, s *state, a action) bool { return s.pairs[a.x][a.y].phase == windowed },
		do: func(m *machine, s *state, a action) {
			p, n := &s.pairs[a.x][a.y], &s.nodes[a.y]
			n.unsynced |= p.data &^ n.synced
			p.stage, p.got, p.old, p.last = received, p.end, false, false
			if n.synced.holds(p.data) {
				p.stage = advanced
			}
			p.phase, p.data, p.end = sent, 0, never
			m.settle(s)
		},
	}, {
		name: "advance: node %x hears that node %y has synced the window", numbers: "xy", remote: true,
		can: (*machine).canAdvance,
		do:  (*machine).advance,
	}, {
		name: "save: node %x has saved its gap for node %y", numbers: "xy",
		can: func(_ *machine, s *state, a action) bool { return s.pairs[a.x][a.y].busy },
		do: func(m *machine, s *state, a action) {
			p := &s.pairs[a.x][a.y]
			next := p.next
			p.busy, p.next = false, never
			m.advanceTo(p, next)
		},
	}, {
		name: "timeout: the hand-off from node %x to node %y ends by silence", numbers: "xy", weight: 2,
		can: func(m *machine, s *state, a action) bool {
			return m.SilenceEndsSession && s.pairs[a.x][a.y].phase != offered
		},
		do: func(m *machine, s *state, a action) { m.end(&s.pairs[a.x][a.y], true) },
	},
}

func (m *machine) readWindow(s *state, a action) {
	p := &s.pairs[a.x][a.y]
	p.end = p.gap + 1
	if p.end > m.latest() {
		p.end = never
	}
	p.data = s.nodes[a.x].holds() & m.scenario.window(a.x, a.y, p.gap, p.end)
	p.missed = never
	if p.phase == offered {
		s.handoffs--
		p.phase = early
	} else {
		p.phase = windowed
	}
}

// latest is the time of the latest sample.
func (m *machine) latest() instant {
	var t instant
	for _, s := range m.scenario.samples {
		t = max(t, s.at)
	}
	return t
}

// canAdvance tells whether the peer's word on a window is there and counts.
func (m *machine) canAdvance(s *state, a action) bool {
	p := &s.pairs[a.x][a.y]
	if p.busy || p.gap == never || p.stage != advanced && (m.SyncBeforeAdvance || p.stage != received) {
		return false
	}
	switch {
	case p.last:
		return !m.SessionChecked
	case p.old:
		return !m.WindowChecked
	}
	return p.phase == sent || !m.RestartEndsSession && p.phase == offered
}

// advance lets the gap begin where the window ended, or at what was noted meanwhile.
func (m *machine) advance(s *state, a action) {
	p := &s.pairs[a.x][a.y]
	next := p.got
	if p.got == never && m.MissedAtClose || p.got != never && m.MissedAtAdvance {
		next = min(next, p.missed)
	}
	if !m.HeldWhileSaving {
		p.busy, p.next = true, next
		return
	}
	m.advanceTo(p, next)
}

func (m *machine) advanceTo(p *pair, next instant) {
	p.gap, p.disk, p.firm = next, next, next != never
	p.missed, p.end, p.data = never, never, 0
	if p.phase != offered {
		p.phase = opened
	}
	if next == never || m.scenario.prompt {
		p.phase = offered
	}
	p.old = true
	p.forget(m)
}

// end ends a session, and with it what is on its way, unless a mistaken node knows it again.
func (m *machine) end(p *pair, known bool) {
	p.phase, p.missed, p.end, p.data = offered, never, never, 0
	if known && p.stage != nothing {
		p.last = true
		p.forget(m)
	}
}

// forget drops a word of the peer that can count for nothing any more.
func (p *pair) forget(m *machine) {
	if p.last && m.SessionChecked || !p.last && p.old && m.WindowChecked {
		p.stage, p.got, p.old, p.last = nothing, never, false, false
	}
}
