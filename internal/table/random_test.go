package table

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// history is a cluster on which random commands come down, and what they ask for.
type history struct {
	rng *rand.Rand
	now *Table
	// wanted are the nodes that are to own copies once all is done, with the zone that each
	// named last, and copies the replication factor.
	wanted map[NodeID]string
	copies int
	// lossy is set when a loss was accepted: more may be given up than the quorums can spare.
	lossy bool
}

func newHistory(seed uint64) (*history, error) {
	h := &history{rng: rand.New(rand.NewPCG(seed, 1)), wanted: map[NodeID]string{}}
	c := Command{Kind: Found, ClusterID: "flock", ReplicationFactor: 1 + h.rng.IntN(5)}
	for i := range 1 + h.rng.IntN(6) {
		m := Member{Node: NodeID(rune('a' + i)), Zone: h.zone()}
		c.Founders = append(c.Founders, m)
		h.wanted[m.Node] = m.Zone
	}
	h.copies = c.ReplicationFactor
	var err error
	h.now, err = Apply(nil, c)
	return h, err
}

func (h *history) zone() string { return []string{"", "", "east"}[h.rng.IntN(3)] }

func (h *history) node() NodeID { return NodeID(rune('a' + h.rng.IntN(9))) }

func (h *history) command() Command {
	switch n := h.rng.IntN(100); {
	case n < 30 && h.now.Transition != nil:
		return Command{Kind: Advance, Epoch: h.now.Transition.Began}
	case n < 32:
		return Command{Kind: Advance, Epoch: 1 + h.rng.Uint64N(h.now.Epoch+1)}
	case n < 55:
		return Command{Kind: Join, Member: &Member{Node: h.node(), Zone: h.zone()}}
	case n < 70:
		return Command{Kind: Leave, Nodes: []NodeID{h.node(), h.node()}[:1+h.rng.IntN(2)]}
	case n < 80:
		accept := h.rng.IntN(6) == 0
		h.lossy = h.lossy || accept
		return Command{Kind: Remove, Nodes: []NodeID{h.node(), h.node()}[:1+h.rng.IntN(2)], AcceptLoss: accept}
	case n < 90:
		return Command{Kind: Replace, Nodes: []NodeID{h.node(), h.node()}, Lost: h.rng.IntN(2) == 0}
	case n < 95:
		return Command{Kind: Zone, Member: &Member{Node: h.node(), Zone: h.zone()}}
	case n < 98:
		return Command{Kind: Replicate, ReplicationFactor: 1 + h.rng.IntN(5)}
	case n < 99 && h.rng.IntN(2) == 0:
		return Command{Kind: Found, ClusterID: "flight", ReplicationFactor: 1, Founders: []Member{{Node: "a"}}}
	case n < 99:
		return Command{Kind: Renew, Epoch: h.now.Epoch - h.rng.Uint64N(2)}
	default:
		return Command{Kind: []Kind{Pause, Resume}[h.rng.IntN(2)]}
	}
}

// step applies a command and checks all that holds for one, whatever came before.
func (h *history) step(c Command) error {
	was := h.now.clone()
	next, err := Apply(h.now, c)
	if !reflect.DeepEqual(was, h.now) {
		return fmt.Errorf("it became %s under the command", show(h.now))
	}
	if again, err2 := Apply(was, c); !reflect.DeepEqual(next, again) || (err == nil) != (err2 == nil) {
		return fmt.Errorf("it gives %s, and the second time %s: %w", show(next), show(again), errors.Join(err, err2))
	}
	if err != nil {
		if next != nil {
			return fmt.Errorf("both a table and %w", err)
		}
		return nil
	}
	if err := checkChange(h.now, next, c); err != nil {
		return err
	}
	h.want(c)
	h.now = next
	if err := checkTable(next, h.lossy); err != nil {
		return err
	}
	if err := h.checkWanted(); err != nil {
		return err
	}
	// Told a second time it changes nothing, or speaks of a node that is gone.
	if again, err := Apply(next, c); err == nil && again != next {
		return fmt.Errorf("told once more it gives %s", show(again))
	} else if err != nil && (c.Kind == Join || c.Kind == Replicate || c.Kind == Zone || c.Kind == Advance || c.Kind == Pause) {
		return fmt.Errorf("told once more: %w", err)
	}
	return nil
}

// want notes what an accepted command asks for.
func (h *history) want(c Command) {
	switch c.Kind {
	case Join:
		if _, ok := h.wanted[c.Member.Node]; !ok {
			h.wanted[c.Member.Node] = c.Member.Zone
		}
	case Leave, Remove:
		maps.DeleteFunc(h.wanted, func(id NodeID, _ string) bool { return slices.Contains(c.Nodes, id) })
	case Replace:
		delete(h.wanted, c.Nodes[0])
	case Replicate:
		h.copies = c.ReplicationFactor
	case Zone:
		h.wanted[c.Member.Node] = c.Member.Zone
	}
}

