package node

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/damage"
	"github.com/starling-tsdb/starling/internal/table"
)

// starts implements transport.Starts.
type starts struct{ n *Node }

// Self implements transport.Starts.
func (s starts) Self() table.NodeID { return s.n.cluster.Self() }

// Own implements transport.Starts.
func (s starts) Own() (starts, run uint64) { return s.n.cluster.Starts(), s.n.session }

// Seen implements transport.Starts.
func (s starts) Seen(id table.NodeID, starts, run uint64) uint64 {
	return s.n.cluster.SeenStart(id, starts, run)
}

// Outdated implements transport.Starts: the directory was put back from an old copy, and lacks
// what was confirmed since. That is noted as damage, which is made good by and by; until then the
// node vouches for nothing that it holds, and confirms nothing before it is at a later epoch than
// it can have been at. Then its starts are counted on from
// the one that was seen: to be told once is enough.
func (s starts) Outdated(by table.NodeID, seen uint64) {
	s.n.outdating.Lock()
	defer s.n.outdating.Unlock()
	own := s.n.cluster.Starts()
	if seen < own {
		return
	}
	s.n.owner.RefuseUntil(math.MaxUint64)
	err := s.n.store.NoteDamage(damage.Range{
		MinTime: math.MinInt64, MaxTime: math.MaxInt64, Kind: damage.OldCopy, Name: ".", Found: time.Now(),
		Detail: fmt.Sprintf("the data directory is an old copy: this is start %d, but node %s has seen a start %d that is not in it; what was confirmed in between is missing", own, by, seen),
	})
	if err == nil {
		err = s.n.cluster.CountStarts(seen + 1)
	}
	if err != nil {
		s.n.logger.Error("That the data directory is an old copy could not be written down", "err", err)
	}
}

// isOldCopy tells whether the data directory is an old copy that is not made good yet.
func (n *Node) isOldCopy() bool {
	return slices.ContainsFunc(n.store.Damage(), func(r damage.Range) bool { return r.Kind == damage.OldCopy })
}
