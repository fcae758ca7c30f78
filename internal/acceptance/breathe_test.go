package acceptance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/copies"
	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/faults/overlay"
	"github.com/starling-tsdb/starling/internal/table"
)

// TestComposeTwentyChanges has nodes join and leave twenty times in a row under load, some while
// the change before is being copied, until none of the first three is left. Then every copy is
// where the table says and nowhere else, and about as much was copied as had to be.
func TestComposeTwentyChanges(t *testing.T) {
	requireLong(t)
	testBreathing(t, 20)
}

// TestComposeFourChanges is the same in short: one of the first three is replaced.
func TestComposeFourChanges(t *testing.T) {
	testBreathing(t, 4)
}

func testBreathing(t *testing.T, changes int) {
	requireContainers(t)
	c := &breathing{changing: newChanging(t, "512KiB", buildStarlingImage(t, hasty()...), nil), copied: map[string]traffic{}}
	c.operator.begin("three nodes", settledLine)
	pause(t, 4*time.Second)
	for i, together := range breaths(changes) {
		c.breathe(t, i, together)
	}
	members := c.used()
	c.end(t, len(members))
	c.judgeTraffic(t)
	c.mustBeInPlace(t, members)
	c.report(t)
}

// hasty are changes of the program that show in minutes what takes hours: what has moved away
// is deleted at once, samples of the next day are taken, and no node gives a MiB at once. Owners
// that are late are waited for: five nodes on a machine with few CPUs would have gaps all the time.
func hasty() []overlay.Change {
	return []overlay.Change{
		{File: "internal/node/pruning.go", Old: "pruneGrace = 10 * time.Minute", New: "pruneGrace = 2 * time.Second"},
		{File: "internal/node/pruning.go", Old: "pruneLook  = time.Minute", New: "pruneLook  = time.Second"},
		{File: "internal/node/pruning.go", Old: "pruneAgain = 30 * time.Minute", New: "pruneAgain = 2 * time.Second"},
		{File: "internal/storage/options.go", Old: "defaultMaxFuture     = 10 * time.Minute", New: "defaultMaxFuture     = 24 * time.Hour"},
		{File: "internal/node/node.go", Old: "writeGrace = 50 * time.Millisecond", New: "writeGrace = time.Second"},
		{File: "internal/handoff/handoff.go", Old: "burst = 1 << 20", New: "burst = 64 << 10"},
	}
}

// change is a join or a leave.
type change struct {
	service string
	joins   bool
}

func (c change) String() string {
	if c.joins {
		return "+" + c.service
	}
	return "-" + c.service
}

// breaths returns n changes of the first three of five nodes: two join, two leave, and so on;
// one joins at the end. Who has been there for longest leaves, and who has left may join again,
// with an empty disk. Those in one group come one after the other before the first has ended.
func breaths(n int) [][]change {
	members, free := slices.Clone(nodes), []string{"starling-4", "starling-5"}
	var groups [][]change
	for i := range n {
		var c change
		if c.joins = i%4 < 2 || i == n-1; c.joins {
			c.service, free = free[0], free[1:]
			members = append(members, c.service)
		} else {
			c.service, members = members[0], members[1:]
			free = append(free, c.service)
		}
		// The last one needs the place of the one that leaves before it.
		if meanwhile := i%3 == 1 || i == n-2; meanwhile && i < n-1 {
			groups[len(groups)-1] = append(groups[len(groups)-1], c)
		} else {
			groups = append(groups, []change{c})
		}
	}
	return groups
}

// breathing is a cluster that grows and shrinks in turn.
type breathing struct {
	*changing
	// copied is what nodes did so far, by container.
	copied map[string]traffic
	// made and least are what all groups of changes had to copy, by their placement and by
	// any, in samples. begun is the latter for each change by itself: one that replaces a
	// target has the copying begin anew, with the window that was under way.
	made, least, begun int
	// late counts changes that came when what they were to meet had ended.
	meant, late int
}

// traffic is what a node stored of what it was to own and lacked, and sent to others that were
// to own it; and the same of what was missed, in samples.
type traffic struct{ stored, sent, taken, given float64 }

