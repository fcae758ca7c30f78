package table

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func foundCommand(rf int, founders ...NodeID) Command {
	c := Command{Kind: Found, ClusterID: "flock", ReplicationFactor: rf}
	for _, id := range founders {
		c.Founders = append(c.Founders, Member{Node: id, Zone: "zone of " + string(id)})
	}
	return c
}

func joinCommand(id NodeID, zone string) Command {
	return Command{Kind: Join, Member: &Member{Node: id, Zone: zone}}
}

func TestFound(t *testing.T) {
	got, err := Apply(nil, foundCommand(3, "b", "a"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Table{
		ClusterID: "flock", Epoch: 1, KeyVersion: KeyVersion, ReplicationFactor: 3, Settled: true,
		Slots: []Slot{{Node: "b", Zone: "zone of b"}, {Node: "a", Zone: "zone of a"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("founded %+v, want %+v", got, want)
	}
	if got.Writable() {
		t.Error("a new table is writable before its write quorum is marked")
	}
}

func TestJoin(t *testing.T) {
	tests := []struct {
		slots string
		want  string
	}{
		{"a", "aX"},
		{"a-b", "aXb"},
		{"-a--", "Xa--"},
		{"abc", "abcX"},
		{"axb", "axb"},
		{"a-x", "a-x"},
		{"aX", "aX"},
	}
	for _, tt := range tests {
		t.Run(tt.slots, func(t *testing.T) {
			before := members(3, tt.slots)
			before.WrittenQuorum = 1
			after, err := Apply(before, joinCommand("x", ""))
			if err != nil {
				t.Fatal(err)
			}
			if want := members(3, tt.want); !slices.Equal(after.Slots, want.Slots) {
				t.Errorf("slots %v, want %v", after.Slots, want.Slots)
			}
			if after.WrittenQuorum != 1 {
				t.Errorf("written quorum %d, want it unchanged", after.WrittenQuorum)
			}
			if noop := tt.slots == tt.want; noop != (after == before) {
				t.Errorf("same table %t, want %t", after == before, noop)
			}
		})
	}
}

func TestJoinKeepsTheZone(t *testing.T) {
	one, err := Apply(members(3, "a"), joinCommand("x", "east"))
	if err != nil {
		t.Fatal(err)
	}
	if got := one.Slots[1]; got != (Slot{Node: "x", Zone: "east", Joining: true}) {
		t.Errorf("slot %+v", got)
	}
	if again, err := Apply(one, joinCommand("x", "west")); err != nil || again != one {
		t.Errorf("a second join gives %+v, %v, want the same table", again, err)
	}
}

func TestAdmit(t *testing.T) {
	tests := []struct {
		slots string
		nodes []NodeID
		want  string
	}{
		{"aX", []NodeID{"x"}, "ax"},
		{"aXbY", []NodeID{"x", "y"}, "axby"},
		{"aXbY", []NodeID{"y"}, "aXby"},
		{"ax", []NodeID{"x"}, "ax"},
		{"aX", []NodeID{"z"}, "aX"},
		{"aX", nil, "aX"},
	}
	for _, tt := range tests {
		before := members(3, tt.slots)
		after, err := Apply(before, Command{Kind: Admit, Nodes: tt.nodes})
		if err != nil {
			t.Fatal(err)
		}
		if want := members(3, tt.want); !slices.Equal(after.Slots, want.Slots) {
			t.Errorf("%s, admit %s: slots %v, want %v", tt.slots, tt.nodes, after.Slots, want.Slots)
		}
		if noop := tt.slots == tt.want; noop != (after == before) {
			t.Errorf("%s, admit %s: same table %t, want %t", tt.slots, tt.nodes, after == before, noop)
		}
	}
}

// A table is settled until a node becomes an owner after the first write.
func TestSettled(t *testing.T) {
	apply := func(table *Table, commands ...Command) *Table {
		t.Helper()
		for _, c := range commands {
			var err error
			if table, err = Apply(table, c); err != nil {
				t.Fatal(err)
			}
		}
		return table
	}
	found := Command{Kind: Found, ClusterID: "flock", ReplicationFactor: 3, Founders: []Member{{Node: "a"}}}
	admit := func(n NodeID) Command { return Command{Kind: Admit, Nodes: []NodeID{n}} }
	mark := Command{Kind: MarkWritten}
	for _, tt := range []struct {
		name     string
		commands []Command
		want     bool
	}{
		{"founded", nil, true},
		{"grown before the first write", []Command{joinCommand("b", ""), admit("b"), mark}, true},
		{"a node is joining", []Command{mark, joinCommand("b", "")}, true},
		{"grown after the first write", []Command{mark, joinCommand("b", ""), admit("b")}, false},
		{"and once more", []Command{mark, joinCommand("b", ""), admit("b"), mark, joinCommand("c", ""), admit("c")}, false},
	} {
		if got := apply(nil, append([]Command{found}, tt.commands...)...); got.Settled != tt.want {
			t.Errorf("%s: settled %t, want %t", tt.name, got.Settled, tt.want)
		}
	}
}

func TestMarkWritten(t *testing.T) {
	tests := []struct {
		slots         string
		written, want int
	}{
		{"a", 0, 1},
		{"abc", 0, 2},
		{"abc", 2, 2},
		{"abc", 1, 1}, // what one node confirmed alone stays so
		{"a--", 2, 1}, // the quorum fell below what was written so far
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s written %d", tt.slots, tt.written), func(t *testing.T) {
			before := members(3, tt.slots)
			before.WrittenQuorum = tt.written
			after, err := Apply(before, Command{Kind: MarkWritten})
			if err != nil {
				t.Fatal(err)
			}
			if after.WrittenQuorum != tt.want || !after.Writable() {
				t.Errorf("written quorum %d, writable %t, want %d", after.WrittenQuorum, after.Writable(), tt.want)
			}
			if noop := tt.written == tt.want; noop != (after == before) {
				t.Errorf("same table %t, want %t", after == before, noop)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	tests := []struct {
		name    string
		table   *Table
		command Command
		want    error
	}{
		{"found twice", members(3, "a"), foundCommand(3, "a"), ErrFounded},
		{"found without founders", nil, foundCommand(3), ErrCommand},
		{"found without cluster ID", nil, Command{Kind: Found, ReplicationFactor: 3, Founders: []Member{{Node: "a"}}}, ErrCommand},
		{"found with the same founder twice", nil, foundCommand(3, "a", "a"), ErrCommand},
		{"found with an empty founder", nil, foundCommand(3, "a", ""), ErrCommand},
		{"found with replication factor 0", nil, foundCommand(0, "a"), ErrCommand},
		{"join before founding", nil, joinCommand("a", ""), ErrNotFounded},
		{"join nobody", members(3, "a"), Command{Kind: Join}, ErrCommand},
		{"join an empty ID", members(3, "a"), joinCommand("", "z"), ErrCommand},
		{"join bytes that JSON alters", members(3, "a"), joinCommand("\xff", ""), ErrCommand},
		{"admit before founding", nil, Command{Kind: Admit}, ErrNotFounded},
		{"mark before founding", nil, Command{Kind: MarkWritten}, ErrNotFounded},
		{"unknown kind", members(3, "a"), Command{Kind: "merge"}, ErrCommand},
		{"no kind", nil, Command{}, ErrCommand},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Apply(tt.table, tt.command); !errors.Is(err, tt.want) || got != nil {
				t.Errorf("table %+v, error %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestCommandJSON(t *testing.T) {
	for _, c := range []Command{foundCommand(3, "a", "b"), joinCommand("a", "z"), {Kind: Admit, Nodes: []NodeID{"a"}}, {Kind: MarkWritten}} {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var got Command
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%s gives %+v, want %+v", b, got, c)
		}
	}
}

func randomCommand(rng *rand.Rand) Command {
	id := func() NodeID { return NodeID(fmt.Sprintf("n%d", rng.IntN(14))) }
	switch rng.IntN(10) {
	case 0:
		return foundCommand(1+rng.IntN(5), id())
	case 1, 2, 3:
		return Command{Kind: MarkWritten}
	case 4:
		return Command{Kind: Join, Member: &Member{}}
	case 5, 6:
		return Command{Kind: Admit, Nodes: []NodeID{id(), id(), id()}}
	default:
		return joinCommand(id(), fmt.Sprintf("z%d", rng.IntN(3)))
	}
}

// Whatever commands come in whatever order: the epoch counts the changes, a table that
// was handed out never changes, and every table is valid.
func TestApplyInvariants(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var current *Table
		if rng.IntN(2) == 0 {
			current = members(1+rng.IntN(5), "a-b--c"[:1+rng.IntN(6)])
		}
		for range 60 {
			c := randomCommand(rng)
			var before *Table
			if current != nil {
				before = current.clone()
			}
			next, err := Apply(current, c)
			if !reflect.DeepEqual(current, before) {
				t.Fatalf("seed %d: %s changed the table it was applied to", seed, c.Kind)
			}
			if err != nil {
				continue
			}
			if err := checkStep(current, next); err != nil {
				t.Fatalf("seed %d: %s: %v", seed, c.Kind, err)
			}
			current = next
		}
	}
}

// checkStep tells which invariant a step from one table to the next breaks.
func checkStep(before, after *Table) error {
	if err := after.Validate(); err != nil {
		return err
	}
	if after.WriteQuorum()+after.ReadQuorum() <= after.Copies() {
		return fmt.Errorf("write quorum %d and read quorum %d of %d copies need not meet", after.WriteQuorum(), after.ReadQuorum(), after.Copies())
	}
	if 2*after.WriteQuorum() <= after.Copies() {
		return fmt.Errorf("two write quorums of %d of %d copies need not meet", after.WriteQuorum(), after.Copies())
	}
	switch {
	case before == nil && after.Epoch != 1:
		return fmt.Errorf("the first epoch is %d", after.Epoch)
	case before == nil || before == after:
		return nil
	case reflect.DeepEqual(before, after):
		return errors.New("a new table for no change")
	case after.Epoch != before.Epoch+1:
		return fmt.Errorf("epoch %d after %d", after.Epoch, before.Epoch)
	}
	for _, id := range before.Nodes() {
		was, _ := before.SlotOf(id)
		if is, ok := after.SlotOf(id); !ok || is != was {
			return fmt.Errorf("node %s went from slot %d to %d, %t", id, was, is, ok)
		}
	}
	if w := before.WrittenQuorum; w != 0 && after.WrittenQuorum > w {
		return fmt.Errorf("written quorum grew from %d to %d", w, after.WrittenQuorum)
	}
	return nil
}
