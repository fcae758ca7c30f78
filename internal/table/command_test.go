package table

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

func TestFound(t *testing.T) {
	got, err := Apply(nil, command(t, nil, "found 3 b/east a"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Table{
		ClusterID: "flock", Epoch: 1, KeyVersion: KeyVersion,
		Current: Assignment{ReplicationFactor: 3, Slots: []Slot{{Node: "b", Zone: "east"}, {Node: "a"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("founded %+v, want %+v", got, want)
	}
}

func TestScenarios(t *testing.T) {
	for _, tt := range []struct{ name, scenario string }{
		{"one after the other", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			advance -> 3 3:abc switching@3 3:abcx
			advance -> 4 3:abcx
			leave a -> 5 3:abcx copying@5 3:-bcx
			advance -> 6 3:abcx switching@6 3:-bcx
			advance -> 7 3:-bcx
			join y -> 8 3:-bcx copying@8 3:ybcx
			advance -> 9 3:-bcx switching@9 3:ybcx
			advance -> 10 3:ybcx`},
		{"join while copying replaces the target", `
			found 3 a -> 1 3:a
			join x -> 2 3:a copying@2 3:ax
			join y -> 3 3:a copying@3 3:axy
			join x -> =
			join a -> =`},
		{"join while switching waits", `
			found 3 a -> 1 3:a
			join x -> 2 3:a copying@2 3:ax
			advance -> 3 3:a switching@3 3:ax
			join y -> 4 3:a switching@3 3:ax waiting: join y
			join y -> =
			join x -> =
			join z -> 5 3:a switching@3 3:ax waiting: join y, join z
			advance -> 6 3:ax copying@6 3:axyz`},
		{"a joining node fills the hole of a leaving one", `
			found 3 a b c -> 1 3:abc
			leave b -> 2 3:abc copying@2 3:a-c
			join x -> 3 3:abc copying@3 3:axc
			join y -> 4 3:abc copying@4 3:axcy`},
		{"a returning node takes its own slot", `
			found 3 a b c d -> 1 3:abcd
			leave b c -> 2 3:abcd copying@2 3:a--d
			join c -> 3 3:abcd copying@3 3:a-cd
			join b -> 4 3:abcd`},
		{"a returning node whose slot is taken", `
			found 3 a b c -> 1 3:abc
			leave b -> 2 3:abc copying@2 3:a-c
			join x -> 3 3:abc copying@3 3:axc
			join b -> 4 3:abc copying@4 3:axcb
			leave x -> 5 3:abc copying@5 3:a-cb`},
		{"leave and return", `
			found 3 a b c -> 1 3:abc
			leave b c -> 2 3:abc copying@2 3:a--
			leave b -> =
			join b -> 3 3:abc copying@3 3:ab-
			join c -> 4 3:abc
			leave c -> 5 3:abc copying@5 3:ab-
			advance -> 6 3:abc switching@6 3:ab-
			advance -> 7 3:ab-
			leave c -> ! node c is no member
			leave b x -> ! node x is no member`},
		{"holes beyond the current slots are dropped", `
			found 3 a b -> 1 3:ab
			join x -> 2 3:ab copying@2 3:abx
			join y -> 3 3:ab copying@3 3:abxy
			leave x -> 4 3:ab copying@4 3:ab-y
			leave b -> 5 3:ab copying@5 3:a--y
			leave y -> 6 3:ab copying@6 3:a-
			join b -> 7 3:ab
			leave y -> ! node y is no member`},
		{"leave while switching waits", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			advance -> 3 3:abc switching@3 3:abcx
			leave a -> 4 3:abc switching@3 3:abcx waiting: leave a
			leave a -> =
			leave y -> ! node y is no member
			join a -> 5 3:abc switching@3 3:abcx waiting: leave a, join a
			leave a -> 6 3:abc switching@3 3:abcx waiting: leave a, join a, leave a
			advance -> 7 3:abcx copying@7 3:-bcx`},
		{"a leaving node returns while switching", `
			found 3 a b c -> 1 3:abc
			leave b -> 2 3:abc copying@2 3:a-c
			advance -> 3 3:abc switching@3 3:a-c
			leave b -> =
			join b -> 4 3:abc switching@3 3:a-c waiting: join b
			advance -> 5 3:a-c copying@5 3:abc`},
		{"what waits and is undone makes no transition", `
			found 3 a b -> 1 3:ab
			join x -> 2 3:ab copying@2 3:abx
			advance -> 3 3:ab switching@3 3:abx
			join y -> 4 3:ab switching@3 3:abx waiting: join y
			leave y -> 5 3:ab switching@3 3:abx waiting: join y, leave y
			advance -> 6 3:abx`},
		{"the last node stays", `
			found 3 a -> 1 3:a
			leave a -> ! no node would be left
			join b -> 2 3:a copying@2 3:ab
			leave a b -> ! no node would be left
			advance -> 3 3:a switching@3 3:ab
			leave a b -> ! no node would be left
			leave a -> 4 3:a switching@3 3:ab waiting: leave a
			leave b -> ! no node would be left
			join c -> 5 3:a switching@3 3:ab waiting: leave a, join c
			leave b -> 6 3:a switching@3 3:ab waiting: leave a, join c, leave b
			advance -> 7 3:ab copying@7 3:c-`},
		{"remove", `
			found 3 a b c d -> 1 3:abcd
			remove b -> 2 3:aBcd copying@2 3:a-cd
			remove b -> =
			leave b -> =
			remove c -> ! no more than 1 may be given up at a time
			remove x -> ! node x is no member
			advance -> 3 3:aBcd switching@3 3:a-cd
			remove c -> ! this would make it 2
			advance -> 4 3:a-cd
			remove c -> 5 3:a-Cd copying@5 3:a--d`},
		{"remove while another change is copied", `
			found 3 a b c d -> 1 3:abcd
			join x -> 2 3:abcd copying@2 3:abcdx
			remove b -> 3 3:aBcd copying@3 3:a-cdx
			remove x -> 4 3:aBcd copying@4 3:a-cd
			remove x -> ! node x is no member`},
		{"a node that leaves is lost", `
			found 3 a b c d -> 1 3:abcd
			leave b -> 2 3:abcd copying@2 3:a-cd
			remove b -> 3 3:aBcd copying@2 3:a-cd
			advance -> 4 3:aBcd switching@4 3:a-cd`},
		{"a removed node comes back", `
			found 3 a b c d -> 1 3:abcd
			remove b -> 2 3:aBcd copying@2 3:a-cd
			join b -> 3 3:aBcd copying@3 3:abcd
			remove b -> 4 3:aBcd copying@4 3:a-cd
			join b -> 5 3:aBcd copying@5 3:abcd
			advance -> 6 3:aBcd switching@6 3:abcd
			advance -> 7 3:abcd`},
		{"remove while switching", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			advance -> 3 3:abc switching@3 3:abcx
			remove b -> 4 3:aBc switching@3 3:aBcx
			remove b -> =
			remove x -> ! no more than 1 may be given up at a time
			advance -> 5 3:aBcx copying@5 3:a-cx
			advance -> 6 3:aBcx switching@6 3:a-cx
			advance -> 7 3:a-cx`},
		{"a new owner is lost while switching", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			advance -> 3 3:abc switching@3 3:abcx
			remove x -> 4 3:abc switching@3 3:abcX
			remove x -> =
			join x -> 5 3:abc switching@3 3:abcX waiting: join x
			advance -> 6 3:abcX copying@6 3:abcx`},
		{"a former owner is lost while switching", `
			found 3 a b c d -> 1 3:abcd
			leave b -> 2 3:abcd copying@2 3:a-cd
			advance -> 3 3:abcd switching@3 3:a-cd
			remove b -> 4 3:aBcd switching@3 3:a-cd
			remove b -> =
			remove c -> ! no more than 1 may be given up at a time
			advance -> 5 3:a-cd`},
		{"a node is lost that others wait to leave with", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			advance -> 3 3:abc switching@3 3:abcx
			leave b c -> 4 3:abc switching@3 3:abcx waiting: leave b c
			remove b -> 5 3:aBc switching@3 3:aBcx waiting: leave b c
			advance -> 6 3:aBcx copying@6 3:a--x`},
		{"a node is lost that waits to join", `
			found 3 a b c -> 1 3:abc
			replicate 2 -> 2 3:abc copying@2 2:abc
			advance -> 3 3:abc switching@3 2:abc
			join x -> 4 3:abc switching@3 2:abc waiting: join x
			replace b x -> 5 3:abc switching@3 2:abc waiting: join x, replace b x
			remove x -> 6 3:abc switching@3 2:abc waiting: join x, replace b x, remove x
			advance -> 7 2:abc copying@7 2:a-c`},
		{"too few copies to give any up", `
			found 3 a b -> 1 3:ab
			remove b -> ! with 2 copies no more than 0 may be given up at a time
			remove a b -> ! this would make it 2
			join x -> 2 3:ab copying@2 3:abx
			remove x -> 3 3:ab`},
		{"five copies spare two", `
			found 5 a b c d e -> 1 5:abcde
			remove a b c -> ! no more than 2 may be given up at a time
			remove a -> 2 5:Abcde copying@2 5:-bcde
			remove b -> 3 5:ABcde copying@3 5:--cde
			remove c -> ! this would make it 3
			advance -> 4 5:ABcde switching@4 5:--cde
			remove c -> ! this would make it 3`},
		{"a loss is accepted", `
			found 3 a b c d e -> 1 3:abcde
			remove a b c -> ! no more than 1 may be given up at a time
			remove a b c d e accept-loss -> ! no node would be left
			remove a b c accept-loss -> 2 3:ABCde copying@2 3:---de
			advance -> 3 3:ABCde switching@3 3:---de
			remove a -> =
			remove d -> ! with 3 copies no more than 1 may be given up at a time, and this would make it 4
			remove d accept-loss -> 4 3:ABCDe switching@3 3:---De
			advance -> 5 3:---De copying@5 3:----e
			leave e accept-loss -> ! only a removal can accept a loss`},
		{"one copy is given up", `
			found 1 a b -> 1 1:ab
			remove b -> ! no more than 0 may be given up at a time
			remove b accept-loss -> 2 1:aB copying@2 1:a-`},
		{"the target may spare fewer", `
			found 5 a b c d e -> 1 5:abcde
			replicate 2 -> 2 5:abcde copying@2 2:abcde
			advance -> 3 5:abcde switching@3 2:abcde
			remove a -> ! with 2 copies no more than 0 may be given up at a time`},
		{"replace", `
			found 3 a b c -> 1 3:abc
			replace b x -> ! node x is no member: start it
			join x -> 2 3:abc copying@2 3:abcx
			replace y x -> ! node y is no member
			replace b c -> ! node c owns copies already
			replace b b -> ! node b cannot replace itself
			replace b b lost -> ! node b cannot replace itself
			replace x x -> ! node x cannot replace itself
			replace b x -> 3 3:abc copying@3 3:axc
			replace b x -> =
			advance -> 4 3:abc switching@4 3:axc
			replace b x -> ! node x owns copies already
			advance -> 5 3:axc
			replace b x -> ! node x owns copies already`},
		{"replace a lost node", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			replace b x lost -> 3 3:aBc copying@3 3:axc
			replace b x lost -> =
			replace a x lost -> ! no more than 1 may be given up at a time
			replace y x lost -> ! node y is no member
			advance -> 4 3:aBc switching@4 3:axc
			advance -> 5 3:axc`},
		{"replace a node whose slot is a hole", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			leave b -> 3 3:abc copying@3 3:a-cx
			replace b x -> 4 3:abc copying@4 3:axc
			join y -> 5 3:abc copying@5 3:axcy
			replace b y -> ! node x takes the slot of node b already
			replace x y -> 6 3:abc copying@6 3:ayc`},
		{"replace a removed node", `
			found 3 a b c -> 1 3:abc
			remove b -> 2 3:aBc copying@2 3:a-c
			leave c -> 3 3:aBc copying@3 3:a--
			join x -> 4 3:aBc copying@4 3:ax-
			replace c x -> 5 3:aBc copying@5 3:a-x
			replace b x -> 6 3:aBc copying@6 3:ax-`},
		{"replace a node that comes back to another slot", `
			found 3 a b c -> 1 3:abc
			leave b -> 2 3:abc copying@2 3:a-c
			join x -> 3 3:abc copying@3 3:axc
			join b -> 4 3:abc copying@4 3:axcb
			replace b x -> 5 3:abc copying@5 3:axc
			replace b x -> =`},
		{"a joining node goes back on its replacement", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			replace b x -> 3 3:abc copying@3 3:axc
			leave x -> 4 3:abc copying@4 3:a-c
			join b -> 5 3:abc`},
		{"replace while switching waits", `
			found 3 a b c -> 1 3:abc
			join x -> 2 3:abc copying@2 3:abcx
			advance -> 3 3:abc switching@3 3:abcx
			replace b y -> ! node y is no member: start it
			replace b x -> ! node x owns copies already
			join y -> 4 3:abc switching@3 3:abcx waiting: join y
			replace b y lost -> 5 3:aBc switching@3 3:aBcx waiting: join y
			advance -> 6 3:aBcx copying@6 3:aycx`},
		{"replace while switching, with a slot that another took", `
			found 3 a b c -> 1 3:abc
			replicate 4 -> 2 3:abc copying@2 4:abc
			advance -> 3 3:abc switching@3 4:abc
			join y -> 4 3:abc switching@3 4:abc waiting: join y
			join x -> 5 3:abc switching@3 4:abc waiting: join y, join x
			replace b x -> 6 3:abc switching@3 4:abc waiting: join y, join x, replace b x
			remove b -> 7 3:aBc switching@3 4:aBc waiting: join y, join x, replace b x
			advance -> 8 4:aBc copying@8 4:aycx`},
		{"replicate", `
			found 3 a b c d -> 1 3:abcd
			replicate 3 -> =
			replicate 5 -> 2 3:abcd copying@2 5:abcd
			replicate 2 -> 3 3:abcd copying@3 2:abcd
			replicate 3 -> 4 3:abcd
			replicate 1 -> 5 3:abcd copying@5 1:abcd
			advance -> 6 3:abcd switching@6 1:abcd
			replicate 2 -> 7 3:abcd switching@6 1:abcd waiting: replicate 2
			replicate 2 -> =
			advance -> 8 1:abcd copying@8 2:abcd`},
		{"zone", `
			found 3 a/east b c -> 1 3:abc
			zone x/west -> ! node x owns nothing
			zone a/west -> 2 3:abc copying@2 3:abc
			zone a/west -> =
			zone b/west -> 3 3:abc copying@3 3:abc
			zone a/east -> 4 3:abc copying@4 3:abc
			zone b -> 5 3:abc
			zone c/west -> 6 3:abc copying@6 3:abc
			leave c -> 7 3:abc copying@7 3:ab-
			zone c/west -> ! node c owns nothing, or ceases to`},
		{"zone while switching waits", `
			found 3 a b c -> 1 3:abc
			zone a/west -> 2 3:abc copying@2 3:abc
			advance -> 3 3:abc switching@3 3:abc
			zone a/west -> =
			zone b/west -> 4 3:abc switching@3 3:abc waiting: zone b
			zone b/west -> =
			zone a -> 5 3:abc switching@3 3:abc waiting: zone b, zone a
			remove b -> 6 3:aBc switching@3 3:aBc waiting: zone b, zone a
			advance -> 7 3:aBc copying@7 3:a-c`},
		{"a stale advance", `
			found 3 a -> 1 3:a
			advance 1 -> =
			join x -> 2 3:a copying@2 3:ax
			join y -> 3 3:a copying@3 3:axy
			advance 2 -> =
			advance 4 -> =
			advance 3 -> 4 3:a switching@4 3:axy
			advance 3 -> =
			join z -> 5 3:a switching@4 3:axy waiting: join z
			advance 5 -> =
			advance 4 -> 6 3:axy copying@6 3:axyz
			advance 4 -> =`},
		{"pause and resume", `
			found 3 a -> 1 3:a
			resume -> =
			pause -> 2 3:a paused
			pause -> =
			join x -> 3 3:a copying@3 3:ax paused
			resume -> 4 3:a copying@3 3:ax
			advance -> 5 3:a switching@5 3:ax
			pause -> 6 3:a switching@5 3:ax paused
			advance -> 7 3:ax paused`},
	} {
		t.Run(tt.name, func(t *testing.T) { play(t, tt.scenario) })
	}
}

// A zone changes where the copies are to be, and what is there stays there until they are.
func TestZoneChangesTheTarget(t *testing.T) {
	now := play(t, `
		found 3 a/west b/west -> 1 3:ab
		zone b/east -> 2 3:ab copying@2 3:ab`)
	if was, is := now.Current.Slots[1], now.Transition.Target.Slots[1]; was.Zone != "west" || is.Zone != "east" {
		t.Errorf("slot %+v becomes %+v", was, is)
	}
}

// A node that has a slot keeps its zone, whatever zone it joins from later.
func TestJoinKeepsTheZone(t *testing.T) {
	now := play(t, `
		found 3 a/west -> 1 3:a
		join x/east -> 2 3:a copying@2 3:ax
		join x/west -> =
		join a/east -> =`)
	if got := now.Transition.Target.Slots[1]; got != (Slot{Node: "x", Zone: "east"}) {
		t.Errorf("slot %+v", got)
	}
	// One that left and comes back from elsewhere has not undone its leave.
	now = play(t, `
		found 3 a/west b/west -> 1 3:ab
		leave b -> 2 3:ab copying@2 3:a-
		join b/east -> 3 3:ab copying@3 3:ab`)
	if got := now.Transition.Target.Slots[1]; got != (Slot{Node: "b", Zone: "east"}) {
		t.Errorf("slot %+v", got)
	}
}

// Two tables made of the same one share nothing that either changes.
func TestApplyTwice(t *testing.T) {
	now := play(t, `
		found 3 a -> 1 3:a
		join b -> 2 3:a copying@2 3:ab
		advance -> 3 3:a switching@3 3:ab
		join c -> 4 3:a switching@3 3:ab waiting: join c
		join d -> 5 3:a switching@3 3:ab waiting: join c, join d
		join e -> 6 3:a switching@3 3:ab waiting: join c, join d, join e`)
	one, err := Apply(now, command(t, now, "join x"))
	if err != nil {
		t.Fatal(err)
	}
	before := show(one)
	if _, err := Apply(now, command(t, now, "join y")); err != nil {
		t.Fatal(err)
	}
	if got := show(one); got != before {
		t.Errorf("%s became %s", before, got)
	}
}

func TestApplyRefuses(t *testing.T) {
	one, switching := settled(3, "a"), moving(3, "a", Switching, "ab")
	member := func(node NodeID, zone string) Command {
		return Command{Kind: Join, Member: &Member{Node: node, Zone: zone}}
	}
	tests := []struct {
		name    string
		table   *Table
		command Command
		want    error
	}{
		{"found twice", one, command(t, nil, "found 3 a"), ErrFounded},
		{"found without founders", nil, command(t, nil, "found 3"), ErrCommand},
		{"found without cluster ID", nil, Command{Kind: Found, ReplicationFactor: 3, Founders: []Member{{Node: "a"}}}, ErrCommand},
		{"found with the same founder twice", nil, command(t, nil, "found 3 a a"), ErrCommand},
		{"found with an empty founder", nil, command(t, nil, "found 3 a /east"), ErrCommand},
		{"found with replication factor 0", nil, command(t, nil, "found 0 a"), ErrCommand},
		{"join before founding", nil, member("a", ""), ErrNotFounded},
		{"pause before founding", nil, Command{Kind: Pause}, ErrNotFounded},
		{"join nobody", one, Command{Kind: Join}, ErrCommand},
		{"join an empty ID", one, member("", "z"), ErrCommand},
		{"join bytes that JSON alters", one, member("\xff", ""), ErrCommand},
		{"join a zone that JSON alters", one, member("b", "\xff"), ErrCommand},
		{"join bytes that JSON alters, while switching", switching, member("\xff", ""), ErrCommand},
		{"join a zone that JSON alters, while switching", switching, member("c", "\xff"), ErrCommand},
		{"leave of nobody", one, Command{Kind: Leave}, ErrCommand},
		{"leave of an empty ID", one, Command{Kind: Leave, Nodes: []NodeID{"a", ""}}, ErrCommand},
		{"remove nobody", one, Command{Kind: Remove}, ErrCommand},
		{"replace by nobody", one, Command{Kind: Replace, Nodes: []NodeID{"a"}}, ErrCommand},
		{"replace by two", one, Command{Kind: Replace, Nodes: []NodeID{"a", "b", "c"}}, ErrCommand},
		{"replicate 0 times", one, Command{Kind: Replicate}, ErrCommand},
		{"replicate 0 times, while switching", switching, Command{Kind: Replicate}, ErrCommand},
		{"advance from nowhere", one, Command{Kind: Advance}, ErrCommand},
		{"unknown kind", one, Command{Kind: "merge"}, ErrCommand},
		{"no kind", nil, Command{}, ErrCommand},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Apply(tt.table, tt.command); !errors.Is(err, tt.want) || got != nil {
				t.Errorf("table %s, error %v, want %v", show(got), err, tt.want)
			}
		})
	}
}

func TestCommandJSON(t *testing.T) {
	for text, want := range map[string]string{
		"found 3 a/z b":    `{"kind":"found","clusterId":"flock","founders":[{"node":"a","zone":"z"},{"node":"b"}],"replicationFactor":3}`,
		"join a/z":         `{"kind":"join","member":{"node":"a","zone":"z"}}`,
		"leave a b":        `{"kind":"leave","nodes":["a","b"]}`,
		"remove a":         `{"kind":"remove","nodes":["a"]}`,
		"replace a b lost": `{"kind":"replace","nodes":["a","b"],"lost":true}`,
		"replicate 2":      `{"kind":"replicate","replicationFactor":2}`,
		"advance 7":        `{"kind":"advance","epoch":7}`,
		"pause":            `{"kind":"pause"}`,
		"resume":           `{"kind":"resume"}`,
	} {
		c := command(t, nil, text)
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != want {
			t.Errorf("%s: %s, want %s", text, b, want)
		}
		var got Command
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s gives %+v, %v, want %+v", b, got, err, c)
		}
	}
}
