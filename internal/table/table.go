// Package table is the agreed table of the cluster: which node sits in which slot, at
// which epoch, under which replication factor. It is pure: a table and a command give
// the next table, with no clock, network or disk.
package table

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// KeyVersion is the only version of the partition key that this program knows. It equals
// the one of the placement.
const KeyVersion = 1

// MaxReplicationFactor bounds how many copies operators may ask for.
const MaxReplicationFactor = 16

// ErrInvalid is wrapped by what [Table.Validate] returns.
var ErrInvalid = errors.New("invalid table")

// NodeID identifies a data directory, and hence a node, for its whole life. Files are named after
// it: in a table it is made of letters, digits, dashes and underscores.
type NodeID string

// maxNodeID is far above the 26 characters that a node's own is made of.
const maxNodeID = 64

func (id NodeID) check() error {
	foreign := func(r rune) bool { return !alphanumeric(r) && r != '-' && r != '_' }
	if id == "" || len(id) > maxNodeID || strings.ContainsFunc(string(id), foreign) {
		return fmt.Errorf("node ID %.80q is not made of up to %d letters, digits, dashes and underscores", id, maxNodeID)
	}
	return nil
}

// Table is one version of the agreed placement. Tables are immutable once shared.
type Table struct {
	// ClusterID was made once, when the cluster was founded.
	ClusterID string `json:"clusterId"`
	// Epoch grows by one with every change; the first table has epoch 1. A recovery leaps to
	// the first epoch of its generation.
	Epoch uint64 `json:"epoch"`
	// Recoveries are those that the history of this table went through, in their order.
	Recoveries []Recovery `json:"recoveries,omitempty"`
	// KeyVersion is the version of the partition key's byte format.
	KeyVersion int `json:"keyVersion"`
	// Current is the assignment whose owners hold all that was acknowledged.
	Current Assignment `json:"current"`
	// Transition leads to the next assignment; nil as long as there is none.
	Transition *Transition `json:"transition,omitempty"`
	// Waiting are changes that make the next transition when the present one has ended.
	Waiting []Command `json:"waiting,omitempty"`
	// Paused holds back the copying of a transition.
	Paused bool `json:"paused,omitempty"`
}

// Phase is how far a transition is.
type Phase string

const (
	// Copying has writes go to the owners by both assignments, target owners copy what they
	// lack, and queries read by the current assignment.
	Copying Phase = "copying"
	// Switching has writes go to both, and queries read by the target.
	Switching Phase = "switching"
)

// Transition is the way from the current assignment to another one. Why its phases are
// enough is in docs/adr/0010-transitions.md.
type Transition struct {
	Phase Phase `json:"phase"`
	// Began is the epoch with which the phase began, for this target.
	Began  uint64     `json:"began"`
	Target Assignment `json:"target"`
}

// Assignment says where copies are placed.
type Assignment struct {
	// ReplicationFactor is the number of copies wanted.
	ReplicationFactor int `json:"replicationFactor"`
	// Slots are the jump-hash buckets, in the order in which nodes joined.
	Slots []Slot `json:"slots"`
}

// Slot is one jump-hash bucket.
type Slot struct {
	// Node is empty for a hole.
	Node NodeID `json:"node,omitempty"`
	// Zone is the node's failure domain, empty if it named none.
	Zone string `json:"zone,omitempty"`
	// Removed is set when the node is given up. Its copies count as missing until others
	// have taken its place.
	Removed bool `json:"removed,omitempty"`
}

// Nodes returns the nodes in the slots, in slot order, without those that are removed. The
// caller owns the result.
func (a *Assignment) Nodes() []NodeID {
	nodes := make([]NodeID, 0, len(a.Slots))
	for _, s := range a.Slots {
		if s.Node != "" && !s.Removed {
			nodes = append(nodes, s.Node)
		}
	}
	return nodes
}