// checkWanted compares the table with what was asked for.
func (h *history) checkWanted() error {
	members := h.now.Nodes()
	for id := range h.wanted {
		if !slices.Contains(members, id) {
			return fmt.Errorf("node %s is no member, wanted are %v", id, h.wanted)
		}
	}
	if h.now.switching() {
		return nil
	}
	if seated := zones(h.now.Target()); !maps.Equal(seated, h.wanted) || h.now.Target().ReplicationFactor != h.copies {
		return fmt.Errorf("the target seats %v, wanted are %v with replication factor %d", seated, h.wanted, h.copies)
	}
	return nil
}

func zones(a *Assignment) map[NodeID]string {
	seated := map[NodeID]string{}
	for _, s := range a.Slots {
		if s.Node != "" && !s.Removed {
			seated[s.Node] = s.Zone
		}
	}
	return seated
}

// checkTable tells which promise about every table this one breaks.
func checkTable(t *Table, lossy bool) error {
	if err := t.Validate(); err != nil {
		return err
	}
	for _, a := range []*Assignment{&t.Current, t.Target()} {
		if a.WriteQuorum()+a.ReadQuorum() <= a.Copies() || 2*a.WriteQuorum() <= a.Copies() {
			return errors.New("quorums need not meet")
		}
		if gone := a.Removed(); gone > a.Copies()-a.WriteQuorum() && !lossy {
			return fmt.Errorf("%d of %d copies are given up", gone, a.Copies())
		}
		for i, s := range a.Slots {
			if s.Node != "" && slices.ContainsFunc(a.Slots[:i], func(o Slot) bool { return o.Node == s.Node }) {
				return fmt.Errorf("node %s sits in two slots", s.Node)
			}
		}
	}
	members := t.Nodes()
	for _, a := range []*Assignment{&t.Current, t.Target()} {
		for _, s := range a.Slots {
			if s.Node != "" && !s.Removed && !slices.Contains(members, s.Node) {
				return fmt.Errorf("owner %s is no member", s.Node)
			}
		}
	}
	switch tr := t.Transition; {
	case tr == nil && t.Current.Removed() > 0:
		return errors.New("a node is removed, and nobody is to take its place")
	case tr != nil && tr.Target.equal(&t.Current) && tr.Phase == Copying:
		return errors.New("a transition to what is there")
	case tr != nil && tr.Phase == Copying && tr.Target.Removed() > 0:
		return errors.New("copies are made for a removed node")
	case tr != nil && len(tr.Target.Slots) > len(t.Current.Slots) && tr.Target.Slots[len(tr.Target.Slots)-1].Node == "":
		return errors.New("a hole at the end that nobody left")
	}
	return nil
}

// checkChange tells which promise about a step from one table to the next is broken.
func checkChange(before, after *Table, c Command) error {
	if before == after {
		return nil
	}
	if after.Epoch != before.Epoch+1 {
		return fmt.Errorf("epoch %d after %d", after.Epoch, before.Epoch)
	}
	same := after.clone()
	same.Epoch = before.Epoch
	if renewed := c.Kind == Renew && c.Epoch == before.Epoch; reflect.DeepEqual(same, before) != renewed {
		return errors.New("a new table for no change, or another change than to renew it")
	}
	if err := checkCurrent(before, after, c); err != nil {
		return err
	}
	return checkBegan(before.Transition, after.Transition, after.Epoch)
}

// checkCurrent: owners stay what they are until a transition ends, but for removals.
func checkCurrent(before, after *Table, c Command) error {
	if before.switching() && !after.switching() {
		if c.Kind != Advance || !after.Current.equal(&before.Transition.Target) {
			return fmt.Errorf("the transition to %s ended with %s", slotString(&before.Transition.Target), slotString(&after.Current))
		}
		return nil
	}
	if after.switching() && !before.switching() && (c.Kind != Advance || !before.Transition.Target.equal(&after.Transition.Target)) {
		return errors.New("the phase changed to another target than that which was copied")
	}
	current := before.Current.clone()
	for i := range current.Slots {
		s := &current.Slots[i]
		s.Removed = s.Removed || slices.Contains(c.lost(), s.Node)
	}
	if !current.equal(&after.Current) {
		return fmt.Errorf("the current assignment became %s", slotString(&after.Current))
	}
	return nil
}

// checkBegan: members report the epoch of a phase, so it stands for one target and phase.
func checkBegan(before, after *Transition, epoch uint64) error {
	if after == nil {
		return nil
	}
	places := func(tr *Transition) Assignment {
		a := tr.Target.clone()
		for i := range a.Slots {
			a.Slots[i].Removed = false
		}
		return a
	}
	another := before == nil || before.Phase != after.Phase
	if !another {
		was, is := places(before), places(after)
		another = !was.equal(&is)
	}
	if another != (before == nil || before.Began != after.Began) {
		return fmt.Errorf("another target or phase: %t, but the phase began with epoch %d", another, after.Began)
	}
	if another && after.Began != epoch {
		return fmt.Errorf("the phase began with epoch %d at epoch %d", after.Began, epoch)
	}
	return nil
}

