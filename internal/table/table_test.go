package table

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// members returns a valid table whose slots are named by single letters, "-" for a hole
// and a capital letter for a node that is joining.
func members(rf int, slots string) *Table {
	t := &Table{ClusterID: "flock", Epoch: 1, KeyVersion: KeyVersion, ReplicationFactor: rf}
	for _, s := range slots {
		if s == '-' {
			t.Slots = append(t.Slots, Slot{})
			continue
		}
		lower := strings.ToLower(string(s))
		t.Slots = append(t.Slots, Slot{Node: NodeID(lower), Joining: lower != string(s)})
	}
	return t
}

func TestQuorums(t *testing.T) {
	tests := []struct {
		rf                  int
		slots               string
		copies, write, read int
	}{
		{3, "a", 1, 1, 1},
		{3, "ab", 2, 2, 1},
		{3, "abc", 3, 2, 2},
		{3, "abcdef", 3, 2, 2},
		{3, "a--b-", 2, 2, 1},
		{1, "abc", 1, 1, 1},
		{2, "abc", 2, 2, 1},
		{5, "abcd", 4, 3, 2},
		{5, "abcde", 5, 3, 3},
		{3, "aBC", 1, 1, 1},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("rf %d slots %s", tt.rf, tt.slots), func(t *testing.T) {
			m := members(tt.rf, tt.slots)
			if m.Copies() != tt.copies || m.WriteQuorum() != tt.write || m.ReadQuorum() != tt.read {
				t.Errorf("copies %d, write quorum %d, read quorum %d; want %d, %d, %d",
					m.Copies(), m.WriteQuorum(), m.ReadQuorum(), tt.copies, tt.write, tt.read)
			}
		})
	}
}

func TestWritable(t *testing.T) {
	tests := []struct {
		slots   string
		written int
		want    bool
	}{
		{"abc", 0, false},
		{"abc", 1, true},
		{"abc", 2, true},
		{"abc", 3, false},
		{"a", 2, false},
		{"a--", 1, true},
	}
	for _, tt := range tests {
		m := members(3, tt.slots)
		m.WrittenQuorum = tt.written
		if got := m.Writable(); got != tt.want {
			t.Errorf("slots %s, written quorum %d: writable %t, want %t", tt.slots, tt.written, got, tt.want)
		}
	}
}

func TestNodesAndSlots(t *testing.T) {
	m := members(3, "b-a--c")
	if got, want := m.Nodes(), []NodeID{"b", "a", "c"}; !slices.Equal(got, want) {
		t.Errorf("nodes %v, want %v", got, want)
	}
	for id, want := range map[NodeID]int{"b": 0, "a": 2, "c": 5} {
		if slot, ok := m.SlotOf(id); !ok || slot != want {
			t.Errorf("node %s: slot %d, %t, want %d", id, slot, ok, want)
		}
	}
	for _, id := range []NodeID{"", "x"} {
		if slot, ok := m.SlotOf(id); ok || slot != 0 {
			t.Errorf("node %q: slot %d, %t, want none", id, slot, ok)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := members(3, "a-b").Validate(); err != nil {
		t.Errorf("a sound table: %v", err)
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
		{"replication factor", func(t *Table) { t.ReplicationFactor = 0 }, "replication factor 0"},
		{"written quorum", func(t *Table) { t.WrittenQuorum = -1 }, "written quorum -1"},
		{"no nodes", func(t *Table) { t.Slots = make([]Slot, 3) }, "no slot holds a node"},
		{"no owners", func(t *Table) { t.Slots = []Slot{{Node: "a", Joining: true}} }, "that owns anything"},
		{"twice", func(t *Table) { t.Slots[1].Node = "a" }, "node a sits in slots 0 and 1"},
		{"zone of a hole", func(t *Table) { t.Slots[1].Zone = "z" }, `slot 1 has no node but zone "z"`},
		{"node bytes", func(t *Table) { t.Slots[0].Node = "\xff" }, "UTF-8"},
		{"zone bytes", func(t *Table) { t.Slots[0].Zone = "\xff" }, "UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := members(3, "a-b")
			tt.spoil(m)
			err := m.Validate()
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestBucketsEndWhereNodesOwn(t *testing.T) {
	for slots, want := range map[string]int{"abc": 3, "abC": 2, "aBc": 3, "aBC": 1, "ab-": 3, "a-C": 2} {
		if got := len(members(3, slots).Buckets()); got != want {
			t.Errorf("slots %s: %d buckets, want %d", slots, got, want)
		}
	}
}

func TestAnswerQuorum(t *testing.T) {
	tests := []struct {
		slots         string
		written, want int
	}{
		{"abc", 0, 2}, // the mark may be on its way
		{"abc", 2, 2},
		{"abc", 1, 1}, // written when there was one node
		{"a", 0, 1},
		{"abcde", 2, 2},
	}
	for _, tt := range tests {
		m := members(3, tt.slots)
		m.WrittenQuorum = tt.written
		if got := m.AnswerQuorum(); got != tt.want {
			t.Errorf("slots %s, written quorum %d: %d, want %d", tt.slots, tt.written, got, tt.want)
		}
	}
}
