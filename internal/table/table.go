// Package table is the agreed table of the cluster: which node sits in which slot, at
// which epoch, under which replication factor. It is pure: a table and a command give
// the next table, with no clock, network or disk.
package table

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// KeyVersion is the only version of the partition key that this program knows. It equals
// the one of the placement.
const KeyVersion = 1

// ErrInvalid is wrapped by what [Table.Validate] returns.
var ErrInvalid = errors.New("invalid table")

// NodeID identifies a data directory, and hence a node, for its whole life.
type NodeID string

// Table is one version of the agreed placement. Tables are immutable once shared.
type Table struct {
	// ClusterID was made once, when the cluster was founded.
	ClusterID string `json:"clusterId"`
	// Epoch grows by one with every change; the first table has epoch 1.
	Epoch uint64 `json:"epoch"`
	// KeyVersion is the version of the partition key's byte format.
	KeyVersion int `json:"keyVersion"`
	// ReplicationFactor is the number of copies wanted.
	ReplicationFactor int `json:"replicationFactor"`
	// WrittenQuorum is the smallest write quorum of any epoch that took writes, 0 if
	// none did. No owner confirms a sample unless 0 < WrittenQuorum <= WriteQuorum():
	// so each write that was acknowledged lies on WrittenQuorum nodes at least, and as
	// long as fewer nodes than that are out of reach, one that holds it is not.
	WrittenQuorum int `json:"writtenQuorum"`
	// Settled tells whether all that was ever acknowledged was written under the present
	// placement, so that the owners of a series hold all of it together.
	Settled bool `json:"settled,omitempty"`
	// Slots are the jump-hash buckets, in the order in which nodes joined.
	Slots []Slot `json:"slots"`
}

// Slot is one jump-hash bucket.
type Slot struct {
	// Node is empty for a hole.
	Node NodeID `json:"node,omitempty"`
	// Zone is the node's failure domain, empty if it named none.
	Zone string `json:"zone,omitempty"`
	// Joining is set until the node owns something: queries ask it, but no copy is
	// placed on it, as long as somebody might not know of it yet.
	Joining bool `json:"joining,omitempty"`
	// Incarnation grows when the node in the slot lost its data and came back.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

// Nodes returns the members, in slot order. The caller owns the result.
func (t *Table) Nodes() []NodeID {
	nodes := make([]NodeID, 0, len(t.Slots))
	for _, s := range t.Slots {
		if s.Node != "" {
			nodes = append(nodes, s.Node)
		}
	}
	return nodes
}

// SlotOf returns the number of the node's slot, and whether it is a member.
func (t *Table) SlotOf(id NodeID) (int, bool) {
	if id == "" {
		return 0, false
	}
	slot := slices.IndexFunc(t.Slots, func(s Slot) bool { return s.Node == id })
	return max(slot, 0), slot >= 0
}

// Owns tells whether the slot holds a node that copies are placed on.
func (s Slot) Owns() bool { return s.Node != "" && !s.Joining }

// Buckets are the slots that copies are placed on, by jump hash: all but those at the end
// whose nodes are still joining. The caller must not change them.
func (t *Table) Buckets() []Slot {
	n := len(t.Slots)
	for n > 0 && t.Slots[n-1].Joining {
		n--
	}
	return t.Slots[:n]
}

// Owners is the number of members that copies are placed on.
func (t *Table) Owners() int {
	owners := 0
	for _, s := range t.Slots {
		if s.Owns() {
			owners++
		}
	}
	return owners
}

// Copies is the number of owners of each series: the replication factor, or the number
// of owning members if there are fewer.
func (t *Table) Copies() int { return min(t.ReplicationFactor, t.Owners()) }

// AnswerQuorum is how many nodes at least hold what was acknowledged: as long as fewer are
// missing, an answer is complete. A reader whose table says that nothing was written
// allows for the mark that it may not have seen yet.
func (t *Table) AnswerQuorum() int {
	if t.WrittenQuorum == 0 {
		return t.WriteQuorum()
	}
	return min(t.WrittenQuorum, t.WriteQuorum())
}

// WriteQuorum is the number of owners that must have stored a sample before it is
// acknowledged.
func (t *Table) WriteQuorum() int { return t.Copies()/2 + 1 }

// ReadQuorum is the number of owners that always include one that confirmed a given
// write of this epoch.
func (t *Table) ReadQuorum() int { return t.Copies() - t.WriteQuorum() + 1 }

// Writable tells whether owners may confirm samples at this epoch. If not, the write
// quorum may be one that the table does not speak of yet, and MarkWritten comes first.
func (t *Table) Writable() bool {
	return 0 < t.WrittenQuorum && t.WrittenQuorum <= t.WriteQuorum()
}

// Validate checks a table that came from a file or a peer. Every table that [Apply]
// returns is valid. The error wraps [ErrInvalid].
func (t *Table) Validate() error {
	switch {
	case t.ClusterID == "":
		return fmt.Errorf("%w: the cluster ID is empty", ErrInvalid)
	case t.Epoch == 0:
		return fmt.Errorf("%w: epoch 0, the first is 1", ErrInvalid)
	case t.KeyVersion != KeyVersion:
		return fmt.Errorf("%w: key version %d, this program knows %d only", ErrInvalid, t.KeyVersion, KeyVersion)
	case t.ReplicationFactor < 1:
		return fmt.Errorf("%w: replication factor %d, must be at least 1", ErrInvalid, t.ReplicationFactor)
	case t.WrittenQuorum < 0:
		return fmt.Errorf("%w: written quorum %d, must not be negative", ErrInvalid, t.WrittenQuorum)
	case !utf8.ValidString(t.ClusterID):
		return fmt.Errorf("%w: cluster ID %q is not valid UTF-8", ErrInvalid, t.ClusterID)
	}
	return validateSlots(t.Slots)
}

func validateSlots(slots []Slot) error {
	slotOf := make(map[NodeID]int, len(slots))
	for i, s := range slots {
		if s.Node == "" {
			if s != (Slot{}) {
				return fmt.Errorf("%w: slot %d has no node but zone %q and incarnation %d", ErrInvalid, i, s.Zone, s.Incarnation)
			}
			continue
		}
		// JSON would alter invalid UTF-8 silently, and two names could become one.
		if !utf8.ValidString(string(s.Node)) || !utf8.ValidString(s.Zone) {
			return fmt.Errorf("%w: slot %d: node %q or zone %q is not valid UTF-8", ErrInvalid, i, s.Node, s.Zone)
		}
		if other, ok := slotOf[s.Node]; ok {
			return fmt.Errorf("%w: node %s sits in slots %d and %d", ErrInvalid, s.Node, other, i)
		}
		slotOf[s.Node] = i
	}
	if !slices.ContainsFunc(slots, Slot.Owns) {
		return fmt.Errorf("%w: no slot holds a node that owns anything", ErrInvalid)
	}
	return nil
}

// clone returns a deep copy.
func (t *Table) clone() *Table {
	c := *t
	c.Slots = slices.Clone(t.Slots)
	return &c
}
