package node

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/plan"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// tableOf is a table with nodes in its slots, one copy of each series on rf of them.
func tableOf(t *testing.T, rf int, nodes ...table.NodeID) *table.Table {
	t.Helper()
	c := table.Command{Kind: table.Found, ClusterID: "c", ReplicationFactor: rf}
	for _, id := range nodes {
		c.Founders = append(c.Founders, table.Member{Node: id})
	}
	return applied(t, nil, c)
}

func applied(t *testing.T, from *table.Table, commands ...table.Command) *table.Table {
	t.Helper()
	for _, c := range commands {
		next, err := table.Apply(from, c)
		if err != nil {
			t.Fatal(err)
		}
		from = next
	}
	return from
}

func TestPreview(t *testing.T) {
	settled := tableOf(t, 2, "a", "b", "c")
	copying := applied(t, settled, table.Command{Kind: table.Join, Member: &table.Member{Node: "d"}})
	switching := applied(t, copying, table.Command{Kind: table.Advance, Epoch: copying.Transition.Began})
	leave := func(id table.NodeID) table.Command {
		return table.Command{Kind: table.Leave, Nodes: []table.NodeID{id}}
	}
	for _, c := range []struct {
		name            string
		from            *table.Table
		command         table.Command
		current, target []table.NodeID
		waits           bool
	}{
		{"alone", settled, leave("b"), []table.NodeID{"a", "b", "c"}, []table.NodeID{"a", "c"}, false},
		{"into a copying", copying, leave("b"), []table.NodeID{"a", "b", "c"}, []table.NodeID{"a", "c", "d"}, false},
		{"it ends a copying", copying, leave("d"), []table.NodeID{"a", "b", "c"}, []table.NodeID{"a", "b", "c"}, false},
		{"after a switching", switching, leave("b"), []table.NodeID{"a", "b", "c", "d"}, []table.NodeID{"a", "c", "d"}, true},
		{"nothing changes", settled, table.Command{Kind: table.Replicate, ReplicationFactor: 2}, []table.NodeID{"a", "b", "c"}, []table.NodeID{"a", "b", "c"}, false},
	} {
		next, waits, err := preview(c.from, c.command)
		if err != nil || waits != c.waits || !reflect.DeepEqual(next.Current.Nodes(), c.current) || !reflect.DeepEqual(next.Target().Nodes(), c.target) {
			t.Errorf("%s: %+v, waits %t, %v", c.name, next, waits, err)
		}
	}
	for _, from := range []*table.Table{settled, switching} {
		if _, _, err := preview(from, leave("nobody")); !errors.Is(err, table.ErrCommand) {
			t.Errorf("a command that is refused: %v", err)
		}
	}
}

func TestEstimate(t *testing.T) {
	// Two copies on a, b and c; c goes, so that all is on a and b.
	p := plan.Between(
		&table.Assignment{ReplicationFactor: 2, Slots: []table.Slot{{Node: "a"}, {Node: "b"}, {Node: "c"}}},
		&table.Assignment{ReplicationFactor: 2, Slots: []table.Slot{{Node: "a"}, {Node: "b"}, {}}},
	)
	full := transport.Report{Series: 2000, Bytes: 200_000}
	for _, c := range []struct {
		name    string
		reports map[table.NodeID]transport.Report
		series  float64
		bytes   float64
	}{
		{"all answer", map[table.NodeID]transport.Report{"a": full, "b": full, "c": full}, 2000, 200_000},
		{"one is silent", map[table.NodeID]transport.Report{"a": full, "b": full}, 2000, 200_000},
		{"none answers", nil, 0, 0},
		{"one that owns nothing answers", map[table.NodeID]transport.Report{"d": full}, 0, 0},
	} {
		got := estimate(p, c.reports, 1000)
		near := func(x, want float64) bool { return math.Abs(x-want) <= 0.03*want }
		if !near(got.Share, 1.0/3) || !near(float64(got.Series), c.series) || !near(float64(got.Bytes), c.bytes) {
			t.Errorf("%s: share %g, %d series, %d bytes, want a third, %g and %g", c.name, got.Share, got.Series, got.Bytes, c.series, c.bytes)
		}
		// a and b take half of it each, at the same time; so do they give it.
		if !near(got.Seconds, c.bytes/2/1000) {
			t.Errorf("%s: %g s, want %g", c.name, got.Seconds, c.bytes/2/1000)
		}
		if want := []api.SlotChange{{Slot: 2, Before: api.SlotStatus{Slot: 2, Node: "c"}, After: api.SlotStatus{Slot: 2}}}; !reflect.DeepEqual(got.Slots, want) {
			t.Errorf("%s: slots %+v", c.name, got.Slots)
		}
	}
}