// breathe makes changes, each while the one before is being copied, and waits for their end.
func (c *breathing) breathe(t *testing.T, number int, together []change) {
	t.Helper()
	c.operator.begin(fmt.Sprintf("%d: %v", number+1, together))
	leaves := func(m *member) bool { return slices.Contains(together, change{service: m.service}) }
	stays := slices.DeleteFunc(c.used(), leaves)
	asked := stays[len(stays)-1]
	before := c.state(t, asked)
	var sizes map[ledger.Series]int
	for i, ch := range together {
		if i > 0 {
			c.awaitCopying(t, asked)
			c.order(t, asked, "pause") // after a window of time, so that the next one is not late
		}
		sizes = c.load.Ledger.Sizes()
		if ch.joins {
			c.up(t, ch.service)
			joiner := c.find(t, ch.service)
			joiner.used.Store(true)
			stays = append(stays, joiner)
		} else {
			c.operate(t, asked.service, "leave", "--yes", before.find(ch.service, "alive"))
		}
		target := c.awaitTarget(t, asked, before, ch, i > 0)
		_, least := copies.Moved(&before.Assignment, &target, sizes)
		c.begun += least
		if i > 0 {
			c.order(t, asked, "resume")
		}
	}
	for _, m := range stays {
		awaitSettled(t, 2*stepTimeout, m.service, m.Base(), len(stays))
		m.asked.Store(true)
	}
	after := c.state(t, asked)
	made, least := copies.Moved(&before.Assignment, &after.Assignment, sizes)
	c.made, c.least = c.made+made, c.least+least
	t.Logf("%v: %d samples had to be copied by the placement, %d by any; so far %d and %d, and %+v",
		together, made, least, c.made, c.least, c.traffic(t))
	for _, ch := range together {
		if !ch.joins {
			c.retire(t, ch.service)
			c.mustNotHaveCrashed(t, c.member(ch.service))
			c.destroy(t, ch.service)
		}
	}
}

func (c *breathing) state(t *testing.T, m *member) clusterState {
	t.Helper()
	s, err := readCluster(t.Context(), m.Base())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// order has the cluster agree on something at once.
func (c *breathing) order(t *testing.T, asked *member, op string) {
	t.Helper()
	eventually(t, time.Minute, op, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, asked.Base()+"/api/v1/cluster/"+op, strings.NewReader("{}"))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %d: %w: %.200s", op, resp.StatusCode, err, body)
		}
		return nil
	})
}

// awaitCopying waits until somebody copies.
func (c *breathing) awaitCopying(t *testing.T, asked *member) {
	t.Helper()
	eventually(t, stepTimeout, "somebody copies", func(ctx context.Context) error {
		s, err := readCluster(ctx, asked.Base())
		if err != nil {
			return err
		}
		if s.Transition == nil || s.Transition.Phase != table.Copying {
			return fmt.Errorf("nothing is copied: %+v", s)
		}
		for _, progress := range s.Transition.Copying {
			if progress.Started != nil && !progress.Ready {
				return nil
			}
		}
		return fmt.Errorf("nobody copies: %+v", s)
	})
}

// awaitTarget waits until a change is agreed on: it is part of the target, which is returned, or
// done. One that is meant to replace a target is late if it does not lead away from the same assignment.
func (c *breathing) awaitTarget(t *testing.T, asked *member, before clusterState, ch change, meanwhile bool) (target table.Assignment) {
	t.Helper()
	var s clusterState
	eventually(t, stepTimeout, ch.String()+" is agreed on", func(ctx context.Context) (err error) {
		if s, err = readCluster(ctx, asked.Base()); err != nil {
			return err
		}
		target = s.Assignment
		if s.Transition != nil {
			target = s.Transition.Assignment
		}
		id := s.find(ch.service, "alive")
		if _, owns := target.SlotOf(table.NodeID(id)); id == "" || owns != ch.joins && s.Waiting == 0 {
			return fmt.Errorf("%s has the ID %q in %+v", ch.service, id, s)
		}
		return nil
	})
	if meanwhile {
		c.meant++
		if s.Transition == nil || s.Transition.Phase != table.Copying || !slices.Equal(s.Slots, before.Slots) {
			c.late++
			t.Logf("%v came when the copying had ended: %+v", ch, s)
		}
	}
	return target
}

// traffic is what all nodes did so far.
func (c *breathing) traffic(t *testing.T) (sum traffic) {
	t.Helper()
	for _, m := range c.used() {
		var of traffic
		for _, figure := range []struct {
			to           *float64
			name, reason string
		}{
			{&of.stored, "starling_transition_copied_samples_total", ""},
			{&of.sent, "starling_handoff_given_samples_total", `reason="copy"`},
			{&of.taken, "starling_handoff_taken_samples_total", ""},
			{&of.given, "starling_handoff_given_samples_total", `reason="gap"`},
		} {
			var err error
			if *figure.to, err = c.client.Metric(t.Context(), m.Base(), figure.name, figure.reason); err != nil {
				t.Fatalf("%s: %v", m.service, err)
			}
		}
		c.copied[m.at.Load().container] = of
	}
	for _, of := range c.copied {
		sum.stored += of.stored
		sum.sent += of.sent
		sum.taken += of.taken
		sum.given += of.given
	}
	return sum
}

