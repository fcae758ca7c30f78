package table

import (
	"errors"
	"fmt"
	"slices"
)

// What [Apply] refuses. The errors that it returns wrap these.
var (
	// ErrFounded: there is a table already, so none can be founded.
	ErrFounded = errors.New("the cluster is founded already")
	// ErrNotFounded: there is no table yet that the command could change.
	ErrNotFounded = errors.New("the cluster is not founded yet")
	// ErrCommand: the command is malformed or of a kind unknown to this program.
	ErrCommand = errors.New("invalid table command")
)

// Kind names what a command does.
type Kind string

const (
	// Found makes the first table.
	Found Kind = "found"
	// Join gives a node a slot, in which it is joining.
	Join Kind = "join"
	// Admit makes nodes that are joining owners. It is safe only when every member has
	// reported an epoch in which they stand: from then on every query asks them.
	Admit Kind = "admit"
	// MarkWritten records that samples may be confirmed under the present write quorum.
	MarkWritten Kind = "mark-written"
)

// Command is one change of the table, as the members agree on it. The fields that a kind
// does not name stay empty.
type Command struct {
	Kind Kind `json:"kind"`

	// ClusterID, ReplicationFactor and Founders belong to Found. Founders are in slot
	// order, at least one.
	ClusterID         string   `json:"clusterId,omitempty"`
	ReplicationFactor int      `json:"replicationFactor,omitempty"`
	Founders          []Member `json:"founders,omitempty"`

	// Member belongs to Join.
	Member *Member `json:"member,omitempty"`

	// Nodes belongs to Admit.
	Nodes []NodeID `json:"nodes,omitempty"`
}

// Member is a node as it enters the table.
type Member struct {
	Node NodeID `json:"node"`
	// Zone is the node's failure domain, or empty.
	Zone string `json:"zone,omitempty"`
}

// Apply returns the table that the command makes of t, nil being the table before the
// cluster is founded. A change gives a new table with the next epoch, and t stays as it
// was. A command that changes nothing returns t itself. An error means that the command
// is refused and t still stands.
//
// Apply is deterministic: all members that apply the same commands in the same order
// hold the same tables.
func Apply(t *Table, c Command) (*Table, error) {
	if c.Kind == Found {
		return found(t, c)
	}
	change, known := map[Kind]func(*Table, Command) (*Table, error){
		Join: join, Admit: admit, MarkWritten: markWritten,
	}[c.Kind]
	if !known {
		return nil, fmt.Errorf("%w: kind %q is unknown; was it sent by a newer version?", ErrCommand, c.Kind)
	}
	if t == nil {
		return nil, fmt.Errorf("%s: %w", c.Kind, ErrNotFounded)
	}
	return change(t, c)
}

func found(t *Table, c Command) (*Table, error) {
	if t != nil {
		return nil, fmt.Errorf("found cluster %s: %w: it is %s at epoch %d", c.ClusterID, ErrFounded, t.ClusterID, t.Epoch)
	}
	first := &Table{
		ClusterID:         c.ClusterID,
		Epoch:             1,
		KeyVersion:        KeyVersion,
		ReplicationFactor: c.ReplicationFactor,
		Settled:           true,
	}
	for i, m := range c.Founders {
		if m.Node == "" {
			return nil, fmt.Errorf("found cluster %s: %w: founder %d has no node ID", c.ClusterID, ErrCommand, i)
		}
		first.Slots = append(first.Slots, Slot{Node: m.Node, Zone: m.Zone})
	}
	if err := first.Validate(); err != nil {
		return nil, fmt.Errorf("found cluster %s: %w: %w", c.ClusterID, ErrCommand, err)
	}
	return first, nil
}

// join seats a node in the lowest hole or else in a new slot. A node that is a member
// keeps its slot and zone, whatever zone the command names.
//
// The written quorum stays. A join never makes the write quorum smaller, and what was
// written under a smaller one does not get more copies by it.
func join(t *Table, c Command) (*Table, error) {
	if c.Member == nil || c.Member.Node == "" {
		return nil, fmt.Errorf("join: %w: no node ID", ErrCommand)
	}
	if _, member := t.SlotOf(c.Member.Node); member {
		return t, nil
	}
	next := t.clone()
	next.Epoch++
	slot := Slot{Node: c.Member.Node, Zone: c.Member.Zone, Joining: true}
	hole := slices.IndexFunc(next.Slots, func(s Slot) bool { return s.Node == "" })
	if hole < 0 {
		next.Slots = append(next.Slots, slot)
	} else {
		next.Slots[hole] = slot
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("join: %w: %w", ErrCommand, err)
	}
	return next, nil
}

// admit makes joining nodes owners; those that are none any more are passed over. What was
// written before stays where it is, so that the table is settled no more.
func admit(t *Table, c Command) (*Table, error) {
	next := t.clone()
	admitted := false
	for i, s := range next.Slots {
		if s.Joining && slices.Contains(c.Nodes, s.Node) {
			next.Slots[i].Joining = false
			admitted = true
		}
	}
	if !admitted {
		return t, nil
	}
	next.Epoch++
	next.Settled = t.Settled && t.WrittenQuorum == 0
	return next, nil
}

// markWritten lowers the written quorum to the present write quorum.
func markWritten(t *Table, _ Command) (*Table, error) {
	if t.Writable() {
		return t, nil
	}
	next := t.clone()
	next.Epoch++
	next.WrittenQuorum = t.WriteQuorum()
	return next, nil
}