// A third copy of everything is half as much as there is.
func TestEstimateOfAnotherReplicationFactor(t *testing.T) {
	slots := []table.Slot{{Node: "a"}, {Node: "b"}, {Node: "c"}}
	p := plan.Between(&table.Assignment{ReplicationFactor: 2, Slots: slots}, &table.Assignment{ReplicationFactor: 3, Slots: slots})
	full := transport.Report{Series: 2000}
	got := estimate(p, map[table.NodeID]transport.Report{"a": full, "b": full, "c": full}, 1)
	if got.Series < 2990 || got.Series > 3010 {
		t.Errorf("%d series, want 3000", got.Series)
	}
}

func TestWarnings(t *testing.T) {
	settled := tableOf(t, 2, "a", "b", "c")
	for _, c := range []struct {
		name    string
		from    *table.Table
		command table.Command
		dead    table.NodeID
		plan    plan.Plan
		want    []string
	}{
		{"all is well", settled, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"c"}}, "", plan.Plan{}, nil},
		{"a dead node cannot leave", settled, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"c"}}, "c", plan.Plan{}, []string{"c is dead: nothing ends"}},
		{"a dead node is removed", tableOf(t, 3, "a", "b", "c", "d"), table.Command{Kind: table.Remove, Nodes: []table.NodeID{"d"}}, "d", plan.Plan{}, nil},
		{"one that is alive is removed", tableOf(t, 3, "a", "b", "c", "d"), table.Command{Kind: table.Remove, Nodes: []table.NodeID{"d"}}, "", plan.Plan{}, []string{"d is alive and is given up"}},
		{"another one is dead", settled, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"c"}}, "a", plan.Plan{}, []string{"a is dead: nothing ends"}},
		{"too few are left", settled, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"b", "c"}}, "", plan.Plan{}, []string{"too few nodes are left: each series has 1 copies instead of 2"}},
		{"nobody has them", settled, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"c"}}, "", plan.Plan{Moves: []plan.Move{{To: "a", Share: 0.25}}}, []string{"25.0% of all copies"}},
		{"a small zone", settled, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"c"}}, "", plan.Plan{TargetCrowded: 1. / 3}, []string{"33.3% of the series have copies in fewer zones than they could, now 0.0%"}},
		{"a loss is accepted", tableOf(t, 3, "a", "b", "c"), table.Command{Kind: table.Remove, Nodes: []table.NodeID{"b", "c"}, AcceptLoss: true}, "", plan.Plan{}, []string{
			"b is alive", "c is alive", "0.0% of all series have no owner left", "100.0% of all series have owners left, but 2 or more of their 3", "be sure", "too few nodes are left",
		}},
		{"paused", applied(t, settled, table.Command{Kind: table.Pause}), table.Command{Kind: table.Leave, Nodes: []table.NodeID{"c"}}, "", plan.Plan{}, []string{"copying is paused"}},
	} {
		got := warnings(c.command, applied(t, c.from, c.command), false, &c.plan, func(id table.NodeID) (string, cluster.MemberState) {
			if id == c.dead {
				return string(id), cluster.Dead
			}
			return string(id), cluster.Alive
		})
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], c.want[i]) {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
		}
	}
}
