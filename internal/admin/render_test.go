package admin

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
)

var update = flag.Bool("update", false, "write the golden files")

// now is the time of all states.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time {
	t := now.Add(-d)
	return &t
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s, want %s:\n%s", name, path, got)
	}
}

// settled is a cluster of three where nothing happens.
func settled() *api.ClusterStatus {
	s := &api.ClusterStatus{ClusterID: "01M7YSNEEREZN61J7C0WFMQR6Q", Self: "01M7YSNEEPJJ8Z3YB1GRAW1GHW", Epoch: 12, ReplicationFactor: 3, WriteQuorum: 2}
	for i, id := range []string{"01M7YSNEEPJJ8Z3YB1GRAW1GHW", "01M7YSNEGDWT5S02QRBCDSJW4Z", "01M80ABCDEWT5S02QRBCDSJW4Z"} {
		s.Slots = append(s.Slots, api.SlotStatus{Slot: i, Node: id})
		s.Nodes = append(s.Nodes, api.NodeStatus{
			ID: id, Name: "node-" + string(rune('1'+i)), Zone: "z", State: "alive", Epoch: 12, Slot: &i,
			Holds: &api.HoldingStatus{Series: 120_400, Bytes: 3_355_443_200}, Share: &api.ShareStatus{Current: 1.0 / 3, Target: 1.0 / 3},
		})
	}
	return s
}

// moving has node-4 take the slot of node-2, which is dead and given up.
func moving() *api.ClusterStatus {
	s := settled()
	s.Slots[1].Removed = true
	s.Nodes[1].State, s.Nodes[1].Holds, s.Nodes[1].Epoch, s.Nodes[1].Share.Target = "dead", nil, 9, 0
	s.Nodes[2].Epoch = 11
	s.Nodes = append(s.Nodes, api.NodeStatus{ID: "01M8ZZZZZZWT5S02QRBCDSJW4Z", Name: "node-2", State: "alive", Epoch: 12, Share: &api.ShareStatus{Target: 1.0 / 3}})
	s.Transition = &api.TransitionStatus{
		Phase: "copying", Began: 12, Since: ago(192 * time.Second), ReplicationFactor: 3,
		Slots:   []api.SlotStatus{{Node: s.Nodes[0].ID, Zone: "y"}, {Slot: 1, Node: s.Nodes[3].ID}, {Slot: 2, Node: s.Nodes[2].ID, Zone: "z"}},
		Awaited: []string{s.Nodes[2].ID, s.Nodes[3].ID},
		Copying: []api.CopyStatus{
			{Node: s.Nodes[0].ID, Ready: true, Done: 1, Started: ago(time.Minute)},
			{Node: s.Nodes[3].ID, Done: 0.456, Samples: 1_200_000, SamplesLeft: 1_430_000, SamplesPerSecond: 41_000, SecondsLeft: 36, Started: ago(time.Minute),
				Bytes: 1_700_000, BytesLeft: 2_030_000, BytesPerSecond: 58_000, Until: ago(30 * time.Hour)},
			{Node: s.Nodes[2].ID, Silent: true},
		},
	}
	s.Waiting = 1
	s.Nodes[0].Gaps = []api.GapStatus{{Peer: s.Nodes[2].ID, Since: "2026-03-01T11:48:00Z", Opened: now.Add(-12 * time.Minute), HandingOff: true, SamplesLeft: 4000, BytesLeft: 6144}}
	s.Nodes[3].Gaps = []api.GapStatus{{Peer: s.Nodes[1].ID, Opened: now.Add(-3 * time.Minute), SamplesLeft: 10, BytesLeft: 20}}
	s.Damage = []api.DamageStatus{{Kind: "block", Name: "01M7", Detail: "bad checksum", Found: now.Add(-time.Hour), Suspect: true}}
	return s
}

func TestStatusIsReadable(t *testing.T) {
	paused := moving()
	paused.Paused, paused.Transition.Since = true, nil
	switching := settled()
	switching.Transition = &api.TransitionStatus{Phase: "switching", Began: 12, Since: ago(2 * time.Second), Slots: switching.Slots[:2], Awaited: []string{switching.Nodes[1].ID}}
	switching.Nodes[1].Epoch, switching.Crowded = 11, 1.0/3
	fresh := &api.ClusterStatus{Self: "01M7YSNEEPJJ8Z3YB1GRAW1GHW", Nodes: []api.NodeStatus{{ID: "01M7YSNEEPJJ8Z3YB1GRAW1GHW", Name: "node-1", State: "alive"}}}
	for name, s := range map[string]*api.ClusterStatus{"settled": settled(), "copying": moving(), "paused": paused, "switching": switching, "fresh": fresh} {
		golden(t, "status-"+name, Status(s, now))
	}
}

func TestSummary(t *testing.T) {
	paused := moving()
	paused.Paused = true
	for want, s := range map[string]*api.ClusterStatus{
		"epoch 12: no transition": settled(),
		"epoch 12: copying, 0%, about 36s left, waiting for node-3, node-2/01M8ZZZZ": moving(),
		"epoch 12: copying, 0%, paused, waiting for node-3, node-2/01M8ZZZZ":         paused,
	} {
		if got := Summary(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPlanIsReadable(t *testing.T) {
	nodes := []api.NodePlan{{ID: "01M7YSNEEPJJ8Z3YB1GRAW1GHW", Name: "node-1", Before: 0.5, After: 0.5}, {ID: "01M7YSNEGDWT5S02QRBCDSJW4Z", Name: "node-2", Before: 0.5}, {ID: "01M80ABCDEWT5S02QRBCDSJW4Z", After: 0.5}}
	golden(t, "plan", Plan(&api.ClusterPlan{
		Epoch: 7, Nodes: nodes, Share: 0.5, Optimum: 0.499, Series: 60_000, Bytes: 1 << 30, Seconds: 16, BytesPerSecond: 64 << 20,
		Slots:    []api.SlotChange{{Slot: 1, Before: api.SlotStatus{Slot: 1, Node: nodes[1].ID, Removed: true}, After: api.SlotStatus{Slot: 1, Node: nodes[2].ID}}, {Slot: 2, Before: api.SlotStatus{Slot: 2, Node: nodes[2].ID}, After: api.SlotStatus{Slot: 2}}, {Before: api.SlotStatus{Node: nodes[0].ID}, After: api.SlotStatus{Node: nodes[0].ID, Zone: "y"}}},
		Moves:    []api.MovePlan{{From: nodes[0].ID, To: nodes[2].ID, Share: 0.25, Series: 60_000, Bytes: 1 << 30}, {To: nodes[2].ID, Share: 0.25}},
		Warnings: []string{"25.0% of all copies have no owner left"},
	}))
	if got := Plan(&api.ClusterPlan{Nodes: nodes}); !strings.Contains(got, "Nothing is copied") {
		t.Errorf("a plan without moves: %s", got)
	}
}

func TestBar(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{bar(0), "[>                       ]"}, {bar(0.5), "[============>           ]"}, {bar(0.9999), "[=======================>]"}, {bar(1), "[========================]"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
