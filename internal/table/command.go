package table

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unicode/utf8"
)

// What [Apply] refuses. The errors that it returns wrap these.
var (
	// ErrFounded: there is a table already, so none can be founded.
	ErrFounded = errors.New("the cluster is founded already")
	// ErrNotFounded: there is no table yet that the command could change.
	ErrNotFounded = errors.New("the cluster is not founded yet")
	// ErrCommand: the command is malformed, of a kind unknown to this program, or one that
	// the table does not allow.
	ErrCommand = errors.New("invalid table command")
)

// Kind names what a command does.
type Kind string

const (
	// Found makes the first table.
	Found Kind = "found"
	// Join has copies placed on a new node.
	Join Kind = "join"
	// Leave has the copies on nodes that are alive placed elsewhere.
	Leave Kind = "leave"
	// Remove gives nodes up: from now on nobody counts what they hold, and their copies are
	// made anew from the others.
	Remove Kind = "remove"
	// Replace has a new node take the slot of another.
	Replace Kind = "replace"
	// Replicate changes the replication factor.
	Replicate Kind = "replicate"
	// Zone counts a node in another zone.
	Zone Kind = "zone"
	// Advance begins the next phase of the transition. It is safe only when every member
	// has reported an epoch of the present phase and, after Copying, every target owner has
	// reported that it holds all that it is to own.
	Advance Kind = "advance"
	// Pause holds back the copying.
	Pause Kind = "pause"
	// Resume lets it go on.
	Resume Kind = "resume"
	// Renew begins the next epoch and changes nothing else: the owners have finished or
	// refused whatever was sent to them before.
	Renew Kind = "renew"
)

// Command is one change of the table, as the members agree on it. The fields that a kind
// does not name stay empty.
type Command struct {
	Kind Kind `json:"kind"`

	// ClusterID and Founders belong to Found. Founders are in slot order, at least one.
	ClusterID string   `json:"clusterId,omitempty"`
	Founders  []Member `json:"founders,omitempty"`

	// ReplicationFactor belongs to Found and Replicate.
	ReplicationFactor int `json:"replicationFactor,omitempty"`

	// Member belongs to Join and Zone.
	Member *Member `json:"member,omitempty"`

	// Nodes belongs to Leave and Remove, at least one, and to Replace, which names the old
	// and the new node.
	Nodes []NodeID `json:"nodes,omitempty"`
	// Lost belongs to Replace: the old node is removed; else it leaves.
	Lost bool `json:"lost,omitempty"`

	// AcceptLoss belongs to Remove: more may be given up than the quorums can spare, and what
	// only those nodes held is lost.
	AcceptLoss bool `json:"acceptLoss,omitempty"`

	// Epoch belongs to Advance, with which the present phase began, and to Renew, which
	// leaves later ones alone.
	Epoch uint64 `json:"epoch,omitempty"`
}

// Member is a node as it enters the table.
type Member struct {
	Node NodeID `json:"node"`
	// Zone is the node's failure domain, or empty.
	Zone string `json:"zone,omitempty"`
}

// Apply returns the table that the command makes of t, nil being the table before the
// cluster is founded. A change gives a new table with the next epoch, and t stays as it
// was. A command that changes nothing, and is no Renew of this very epoch, returns t
// itself. An error means that the command is refused and t still stands. The new table may
// keep what the command points to: the caller leaves that as it is.
//
// Apply is deterministic: all members that apply the same commands in the same order
// hold the same tables.
func Apply(t *Table, c Command) (*Table, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.Kind, ErrCommand, err)
	}
	if c.Kind == Found {
		return found(t, c)
	}
	if t == nil {
		return nil, fmt.Errorf("%s: %w", c.Kind, ErrNotFounded)
	}
	next := t.clone()
	next.Epoch++
	if err := next.change(c); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.Kind, ErrCommand, err)
	}
	same := *next
	same.Epoch = t.Epoch
	if renews := c.Kind == Renew && c.Epoch == t.Epoch; !renews && reflect.DeepEqual(&same, t) {
		return t, nil
	}
	if Generation(next.Epoch) != Generation(t.Epoch) {
		return nil, fmt.Errorf("%s: %w: %w", c.Kind, ErrCommand, errLastEpoch)
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.Kind, ErrCommand, err)
	}
	return next, nil
}