// SlotOf returns the number of the node's slot, and whether it has one. A removed node has
// none.
func (a *Assignment) SlotOf(id NodeID) (int, bool) {
	if id == "" {
		return 0, false
	}
	slot := slices.IndexFunc(a.Slots, func(s Slot) bool { return s.Node == id && !s.Removed })
	return max(slot, 0), slot >= 0
}

// Owners is the number of slots that copies are placed on, those of removed nodes included.
func (a *Assignment) Owners() int { return a.count(func(s Slot) bool { return s.Node != "" }) }

// Removed is the number of owners that are given up.
func (a *Assignment) Removed() int { return a.count(func(s Slot) bool { return s.Removed }) }

func (a *Assignment) count(which func(Slot) bool) int {
	n := 0
	for _, s := range a.Slots {
		if which(s) {
			n++
		}
	}
	return n
}

// Copies is the number of owners of each series: the replication factor, or the number
// of owners if there are fewer.
func (a *Assignment) Copies() int { return min(a.ReplicationFactor, a.Owners()) }

// WriteQuorum is the number of owners that must have stored a sample before it is
// acknowledged.
func (a *Assignment) WriteQuorum() int { return a.Copies()/2 + 1 }

// ReadQuorum is the number of owners that always include one that confirmed a given
// write.
func (a *Assignment) ReadQuorum() int { return a.Copies() - a.WriteQuorum() + 1 }

// Quorums are the write and the read quorum of a series of which so many owners are left,
// the others being removed. Neither counts on more owners than there are: where more are given
// up than the quorums can spare, what is left is all there is, and all of it is written and
// read. Neither is below one, so that nothing is acknowledged which nobody holds.
func (a *Assignment) Quorums(left int) (write, read int) {
	return max(1, min(a.WriteQuorum(), left)), max(1, min(a.ReadQuorum(), left))
}

// Unproven tells whether of some series several owners may be left, and all notes of what one
// of them lacks be on owners that are removed: a write quorum notes it.
func (a *Assignment) Unproven() bool {
	write := a.WriteQuorum()
	return a.Removed() >= write && a.Copies()-write >= 2
}

// equal tells whether two assignments place the same copies on the same nodes.
func (a *Assignment) equal(b *Assignment) bool {
	return a.ReplicationFactor == b.ReplicationFactor && slices.Equal(a.Slots, b.Slots)
}

func (a *Assignment) clone() Assignment {
	return Assignment{ReplicationFactor: a.ReplicationFactor, Slots: slices.Clone(a.Slots)}
}

// Target is the assignment that a transition leads to, or the current one if there is none.
func (t *Table) Target() *Assignment {
	if t.Transition != nil {
		return &t.Transition.Target
	}
	return &t.Current
}

// Reading is the assignment that queries read by.
func (t *Table) Reading() *Assignment {
	if t.Transition != nil && t.Transition.Phase == Switching {
		return &t.Transition.Target
	}
	return &t.Current
}

// Writing are the assignments whose write quorums a sample needs, the current one first.
func (t *Table) Writing() []*Assignment {
	if t.Transition != nil {
		return []*Assignment{&t.Current, &t.Transition.Target}
	}
	return []*Assignment{&t.Current}
}

// Nodes returns the members: the nodes that copies are placed on, or will be, but those that
// are removed. First come those with a slot in the current assignment, in slot order. The
// caller owns the result.
func (t *Table) Nodes() []NodeID {
	nodes := t.Current.Nodes()
	add := func(id NodeID) {
		if !slices.Contains(nodes, id) {
			nodes = append(nodes, id)
		}
	}
	for _, id := range t.Target().Nodes() {
		add(id)
	}
	for _, c := range t.Waiting {
		nodes = slices.DeleteFunc(nodes, func(id NodeID) bool { return slices.Contains(c.lost(), id) })
		if c.Kind == Join {
			add(c.Member.Node)
		}
	}
	return nodes
}

