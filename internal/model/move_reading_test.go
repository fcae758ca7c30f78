package model

import (
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

// leading is what the leader makes of commands and reports.
var leading = []kind[*mover, moveState]{
	{
		name: "command: the table follows the next command",
		can: func(m *mover, s *moveState, _ action) bool {
			return int(s.newest)+1 < maxEpochs && m.canFollow(s)
		},
		do: func(m *mover, s *moveState, _ action) {
			t, done, _ := m.command(m.newest(s).moveTable, m.scenario.commands[s.next])
			if done {
				s.next++
			}
			m.agree(s, t)
		},
	}, {
		name: "advance: the next phase begins",
		can:  func(m *mover, s *moveState, _ action) bool { return m.AdvanceForEpoch && m.canAdvance(s) },
		do:   func(m *mover, s *moveState, _ action) { m.agree(s, m.advanced(m.newest(s).moveTable)) },
	}, {
		name: "renew: the next epoch begins, for a node that found damage",
		can: func(m *mover, s *moveState, _ action) bool {
			for x := range m.scenario.nodes {
				if s.nodes[x].damaged == s.newest && m.newest(s).members().has(x) {
					return int(s.newest)+1 < maxEpochs
				}
			}
			return false
		},
		do: func(m *mover, s *moveState, _ action) { m.agree(s, m.newest(s).moveTable) },
	}, {
		name: "propose: the leader proposes the next phase",
		can: func(m *mover, s *moveState, _ action) bool {
			return !m.AdvanceForEpoch && s.proposed == 0 && m.canAdvance(s)
		},
		do: func(m *mover, s *moveState, _ action) { s.proposed = m.newest(s).phase },
	}, {
		name: "apply: the next phase begins, as was proposed",
		can:  func(m *mover, s *moveState, _ action) bool { return s.proposed != 0 },
		do: func(m *mover, s *moveState, _ action) {
			if t := m.newest(s).moveTable; t.phase == s.proposed && int(s.newest)+1 < maxEpochs {
				m.agree(s, m.advanced(t))
			}
			s.proposed = 0
		},
	},
}

// canFollow tells whether there is a command that the table can follow now.
func (m *mover) canFollow(s *moveState) bool {
	if int(s.next) == len(m.scenario.commands) {
		return false
	}
	c := m.scenario.commands[s.next]
	if c.dead && s.nodes[c.node].gone == 0 && m.RemovalProven {
		return false
	}
	_, _, ok := m.command(m.newest(s).moveTable, c)
	return ok
}

// canAdvance is what the leader waits for. What was reported stays true, so that it may have
// been long ago. That members who need not be ready have reported the copying phase is not
// among it: a leader who waits for that, too, is one who is slow.
func (m *mover) canAdvance(s *moveState) bool {
	t := m.newest(s)
	if t.phase == settled || int(s.newest)+1 == maxEpochs {
		return false
	}
	for x := range m.scenario.nodes {
		if !t.members().has(x) {
			continue
		}
		if s.nodes[x].reported < m.began(s, s.newest) && t.phase == switching && m.EndReported {
			return false
		}
		if t.phase == copying && m.SwitchReady && t.target.members().has(x) && !m.isReady(s, x) {
			return false
		}
	}
	return true
}

// moveReading is what coordinators of reads do.
var moveReading = []kind[*mover, moveState]{
	{
		// A read begins with its first answer: had it begun earlier, it would need less.
		name: "answer: node %x tells read %w its gaps", numbers: "rx", remote: true,
		can: func(m *mover, s *moveState, a action) bool {
			r := &s.reads[a.w]
			wanted := s.acked & m.samples[m.scenario.reads[a.w]]
			return (r.phase == waiting && wanted != 0 || r.phase == asking) && !r.answered.has(a.x) && m.mayAnswer(s, a)
		},
		do: func(m *mover, s *moveState, a action) {
			r, n := &s.reads[a.w], &s.nodes[a.x]
			if r.phase == waiting {
				*r = moveRead{phase: asking, epoch: n.epoch, needed: s.acked & m.samples[m.scenario.reads[a.w]]}
			}
			r.answered = r.answered.with(a.x)
			r.noted |= m.notedBy(s, a.x) & m.readOwners(s, r.epoch, a.w).set
		},
	}, {
		name: "serve: node %x serves read %w", numbers: "rx", remote: true,
		can: func(m *mover, s *moveState, a action) bool {
			r := m.provenRead(s, a)
			return r.phase == serving && (r.servers &^ r.served).has(a.x) && m.mayAnswer(s, a)
		},
		do: func(m *mover, s *moveState, a action) {
			r := m.provenRead(s, a)
			r.served = r.served.with(a.x)
			wanted := m.samples[m.scenario.reads[a.w]]
			r.result |= s.nodes[a.x].holds() & wanted
			if r.served == r.servers {
				if r.result.holds(r.needed) && wanted.holds(r.result) {
					r = moveRead{phase: done}
				} else {
					r = moveRead{phase: broken, needed: r.needed, result: r.result}
				}
			}
			s.reads[a.w] = r
		},
	},
}

// readOwners returns the owners that a read of an epoch asks.
func (m *mover) readOwners(s *moveState, epoch, r uint8) *owned {
	t := m.at(s, epoch)
	if t.phase == copying && !m.ReadCurrent || t.phase == switching && m.ReadTarget {
		return &t.byTarget[m.scenario.reads[r]]
	}
	return &t.byCurrent[m.scenario.reads[r]]
}

func (m *mover) mayAnswer(s *moveState, a action) bool {
	r, n := &s.reads[a.w], &s.nodes[a.x]
	epoch := r.epoch
	if epoch == 0 {
		epoch = n.epoch
	}
	if n.damaged != 0 && m.RebuildMissing || n.epoch != epoch && m.ReadAtEpoch || m.RemovedUnread && m.at(s, epoch).removed.has(a.x) {
		return false
	}
	return m.readOwners(s, epoch, a.w).set.has(a.x)
}

// provenRead returns a read once it is known who serves.
func (m *mover) provenRead(s *moveState, a action) moveRead {
	r := s.reads[a.w]
	if r.phase != asking {
		return r
	}
	if o := m.readOwners(s, r.epoch, a.w); r.answered.len() >= o.ask {
		r.phase, r.servers = serving, m.servers(o, o.ask, r.answered, r.noted)
		r.answered, r.noted = 0, 0
	}
	return r
}

// moveQuestion is what decides who serves a series.
type moveQuestion struct {
	owners          *owned
	quorum          int
	answered, noted set
}

// servers returns who serves a series: what its owners would decide, each for itself. The
// slots of the proof are the numbers of the nodes.
func (m *mover) servers(o *owned, quorum int, answered, noted set) set {
	q := moveQuestion{o, quorum, answered, noted}
	if known, ok := m.decided[q]; ok {
		return known
	}
	p := &proof.Proof{Quorum: quorum}
	var owners, slots []int
	for x := range m.scenario.nodes {
		if noted.has(x) {
			slots = append(slots, int(x))
		}
	}
	for x := range m.scenario.nodes {
		if answered.has(x) {
			p.Nodes = append(p.Nodes, proof.Node{Slot: int(x), Noted: slots})
		}
	}
	for _, x := range o.owners {
		owners = append(owners, int(x))
	}
	var serving set
	for _, x := range o.owners {
		if share := p.Share(&table.Assignment{}, int(x)); share != nil && share.Serves(owners) {
			serving = serving.with(x)
		}
	}
	m.decided[q] = serving
	return serving
}