// end finishes transition after transition.
func (h *history) end() error {
	for range 4 {
		if h.now.Transition == nil {
			break
		}
		if err := h.step(Command{Kind: Advance, Epoch: h.now.Transition.Began}); err != nil {
			return err
		}
	}
	if h.now.Transition != nil {
		return errors.New("two transitions did not do what was asked for")
	}
	return h.checkWanted()
}

func TestRandomHistories(t *testing.T) {
	seeds := uint64(20_000)
	if testing.Short() {
		seeds /= 40
	}
	reached := map[string]int{}
	for seed := range seeds {
		h, err := newHistory(seed)
		if err != nil {
			t.Fatal(err)
		}
		for range 30 {
			before, c := h.now, h.command()
			if err := h.step(c); err != nil {
				t.Fatalf("seed %d: %s, %s: %v", seed, show(before), showCommand(c), err)
			}
			if h.now != before {
				reached[phaseOf(h.now)+" "+string(c.Kind)]++
			}
		}
		if err := h.end(); err != nil {
			t.Fatalf("seed %d: %s: %v", seed, show(h.now), err)
		}
		checkFile(t, h.now)
	}
	for _, phase := range []string{"settled", string(Copying), string(Switching)} {
		for _, kind := range []Kind{Join, Leave, Remove, Replace, Replicate, Zone, Advance, Pause, Resume, Renew} {
			if n := reached[phase+" "+string(kind)]; n == 0 && (phase != "settled" || kind != Remove && kind != Replace) {
				t.Errorf("no %s led to a table that is %s", kind, phase)
			}
		}
	}
}

func phaseOf(t *Table) string {
	if t.Transition == nil {
		return "settled"
	}
	return string(t.Transition.Phase)
}

// checkFile: a table is the same after it was written and read.
func checkFile(t *testing.T, table *Table) {
	t.Helper()
	b, err := Encode(table)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(b); err != nil || !reflect.DeepEqual(got, table) {
		t.Fatalf("%s is %s, %v after it was read", show(table), show(got), err)
	}
}

// What is undone while it is copied leaves no transition, in whatever order that happens.
func TestUndoneWhileCopying(t *testing.T) {
	for seed := range uint64(2000) {
		h, err := newHistory(seed)
		if err != nil {
			t.Fatal(err)
		}
		do := func(c Command) {
			t.Helper()
			before := h.now
			if err := h.step(c); err != nil {
				t.Fatalf("seed %d: %s, %s: %v", seed, show(before), showCommand(c), err)
			}
		}
		// Leave holes behind now and then, and begin where nothing moves.
		do(Command{Kind: Leave, Nodes: []NodeID{h.node()}})
		if err := h.end(); err != nil {
			t.Fatal(err)
		}
		first := h.now
		for range 10 {
			if c := h.command(); c.Kind == Join || c.Kind == Leave || c.Kind == Replicate || c.Kind == Zone || c.Kind == Replace && !c.Lost {
				do(c)
			}
		}
		seated, owners := zones(h.now.Target()), zones(&first.Current)
		// Those who came have gone, or those who left have no slot to come back to. The
		// stand-in keeps the target from being empty meanwhile.
		do(Command{Kind: Join, Member: &Member{Node: "z"}})
		for id, zone := range seated {
			if was, ok := owners[id]; !ok || zone != was {
				do(Command{Kind: Leave, Nodes: []NodeID{id}})
			}
		}
		for _, i := range h.rng.Perm(len(first.Current.Slots)) {
			if s := first.Current.Slots[i]; s.Node != "" {
				if slot, ok := h.now.Target().SlotOf(s.Node); !ok || slot != i {
					do(Command{Kind: Leave, Nodes: []NodeID{s.Node}})
				}
			}
		}
		do(Command{Kind: Leave, Nodes: []NodeID{"z"}})
		if h.now.Member("z") {
			// All others left: it must stay until one of them is back.
			seated = nil
		}
		for _, i := range h.rng.Perm(len(first.Current.Slots)) {
			if s := first.Current.Slots[i]; s.Node != "" {
				do(Command{Kind: Join, Member: &Member{Node: s.Node, Zone: s.Zone}})
			}
		}
		do(Command{Kind: Replicate, ReplicationFactor: first.Current.ReplicationFactor})
		if seated != nil && (h.now.Transition != nil || !h.now.Current.equal(&first.Current)) {
			t.Fatalf("seed %d: %s was undone, and left %s", seed, show(first), show(h.now))
		}
	}
}
