package model

import (
	"fmt"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

// reading is what coordinators of reads do.
var reading = []kind[*machine, state]{
	{
		// A read begins with its first answer: had it begun earlier, it would need less.
		name: "answer: node %x tells read %w its gaps", numbers: "rx", remote: true,
		can: func(m *machine, s *state, a action) bool {
			r := &s.reads[a.w]
			return (r.phase == waiting && m.wanted(s, a.w) != 0 || r.phase == asking) &&
				!r.answered.has(a.x) && !(s.nodes[a.x].missing && m.MissingApart)
		},
		do: (*machine).answer,
	}, {
		// What is proven is known with the last answer; it is worked out when it is needed.
		name: "serve: node %x serves read %w", numbers: "rx", remote: true,
		can: func(m *machine, s *state, a action) bool {
			r := &s.reads[a.w]
			if r.phase == asking && m.answeredEnough(r) {
				next := *r
				m.prove(&next, m.scenario.reads[a.w])
				r = &next
			}
			return r.phase == serving && (m.target(r) &^ r.served).has(a.x)
		},
		do: func(m *machine, s *state, a action) {
			r, q := &s.reads[a.w], m.scenario.reads[a.w]
			if r.phase == asking {
				m.prove(r, q)
			}
			r.served = r.served.with(a.x)
			if r.servers.has(a.x) && m.SecondRound {
				r.result |= s.nodes[a.x].holds() & m.scenario.matching(q)
			}
			m.finish(r)
		},
	}, {
		name: "again: read %w begins again and keeps what it has", numbers: "r",
		can: func(m *machine, s *state, a action) bool { return !m.OneProof && s.reads[a.w].phase == serving },
		do: func(_ *machine, s *state, a action) {
			r := &s.reads[a.w]
			r.phase, r.answered, r.servers = asking, 0, 0
			r.gaps, r.data = [maxNodes]set{}, [maxNodes]set{}
		},
	},
}

// wanted are the acknowledged samples that a read asks for.
func (m *machine) wanted(s *state, r uint8) set {
	return s.acked & m.scenario.matching(m.scenario.reads[r])
}

// answer is round one at a node.
func (m *machine) answer(s *state, a action) {
	r, q := &s.reads[a.w], m.scenario.reads[a.w]
	if r.phase == waiting {
		r.phase, r.needed = asking, m.wanted(s, a.w)
	}
	r.answered = r.answered.with(a.x)
	for y := range m.scenario.nodes {
		if p := &s.pairs[a.x][y]; p.gap != never && p.gap <= q.until {
			r.gaps[a.x] = r.gaps[a.x].with(y)
		}
	}
	if !m.SecondRound {
		r.data[a.x] = s.nodes[a.x].holds() & m.scenario.matching(q)
	}
}

func (m *machine) answeredEnough(r *read) bool {
	missing, allowed := int(m.scenario.nodes)-r.answered.len(), m.scenario.answerQuorum()-1
	if !m.ReadQuorum {
		allowed++
	}
	return missing <= allowed
}

// prove is the end of round one: who serves.
func (m *machine) prove(r *read, q query) {
	r.phase = serving
	r.servers = m.servers(q.series, r.answered, &r.gaps)
	if !m.SecondRound {
		for x := range m.scenario.nodes {
			if r.servers.has(x) {
				r.result |= r.data[x]
			}
		}
	}
	r.gaps, r.data = [maxNodes]set{}, [maxNodes]set{}
}

// target returns the nodes that have to answer round two. The others would answer with
// nothing, which only matters where it is kept for another proof.
func (m *machine) target(r *read) set {
	if !m.OneProof {
		return r.answered
	}
	return r.servers
}

func (m *machine) finish(r *read) {
	if r.served.holds(m.target(r)) {
		r.phase = done
	}
}

// question is what decides who serves a series.
type question struct {
	series   int
	answered set
	gaps     [maxNodes]set
}

// servers returns who serves a series: what the nodes of a cluster would decide, each for
// itself.
func (m *machine) servers(series int, answered set, gaps *[maxNodes]set) set {
	q := question{series, answered, *gaps}
	if known, ok := m.decided[q]; ok {
		return known
	}
	states := make([]*proof.State, m.scenario.nodes)
	for x := range m.scenario.nodes {
		if !answered.has(x) {
			continue
		}
		states[x] = &proof.State{}
		for y := range m.scenario.nodes {
			if gaps[x].has(y) && m.CleanOnly {
				states[x].Gaps = append(states[x].Gaps, proof.Gap{Peer: nodeID(y)})
			}
		}
	}
	var owners []int
	for _, o := range m.scenario.owners[series] {
		owners = append(owners, int(o))
	}
	var serving set
	p := proof.New(m.assigned, states, 0)
	for _, o := range m.scenario.owners[series] {
		if share := p.Share(m.assigned, int(o)); share == nil || !share.Serves(owners) {
			continue
		}
		if m.MergeWhereNone || serving == 0 {
			serving = serving.with(o)
		}
	}
	m.decided[q] = serving
	return serving
}

func nodeID(x uint8) table.NodeID { return table.NodeID(fmt.Sprint("node-", x)) }
