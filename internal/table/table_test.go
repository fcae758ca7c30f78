package table

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// assignment returns an assignment whose slots are named by single letters, "-" for a hole
// and a capital letter for a node that is removed.
func assignment(rf int, slots string) Assignment {
	a := Assignment{ReplicationFactor: rf}
	for _, s := range slots {
		if s == '-' {
			a.Slots = append(a.Slots, Slot{})
			continue
		}
		lower := strings.ToLower(string(s))
		a.Slots = append(a.Slots, Slot{Node: NodeID(lower), Removed: lower != string(s)})
	}
	return a
}

// settled returns a valid table without a transition.
func settled(rf int, slots string) *Table {
	return &Table{ClusterID: "flock", Epoch: 1, KeyVersion: KeyVersion, Current: assignment(rf, slots)}
}

// moving returns a valid table in a phase that began with its epoch.
func moving(rf int, current string, phase Phase, target string) *Table {
	t := settled(rf, current)
	t.Epoch = 5
	t.Transition = &Transition{Phase: phase, Began: 5, Target: assignment(rf, target)}
	return t
}

func TestQuorums(t *testing.T) {
	tests := []struct {
		rf                            int
		slots                         string
		owners, removed               int
		copies, writes, reads, spares int
	}{
		{3, "a", 1, 0, 1, 1, 1, 0},
		{3, "ab", 2, 0, 2, 2, 1, 0},
		{3, "abc", 3, 0, 3, 2, 2, 1},
		{3, "aBc", 3, 1, 3, 2, 2, 1},
		{3, "abcdef", 6, 0, 3, 2, 2, 1},
		{3, "a--b-", 2, 0, 2, 2, 1, 0},
		{1, "abc", 3, 0, 1, 1, 1, 0},
		{2, "abc", 3, 0, 2, 2, 1, 0},
		{4, "abcd", 4, 0, 4, 3, 2, 1},
		{5, "abcd", 4, 0, 4, 3, 2, 1},
		{5, "ABcde", 5, 2, 5, 3, 3, 2},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("rf %d slots %s", tt.rf, tt.slots), func(t *testing.T) {
			a := assignment(tt.rf, tt.slots)
			if a.Owners() != tt.owners || a.Removed() != tt.removed {
				t.Errorf("owners %d, removed %d; want %d, %d", a.Owners(), a.Removed(), tt.owners, tt.removed)
			}
			if a.Copies() != tt.copies || a.WriteQuorum() != tt.writes || a.ReadQuorum() != tt.reads {
				t.Errorf("copies %d, write quorum %d, read quorum %d; want %d, %d, %d",
					a.Copies(), a.WriteQuorum(), a.ReadQuorum(), tt.copies, tt.writes, tt.reads)
			}
			if spares := a.Copies() - a.WriteQuorum(); spares != tt.spares {
				t.Errorf("%d owners may miss a write, want %d", spares, tt.spares)
			}
		})
	}
}

func TestNodesAndSlots(t *testing.T) {
	waiting := moving(3, "abC-", Switching, "ab-x")
	waiting.Waiting = []Command{
		{Kind: Join, Member: &Member{Node: "y"}}, {Kind: Join, Member: &Member{Node: "z"}},
		{Kind: Remove, Nodes: []NodeID{"y"}}, {Kind: Leave, Nodes: []NodeID{"a"}},
	}
	tests := []struct {
		name  string
		table *Table
		nodes []NodeID
		slots map[NodeID]int
		none  []NodeID
	}{
		{"holes", settled(3, "b-a--c"), []NodeID{"b", "a", "c"}, map[NodeID]int{"b": 0, "a": 2, "c": 5}, []NodeID{"", "x"}},
		{"removed", settled(3, "aBc"), []NodeID{"a", "c"}, map[NodeID]int{"a": 0, "c": 2}, []NodeID{"b"}},
		{"a leaving and a joining node", moving(3, "a-c", Copying, "a-dx"), []NodeID{"a", "c", "d", "x"},
			map[NodeID]int{"a": 0, "c": 2, "d": 2, "x": 3}, nil},
		{"a removed node that joined anew", moving(3, "aBc", Copying, "a-cb"), []NodeID{"a", "c", "b"}, map[NodeID]int{"b": 3}, nil},
		{"those that wait", waiting, []NodeID{"a", "b", "x", "z"}, map[NodeID]int{"x": 3}, []NodeID{"z", "c", "y"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.table.Nodes(); !slices.Equal(got, tt.nodes) {
				t.Errorf("nodes %v, want %v", got, tt.nodes)
			}
			for _, id := range tt.nodes {
				if !tt.table.Member(id) {
					t.Errorf("node %s is no member", id)
				}
			}
			for id, want := range tt.slots {
				if slot, ok := tt.table.SlotOf(id); !ok || slot != want {
					t.Errorf("node %s: slot %d, %t, want %d", id, slot, ok, want)
				}
			}
			for _, id := range tt.none {
				if slot, ok := tt.table.SlotOf(id); ok || slot != 0 {
					t.Errorf("node %q: slot %d, %t, want none", id, slot, ok)
				}
				if !slices.Contains(tt.nodes, id) && tt.table.Member(id) {
					t.Errorf("node %q is a member", id)
				}
			}
		})
	}
}