// check tells what the command lacks.
func (c *Command) check() error {
	nodes := 0
	switch c.Kind {
	case Found, Pause, Resume:
	case Join, Zone:
		if c.Member == nil || c.Member.Node == "" {
			return errors.New("no node ID")
		}
	case Leave, Remove:
		nodes = max(1, len(c.Nodes))
	case Replace:
		nodes = 2
	case Replicate:
		if c.ReplicationFactor < 1 {
			return fmt.Errorf("replication factor %d, must be at least 1", c.ReplicationFactor)
		}
	case Advance, Renew:
		if c.Epoch == 0 {
			return errors.New("no epoch")
		}
	default:
		return errors.New("the kind is unknown; was it sent by a newer version?")
	}
	if nodes != 0 && (len(c.Nodes) != nodes || slices.Contains(c.Nodes, "")) {
		return fmt.Errorf("nodes %q, want %d node IDs", c.Nodes, nodes)
	}
	for _, id := range c.Nodes {
		if err := id.check(); err != nil {
			return err
		}
	}
	if c.AcceptLoss && c.Kind != Remove {
		return errors.New("only a removal can accept a loss")
	}
	if c.Kind == Replace && c.Nodes[0] == c.Nodes[1] {
		return fmt.Errorf("node %s cannot replace itself", c.Nodes[0])
	}
	if c.Member == nil {
		return nil
	}
	// JSON would alter it silently while the command waits.
	if !utf8.ValidString(c.Member.Zone) {
		return fmt.Errorf("zone %q is not valid UTF-8", c.Member.Zone)
	}
	return c.Member.Node.check()
}

func found(t *Table, c Command) (*Table, error) {
	if t != nil {
		return nil, fmt.Errorf("found cluster %s: %w: it is %s at epoch %d", c.ClusterID, ErrFounded, t.ClusterID, t.Epoch)
	}
	first := &Table{
		ClusterID:  c.ClusterID,
		Epoch:      1,
		KeyVersion: KeyVersion,
		Current:    Assignment{ReplicationFactor: c.ReplicationFactor},
	}
	for i, m := range c.Founders {
		if m.Node == "" {
			return nil, fmt.Errorf("found cluster %s: %w: founder %d has no node ID", c.ClusterID, ErrCommand, i)
		}
		first.Current.Slots = append(first.Current.Slots, Slot{Node: m.Node, Zone: m.Zone})
	}
	if err := first.Validate(); err != nil {
		return nil, fmt.Errorf("found cluster %s: %w: %w", c.ClusterID, ErrCommand, err)
	}
	return first, nil
}

// change applies a command to a table that has the next epoch already.
func (t *Table) change(c Command) error {
	switch c.Kind {
	case Pause:
		t.Paused = true
		return nil
	case Resume:
		t.Paused = false
		return nil
	case Renew:
		return nil
	case Advance:
		t.advance(c.Epoch)
		return nil
	}
	if c.Kind == Leave {
		if err := t.known(c.Nodes); err != nil {
			return err
		}
	}
	if err := t.giveUp(c.lost(), c.AcceptLoss); err != nil {
		return err
	}
	if t.switching() {
		return t.wait(c)
	}
	return t.retarget(c)
}

func (t *Table) switching() bool { return t.Transition != nil && t.Transition.Phase == Switching }

// known refuses nodes that are neither members nor were removed a moment ago.
func (t *Table) known(nodes []NodeID) error {
	for _, id := range nodes {
		if !t.Member(id) && !t.removed(id) {
			return fmt.Errorf("node %s is no member", id)
		}
	}
	return nil
}

// retarget makes the command part of the target, and has its copying begin.
func (t *Table) retarget(c Command) error {
	target := t.Target().clone()
	if err := t.aim(&target, c); err != nil {
		return err
	}
	if len(target.Nodes()) == 0 {
		return errors.New("no node would be left")
	}
	t.leadTo(target)
	return nil
}

// leadTo begins to copy for another target.
func (t *Table) leadTo(target Assignment) {
	switch {
	case t.Target().equal(&target):
	case t.Current.equal(&target):
		t.Transition = nil
	default:
		t.Transition = &Transition{Phase: Copying, Began: t.Epoch, Target: target}
	}
}

// aim changes the target as the command says, and leaves it alone if that is not possible.
func (t *Table) aim(target *Assignment, c Command) error {
	switch c.Kind {
	case Join:
		t.join(target, *c.Member)
		return nil
	case Replicate:
		target.ReplicationFactor = c.ReplicationFactor
		return nil
	case Zone:
		seat := slices.IndexFunc(target.Slots, func(s Slot) bool { return s.Node == c.Member.Node && !s.Removed })
		if seat < 0 {
			return fmt.Errorf("node %s owns nothing, or ceases to: it is in no zone", c.Member.Node)
		}
		target.Slots[seat].Zone = c.Member.Zone
		return nil
	case Replace:
		return t.replace(target, c.Nodes[0], c.Nodes[1])
	}
	for i, s := range target.Slots {
		if s.Node != "" && slices.Contains(c.Nodes, s.Node) {
			target.Slots[i] = Slot{}
		}
	}
	t.trim(target)
	return nil
}

// join seats a node in the slot that it has in the current assignment, so that a leave can
// be undone, or in the lowest hole, or in a new slot. A node that has a slot keeps it, and
// its zone, whatever zone the command names.
func (t *Table) join(target *Assignment, m Member) {
	holds := func(s Slot) bool { return s.Node == m.Node }
	if slices.ContainsFunc(target.Slots, holds) {
		return
	}
	seat := slices.IndexFunc(t.Current.Slots, holds)
	if seat < 0 || target.Slots[seat] != (Slot{}) {
		seat = slices.Index(target.Slots, Slot{})
	}
	if seat < 0 {
		seat = len(target.Slots)
		target.Slots = append(target.Slots, Slot{})
	}
	target.Slots[seat] = Slot{Node: m.Node, Zone: m.Zone}
}