// judgeTraffic compares what was copied with what had to be.
func (c *breathing) judgeTraffic(t *testing.T) {
	t.Helper()
	const most = 1.2
	all, least, begun := c.traffic(t), float64(c.least), float64(c.begun)
	t.Logf("%d samples had to be copied, %d by the placement (%.2f times as many); %.0f were stored (%.2f)",
		c.least, c.made, float64(c.made)/least, all.stored, all.stored/least)
	t.Logf("%.0f samples were sent (%.2f), while %d were to be, those counted again whose target was replaced (%.2f)",
		all.sent, all.sent/least, c.begun, all.sent/begun)
	t.Logf("for gaps %.0f more were sent, %.0f of them were lacking", all.given, all.taken)
	t.Logf("%d of %d changes that were to replace a target came late", c.late, c.meant)
	if float64(c.made) > most*least || all.stored > most*least || all.sent > most*begun {
		t.Errorf("more than %g times of what had to be was copied", most)
	}
	if c.late*2 > c.meant {
		t.Errorf("%d of %d changes did not come while another one was copied", c.late, c.meant)
	}
}

// mustBeInPlace checks that every member has on its disk what it owns and nothing else. What
// is in memory is not deleted, so that first all of it has to go to blocks.
func (c *breathing) mustBeInPlace(t *testing.T, members []*member) {
	t.Helper()
	now := time.Now().UnixMilli()
	if err := c.load.WriteAhead(t.Context(), 10*time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		eventually(t, 4*time.Minute, m.service+" has deleted what it does not own", func(ctx context.Context) error {
			oldest, err1 := c.client.Metric(ctx, m.Base(), "prometheus_tsdb_head_min_time")
			left, err2 := c.client.Metric(ctx, m.Base(), "starling_storage_prune_head_series")
			err := errors.Join(err1, err2)
			if err == nil && (oldest < float64(now) || left > 0) {
				err = fmt.Errorf("memory begins at %.0f, now is %d, and has %.0f series that are not owned", oldest, now, left)
			}
			return err
		})
	}
	pause(t, 10*time.Second) // what was in memory, from blocks
	c.settle(t, len(members))
	for _, m := range members {
		if deleted, err := c.client.Metric(t.Context(), m.Base(), "starling_storage_pruned_series_total"); err != nil {
			t.Error(err)
		} else {
			t.Logf("%s has deleted %.0f series from blocks", m.service, deleted)
		}
	}
	dirs, found := map[string]string{}, map[string]ledger.Answer{}
	for _, m := range members {
		c.docker(t, m.service, "kill")
	}
	for _, m := range members {
		dirs[m.service] = filepath.Join(t.TempDir(), "data")
		mustRun(t, command{args: []string{"docker", "cp", c.container(t, m.service) + ":/data", dirs[m.service]}})
		answer, err := copies.Read(dirs[m.service])
		if err != nil {
			t.Fatalf("reading the disk of %s: %v", m.service, err)
		}
		found[m.service] = answer
	}
	owners, err := copies.Owners(dirs)
	if err != nil {
		t.Fatal(err)
	}
	c.load.Ledger.CheckCopies(found, owners, 2, 3)
	c.load.Ledger.CheckStrays(found, owners)
}

// The changes are texts of other packages: whoever changes those learns it here.
func TestHastyApplies(t *testing.T) {
	if _, err := overlay.Write(t.TempDir(), overlay.Place{Repository: repository}, hasty()); err != nil {
		t.Error(err)
	}
}

// All that leave were there, all that join were not and are not leaving, and at the end of
// twenty none of the first is left.
func TestBreaths(t *testing.T) {
	for _, n := range []int{4, 20} {
		members, first, count := slices.Clone(nodes), slices.Clone(nodes), 0
		for _, together := range breaths(n) {
			leaving := 0
			for _, c := range together {
				count++
				switch i := slices.Index(members, c.service); {
				case c.joins == (i >= 0):
					t.Errorf("%d changes: %v of %v", n, c, members)
				case c.joins:
					members = append(members, c.service)
				default:
					members, leaving = slices.Delete(members, i, i+1), leaving+1
					first = slices.DeleteFunc(first, func(s string) bool { return s == c.service })
				}
				if len(members) < 3 || len(members)+leaving > 5 {
					t.Errorf("%d changes: %v makes it %v", n, c, members)
				}
			}
		}
		if count != n || len(members) != 5 || n == 20 && len(first) > 0 {
			t.Errorf("%d changes: %d make it %v, %v never left", n, count, members, first)
		}
	}
}