// Member tells whether a node is one of Nodes.
func (t *Table) Member(id NodeID) bool { return id != "" && slices.Contains(t.Nodes(), id) }

// ZoneOf returns a node's zone, and whether it has a slot.
func (t *Table) ZoneOf(id NodeID) (zone string, placed bool) {
	for _, a := range t.Writing() {
		if slot, ok := a.SlotOf(id); ok {
			return a.Slots[slot].Zone, true
		}
	}
	return "", false
}

// SlotOf returns the number of a node's slot in the current assignment, or else in the
// target, and whether it has one.
func (t *Table) SlotOf(id NodeID) (int, bool) {
	if slot, ok := t.Current.SlotOf(id); ok {
		return slot, true
	}
	return t.Target().SlotOf(id)
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
	case !utf8.ValidString(t.ClusterID):
		return fmt.Errorf("%w: cluster ID %q is not valid UTF-8", ErrInvalid, t.ClusterID)
	}
	if err := t.validateRecoveries(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := t.Current.validate(); err != nil {
		return fmt.Errorf("%w: current assignment: %w", ErrInvalid, err)
	}
	for _, c := range t.Waiting {
		if err := c.check(); err != nil {
			return fmt.Errorf("%w: a change that waits: %w", ErrInvalid, err)
		}
		switch c.Kind {
		case Found, Advance, Pause, Resume, Renew:
			return fmt.Errorf("%w: a change of kind %q does not wait", ErrInvalid, c.Kind)
		}
	}
	if err := t.validateTransition(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func (t *Table) validateTransition() error {
	if t.Transition == nil {
		if len(t.Waiting) > 0 {
			return errors.New("a change waits for the end of a transition, and there is no transition")
		}
		return nil
	}
	switch tr := t.Transition; {
	case tr.Phase != Copying && tr.Phase != Switching:
		return fmt.Errorf("unknown phase %q of the transition", tr.Phase)
	case tr.Began == 0 || tr.Began > t.Epoch:
		return fmt.Errorf("the transition's phase began with epoch %d, the table's is %d", tr.Began, t.Epoch)
	}
	if err := t.Transition.Target.validate(); err != nil {
		return fmt.Errorf("target assignment: %w", err)
	}
	if target, current := len(t.Transition.Target.Slots), len(t.Current.Slots); target < current {
		return fmt.Errorf("the target assignment has %d slots, the current one has %d", target, current)
	}
	return nil
}

func (a *Assignment) validate() error {
	if a.ReplicationFactor < 1 {
		return fmt.Errorf("replication factor %d, must be at least 1", a.ReplicationFactor)
	}
	slotOf := make(map[NodeID]int, len(a.Slots))
	for i, s := range a.Slots {
		if s.Node == "" {
			if s != (Slot{}) {
				return fmt.Errorf("slot %d has no node but zone %q or a removal", i, s.Zone)
			}
			continue
		}
		if err := s.Node.check(); err != nil {
			return fmt.Errorf("slot %d: %w", i, err)
		}
		// JSON would alter invalid UTF-8 silently, and two names could become one.
		if !utf8.ValidString(s.Zone) {
			return fmt.Errorf("slot %d: zone %q is not valid UTF-8", i, s.Zone)
		}
		if other, ok := slotOf[s.Node]; ok {
			return fmt.Errorf("node %s sits in slots %d and %d", s.Node, other, i)
		}
		slotOf[s.Node] = i
	}
	if len(a.Nodes()) == 0 {
		return errors.New("no slot holds a node")
	}
	return nil
}

// clone returns a deep copy.
func (t *Table) clone() *Table {
	c := *t
	c.Current = t.Current.clone()
	if t.Transition != nil {
		tr := *t.Transition
		tr.Target = tr.Target.clone()
		c.Transition = &tr
	}
	c.Waiting = slices.Clone(t.Waiting)
	return &c
}