// replace has a node that owns nothing yet take the slot of another.
func (t *Table) replace(target *Assignment, old, by NodeID) error {
	if _, owns := t.Current.SlotOf(by); owns {
		return fmt.Errorf("node %s owns copies already: have node %s leave, or start a new node", by, old)
	}
	from := slices.IndexFunc(target.Slots, func(s Slot) bool { return s.Node == by })
	to := slices.IndexFunc(target.Slots, func(s Slot) bool { return s.Node == old })
	home := slices.IndexFunc(t.Current.Slots, func(s Slot) bool { return s.Node == old })
	switch {
	case from < 0 || home < 0 || home == to:
	case target.Slots[home] == (Slot{}) || from == home:
		// It has been told to go before, and may be about to come back to another slot.
		if to >= 0 {
			target.Slots[to] = Slot{}
		}
		to = home
	case to < 0:
		return fmt.Errorf("node %s takes the slot of node %s already", target.Slots[home].Node, old)
	}
	switch {
	case from < 0:
		return fmt.Errorf("node %s is no member: start it, it joins by itself", by)
	case to < 0:
		return fmt.Errorf("node %s is no member", old)
	case from != to:
		target.Slots[to], target.Slots[from] = target.Slots[from], Slot{}
	}
	t.trim(target)
	return nil
}

// trim drops the holes at the end of a target that the current assignment does not have:
// they are left by nodes that never owned anything.
func (t *Table) trim(target *Assignment) {
	for n := len(target.Slots); n > len(t.Current.Slots) && target.Slots[n-1] == (Slot{}); n-- {
		target.Slots = target.Slots[:n-1]
	}
}

// giveUp marks owners as removed, as many as the quorums can spare unless a loss is accepted.
func (t *Table) giveUp(nodes []NodeID, acceptLoss bool) error {
	if len(nodes) == 0 {
		return nil
	}
	if err := t.known(nodes); err != nil {
		return err
	}
	for _, a := range t.readers() {
		before := a.Removed()
		for i, s := range a.Slots {
			if s.Node != "" && slices.Contains(nodes, s.Node) {
				a.Slots[i].Removed = true
			}
		}
		if gone, spare := a.Removed(), a.Copies()-a.WriteQuorum(); gone > max(spare, before) && !acceptLoss {
			return fmt.Errorf("with %d copies no more than %d may be given up at a time, and this would make it %d: what only they hold would be lost; bring them back, or wait until others have taken the place of those removed before; if they are gone for good, remove them with --accept-loss",
				a.Copies(), spare, gone)
		}
	}
	return nil
}

func (t *Table) removed(id NodeID) bool {
	return slices.ContainsFunc(t.readers(), func(a *Assignment) bool {
		return slices.ContainsFunc(a.Slots, func(s Slot) bool { return s.Node == id && s.Removed })
	})
}

// readers are the assignments whose owners hold all that was acknowledged, as far as
// somebody may still read by them.
func (t *Table) readers() []*Assignment {
	if t.switching() {
		return []*Assignment{&t.Current, &t.Transition.Target}
	}
	return []*Assignment{&t.Current}
}

// lost are the nodes that the command gives up.
func (c *Command) lost() []NodeID {
	switch {
	case c.Kind == Remove:
		return c.Nodes
	case c.Kind == Replace && c.Lost:
		return c.Nodes[:1]
	}
	return nil
}

// wait keeps a command for the next transition, unless it would not change that, and
// refuses what could not be done then.
func (t *Table) wait(c Command) error {
	after := t.clone()
	after.finish()
	before := after.Target().clone()
	if err := after.retarget(c); err != nil {
		return err
	}
	if !after.Target().equal(&before) {
		t.Waiting = append(t.Waiting, c)
	}
	return nil
}

// advance begins the next phase, unless the present one is another than that which began
// with the epoch.
func (t *Table) advance(began uint64) {
	switch {
	case t.Transition == nil || t.Transition.Began != began:
	case t.Transition.Phase == Copying:
		t.Transition.Phase, t.Transition.Began = Switching, t.Epoch
	default:
		t.finish()
	}
}

// finish ends the transition. The places of nodes that were removed meanwhile, and what
// waits, make the next one.
func (t *Table) finish() {
	target, waiting := t.Transition.Target.clone(), t.Waiting
	t.Current, t.Transition, t.Waiting = t.Transition.Target, nil, nil
	for i, s := range target.Slots {
		if s.Removed {
			target.Slots[i] = Slot{}
		}
	}
	for _, c := range waiting {
		// A removal can have taken away what a replacement needs. It has then had the effect
		// of the replacement itself.
		_ = t.aim(&target, c)
	}
	t.leadTo(target)
}
