package table

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A scenario is a history of commands, one per line, each with the table that it makes:
//
//	join x -> 2 3:abc copying@2 3:abcx
//
// is epoch 2 with replication factor 3, the current slots a, b and c, and a transition
// whose phase began with epoch 2 and whose target has x in a fourth slot. A hole is "-", a
// removed node a capital letter. "=" stands for the very same table as before, and
// "! text" for a refusal that says the text.

// show writes a table as scenarios do.
func show(t *Table) string {
	if t == nil {
		return "none"
	}
	s := fmt.Sprintf("%d %d:%s", t.Epoch, t.Current.ReplicationFactor, slotString(&t.Current))
	if tr := t.Transition; tr != nil {
		s += fmt.Sprintf(" %s@%d %d:%s", tr.Phase, tr.Began, tr.Target.ReplicationFactor, slotString(&tr.Target))
	}
	for i, c := range t.Waiting {
		s += map[bool]string{true: " waiting: ", false: ", "}[i == 0] + showCommand(c)
	}
	if t.Paused {
		s += " paused"
	}
	return s
}

func slotString(a *Assignment) string {
	var b strings.Builder
	for _, s := range a.Slots {
		switch {
		case s.Node == "":
			b.WriteByte('-')
		case s.Removed:
			b.WriteString(strings.ToUpper(string(s.Node)))
		default:
			b.WriteString(string(s.Node))
		}
	}
	return b.String()
}

func showCommand(c Command) string {
	words := []string{string(c.Kind)}
	if c.ReplicationFactor != 0 {
		words = append(words, strconv.Itoa(c.ReplicationFactor))
	}
	for _, m := range c.Founders {
		words = append(words, string(m.Node))
	}
	if c.Member != nil {
		words = append(words, string(c.Member.Node))
	}
	for _, id := range c.Nodes {
		words = append(words, string(id))
	}
	if c.Lost {
		words = append(words, "lost")
	}
	if c.AcceptLoss {
		words = append(words, "accept-loss")
	}
	if c.Epoch != 0 {
		words = append(words, strconv.FormatUint(c.Epoch, 10))
	}
	return strings.Join(words, " ")
}

// command reads what showCommand writes. A zone may follow a node with a slash. Advance
// without an epoch names that with which the table's phase began.
func command(t *testing.T, now *Table, line string) Command {
	t.Helper()
	words := strings.Fields(line)
	c := Command{Kind: Kind(words[0])}
	words = words[1:]
	number := func() int {
		if len(words) == 0 {
			t.Fatalf("%q lacks a number", line)
		}
		n, err := strconv.Atoi(words[0])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		words = words[1:]
		return n
	}
	member := func(word string) Member {
		node, zone, _ := strings.Cut(word, "/")
		return Member{Node: NodeID(node), Zone: zone}
	}
	switch c.Kind {
	case Found:
		c.ClusterID, c.ReplicationFactor = "flock", number()
		for _, w := range words {
			c.Founders = append(c.Founders, member(w))
		}
	case Join, Zone:
		m := member(words[0])
		c.Member = &m
	case Replicate:
		c.ReplicationFactor = number()
	case Advance:
		switch {
		case len(words) > 0:
			c.Epoch = uint64(number())
		case now != nil && now.Transition != nil:
			c.Epoch = now.Transition.Began
		default:
			t.Fatalf("%q, and there is no transition", line)
		}
	default:
		for _, w := range words {
			switch w {
			case "lost":
				c.Lost = true
			case "accept-loss":
				c.AcceptLoss = true
			default:
				c.Nodes = append(c.Nodes, NodeID(w))
			}
		}
	}
	return c
}

// play runs a scenario and returns the last table.
func play(t *testing.T, scenario string) *Table {
	t.Helper()
	var now *Table
	for line := range strings.Lines(scenario) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		text, want, ok := strings.Cut(line, " -> ")
		if !ok {
			t.Fatalf("%q says nothing of what comes of it", line)
		}
		before := show(now)
		next, err := Apply(now, command(t, now, text))
		if refusal, refused := strings.CutPrefix(want, "! "); refused {
			if err == nil || !strings.Contains(err.Error(), refusal) || next != nil {
				t.Fatalf("%s, %s: %s, error %v; want a refusal with %q", before, text, show(next), err, refusal)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s, %s: %v", before, text, err)
		}
		switch {
		case want == "=" && next != now:
			t.Fatalf("%s, %s: %s, want the same table", before, text, show(next))
		case want != "=" && (show(next) != want || next == now):
			t.Fatalf("%s, %s:\n got %s\nwant %s", before, text, show(next), want)
		}
		now = next
	}
	return now
}