func TestReadingAndWriting(t *testing.T) {
	tests := []struct {
		table                    *Table
		target, reading, writing string
	}{
		{settled(3, "abc"), "abc", "abc", "abc"},
		{moving(3, "abc", Copying, "abcx"), "abcx", "abc", "abc abcx"},
		{moving(3, "abc", Switching, "abcx"), "abcx", "abcx", "abc abcx"},
	}
	for _, tt := range tests {
		var writing []string
		for _, a := range tt.table.Writing() {
			writing = append(writing, slotString(a))
		}
		target, reading := slotString(tt.table.Target()), slotString(tt.table.Reading())
		if got := strings.Join(writing, " "); target != tt.target || reading != tt.reading || got != tt.writing {
			t.Errorf("%s: target %s, reading %s, writing %s; want %s, %s, %s",
				show(tt.table), target, reading, got, tt.target, tt.reading, tt.writing)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, sound := range []*Table{
		settled(3, "a-b"), settled(3, "aBc"), moving(3, "abc", Copying, "a-cx"), moving(3, "abc", Switching, "aBc"),
	} {
		if err := sound.Validate(); err != nil {
			t.Errorf("%s: %v", show(sound), err)
		}
	}
	tests := []struct {
		name  string
		spoil func(*Table)
		want  string
	}{
		{"cluster ID", func(t *Table) { t.ClusterID = "" }, "cluster ID is empty"},
		{"cluster ID bytes", func(t *Table) { t.ClusterID = "\xff" }, "UTF-8"},
		{"epoch", func(t *Table) { t.Epoch = 0 }, "epoch 0"},
		{"key version", func(t *Table) { t.KeyVersion = 2 }, "key version 2"},
		{"replication factor", func(t *Table) { t.Current.ReplicationFactor = 0 }, "current assignment: replication factor 0"},
		{"no nodes", func(t *Table) { t.Current.Slots = make([]Slot, 3) }, "current assignment: no slot holds a node"},
		{"all removed", func(t *Table) { t.Current = assignment(1, "AB-") }, "current assignment: no slot holds a node"},
		{"twice", func(t *Table) { t.Current.Slots[1].Node = "a" }, "node a sits in slots 0 and 1"},
		{"zone of a hole", func(t *Table) { t.Current.Slots[1].Zone = "z" }, `slot 1 has no node but zone "z"`},
		{"removal of a hole", func(t *Table) { t.Current.Slots[1].Removed = true }, "slot 1 has no node"},
		{"node bytes", func(t *Table) { t.Current.Slots[0].Node = "\xff" }, `node ID "\xff" is not made of`},
		{"node path", func(t *Table) { t.Current.Slots[0].Node = "../x" }, `node ID "../x" is not made of`},
		{"node of a target", func(t *Table) { t.Transition.Target.Slots[0].Node = "a/../x" }, "target assignment: slot 0: node ID"},
		{"long node", func(t *Table) { t.Current.Slots[0].Node = NodeID(strings.Repeat("n", 65)) }, "up to 64 letters"},
		{"zone bytes", func(t *Table) { t.Current.Slots[0].Zone = "\xff" }, "UTF-8"},
		{"no phase", func(t *Table) { t.Transition.Phase = "" }, "unknown phase"},
		{"phase", func(t *Table) { t.Transition.Phase = "resting" }, `unknown phase "resting"`},
		{"began never", func(t *Table) { t.Transition.Began = 0 }, "began with epoch 0"},
		{"began later", func(t *Table) { t.Transition.Began = 6 }, "began with epoch 6, the table's is 5"},
		{"target", func(t *Table) { t.Transition.Target = Assignment{} }, "target assignment: replication factor 0"},
		{"target shorter", func(t *Table) { t.Transition.Target = assignment(3, "ab") }, "2 slots, the current one has 3"},
		{"waiting", func(t *Table) { t.Waiting = []Command{{Kind: Join}} }, "a change that waits: no node ID"},
		{"waiting bytes", func(t *Table) { t.Waiting = []Command{{Kind: Join, Member: &Member{Node: "\xff"}}} }, `node ID "\xff" is not made of`},
		{"waiting zone bytes", func(t *Table) { t.Waiting = []Command{{Kind: Join, Member: &Member{Node: "x", Zone: "\xff"}}} }, "UTF-8"},
		{"waiting path", func(t *Table) { t.Waiting = []Command{{Kind: Replace, Nodes: []NodeID{"a", "../x"}}} }, `node ID "../x" is not made of`},
		{"waiting kind", func(t *Table) { t.Waiting = []Command{{Kind: Advance, Epoch: 1}} }, `"advance" does not wait`},
		{"waiting for nothing", func(t *Table) { t.Waiting, t.Transition = []Command{{Kind: Replicate, ReplicationFactor: 2}}, nil }, "no transition"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := moving(3, "a-b", Switching, "axb")
			tt.spoil(m)
			err := m.Validate()
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// A quorum counts on those who are left, and any two that have to meet do.
func TestQuorumsOfWhatIsLeft(t *testing.T) {
	for copies := 1; copies <= 8; copies++ {
		a := settled(copies, "abcdefgh")
		for left := 0; left <= copies; left++ {
			write, read := a.Current.Quorums(left)
			switch {
			case write < 1 || read < 1:
				t.Errorf("%d of %d copies left: quorums %d and %d", left, copies, write, read)
			case left > 0 && (write > left || read > left || write+read <= left):
				t.Errorf("%d of %d copies left: quorums %d and %d need not meet", left, copies, write, read)
			case left >= a.Current.WriteQuorum() && (write != a.Current.WriteQuorum() || read != a.Current.ReadQuorum()):
				t.Errorf("%d of %d copies left: quorums %d and %d, though the usual ones can be had", left, copies, write, read)
			}
		}
	}
}
