package cluster

import (
	"maps"
	"slices"

	"github.com/starling-tsdb/starling/internal/table"
)

// This file decides who founds a cluster. It is pure: an event and a state give the next
// state and what to send. It is run by formation.go and, by the thousand schedules with
// crashes and lost messages, by its test.
//
// Every fresh node vouches for one candidate at a time, the smallest ID it sees, once it
// sees as many fresh nodes as the cluster shall have. A candidate that holds that many
// vouches, its own included, founds the cluster. A vouch is taken back only when the
// candidate has written down that it dropped it, or that it belongs to a cluster and so
// will never found another. Hence a founder's voters are locked to it, and two founders
// need two disjoint sets of voters: with fewer than twice the expected number of fresh
// nodes there are never two clusters, whatever the network does and whoever crashes.
//
// The price: a node that vouched for a candidate whose data directory is lost for good
// waits for ever. It holds no data, so the way out is to empty its directory as well.

// founding is what a node must not forget about the birth of its cluster.
type founding struct {
	// Cluster is the cluster that this node belongs to, for ever; empty while fresh.
	Cluster string `json:"cluster,omitempty"`
	// Founders is set on the founder only: who stands in the first table.
	Founders []founder `json:"founders,omitempty"`
	// VouchFor is the candidate this node vouches for, if any; Seq numbers the vouches.
	VouchFor table.NodeID `json:"vouchFor,omitempty"`
	Seq      uint64       `json:"seq,omitempty"`
	// Dropped holds, by voter, the last vouch that this node promised not to count.
	Dropped map[table.NodeID]uint64 `json:"dropped,omitempty"`
	// Joined is set when the node has stood in an adopted table. One that is in the
	// table no more was removed and does not ask to join again.
	Joined bool `json:"joined,omitempty"`
}

type founder struct {
	ID   table.NodeID `json:"id"`
	Zone string       `json:"zone,omitempty"`
}

// vouch is a request from a voter to its candidate.
type vouch struct {
	Seq uint64 `json:"seq"`
	// Withdraw asks to drop the vouch with this number instead of counting it.
	Withdraw bool `json:"withdraw,omitempty"`
	// Expect is the voter's --cluster.bootstrap-expect.
	Expect int    `json:"expect"`
	Zone   string `json:"zone,omitempty"`
}

// verdict is a candidate's answer to a vouch.
type verdict struct {
	Seq uint64 `json:"seq"`
	// Cluster is set once the candidate belongs to a cluster.
	Cluster string `json:"cluster,omitempty"`
	// Dropped promises that the vouch will not count.
	Dropped bool `json:"dropped,omitempty"`
	// Expect is the candidate's --cluster.bootstrap-expect if it differs from the
	// voter's: such a vouch does not count.
	Expect int `json:"expect,omitempty"`
}

// sighting is what a node knows of another by gossip.
type sighting struct {
	Cluster string // empty for a fresh node
	Expect  int
	Alive   bool
}

// formation is the state machine. Only its founding survives a crash.
type formation struct {
	self       table.NodeID
	zone       string
	expect     int    // 0: never found, join what is there
	newCluster string // the ID of the cluster that this node would found
	founding
	granted map[table.NodeID]founder // vouches that count, by voter
}

// outgoing is a vouch to send, if its addressee is not empty.
type outgoing struct {
	to table.NodeID
	vouch
}

func (f *formation) fresh() bool { return f.Cluster == "" }

// look takes in a new view of the other nodes. If changed, the founding has to be synced
// before the vouch is sent.
func (f *formation) look(seen map[table.NodeID]sighting) (out outgoing, changed bool) {
	if !f.fresh() {
		return outgoing{}, false
	}
	if c := clusterIn(seen); c != "" {
		if f.locked(seen) {
			return f.send(true), false
		}
		f.Cluster = c
		return outgoing{}, true
	}
	best, enough := f.candidate(seen)
	switch {
	case !enough:
		if f.VouchFor == "" || f.VouchFor == f.self {
			return outgoing{}, false
		}
		return f.send(false), false // the candidate may have enough without us seeing it
	case f.VouchFor == "", f.VouchFor == f.self && best < f.self:
		f.VouchFor = best
		f.Seq++
		f.found()
		return f.send(false), true
	case best < f.VouchFor:
		return f.send(true), false
	case f.VouchFor == f.self:
		return outgoing{}, f.found()
	default:
		return f.send(false), false
	}
}

// locked tells whether the node may not join another cluster yet, because the candidate
// it vouched for may still count on it.
func (f *formation) locked(seen map[table.NodeID]sighting) bool {
	return f.VouchFor != "" && f.VouchFor != f.self && seen[f.VouchFor].Cluster == ""
}

// candidate returns the smallest fresh node in view, and whether there are enough.
func (f *formation) candidate(seen map[table.NodeID]sighting) (best table.NodeID, enough bool) {
	if f.expect == 0 {
		return "", false
	}
	best, n := f.self, 1
	for id, s := range seen {
		if id == f.self || !s.Alive || s.Cluster != "" || s.Expect != f.expect {
			continue
		}
		n++
		best = min(best, id)
	}
	return best, n >= f.expect
}

// clusterIn returns the cluster in view: the smallest ID if there are several, so that
// all who see the same choose the same.
func clusterIn(seen map[table.NodeID]sighting) string {
	best := ""
	for _, s := range seen {
		if s.Alive && s.Cluster != "" && (best == "" || s.Cluster < best) {
			best = s.Cluster
		}
	}
	return best
}

func (f *formation) send(withdraw bool) outgoing {
	if f.VouchFor == f.self || f.VouchFor == "" {
		return outgoing{}
	}
	return outgoing{f.VouchFor, vouch{Seq: f.Seq, Withdraw: withdraw, Expect: f.expect, Zone: f.zone}}
}

// receive answers a vouch. If changed, the founding has to be synced before the answer.
func (f *formation) receive(from table.NodeID, v vouch) (answer verdict, changed bool) {
	answer.Seq = v.Seq
	if !f.fresh() {
		answer.Cluster = f.Cluster
		return answer, false
	}
	if v.Withdraw {
		if v.Seq > f.Dropped[from] {
			f.Dropped = maps.Clone(f.Dropped)
			if f.Dropped == nil {
				f.Dropped = make(map[table.NodeID]uint64)
			}
			f.Dropped[from] = v.Seq
			delete(f.granted, from)
			changed = true
		}
		answer.Dropped = true
		return answer, changed
	}
	if v.Seq <= f.Dropped[from] { // a stray from before the withdrawal
		answer.Dropped = true
		return answer, false
	}
	if v.Expect != f.expect {
		answer.Expect = f.expect
		return answer, false
	}
	if f.granted == nil {
		f.granted = make(map[table.NodeID]founder)
	}
	f.granted[from] = founder{ID: from, Zone: v.Zone}
	changed = f.found()
	answer.Cluster = f.Cluster
	return answer, changed
}

// heed takes in a candidate's answer. If changed, the founding has to be synced.
func (f *formation) heed(from table.NodeID, a verdict) (changed bool) {
	if !f.fresh() || f.VouchFor != from {
		return false
	}
	switch {
	case a.Cluster != "": // true for ever, whatever vouch it answers
		f.Cluster = a.Cluster
	case a.Dropped && a.Seq == f.Seq:
		f.VouchFor = ""
	default:
		return false
	}
	return true
}

// found founds the cluster if the node holds enough vouches.
func (f *formation) found() bool {
	if !f.fresh() || f.VouchFor != f.self || f.expect == 0 {
		return false
	}
	founders := []founder{{ID: f.self, Zone: f.zone}}
	for id, g := range f.granted {
		if id != f.self {
			founders = append(founders, g)
		}
	}
	if len(founders) < f.expect {
		return false
	}
	slices.SortFunc(founders, func(a, b founder) int { return cmpID(a.ID, b.ID) })
	f.Cluster, f.Founders = f.newCluster, founders
	return true
}

func cmpID(a, b table.NodeID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
