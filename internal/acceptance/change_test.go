package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/table"
)

// stepTimeout bounds how long one change of the cluster may take.
const stepTimeout = 2 * time.Minute

// TestComposeClusterChanges grows the cluster of docker-compose.yml to five nodes under load,
// has two of the first three leave, and destroys the disk of the last of the first three. All
// the time nothing is lost, twice or invented, and `starling cluster status` says what happens.
// Everything is encrypted, and the front door asks for a password.
func TestComposeClusterChanges(t *testing.T) {
	requireContainers(t)
	c := newChanging(t, slowly, buildStarlingImage(t), newSecrets(t))
	c.mustBeHealthy(t)
	c.mustBeShut(t)
	c.replaceKey(t)
	c.operator.begin("three nodes", settledLine)
	pause(t, 4*time.Second)
	c.operator.begin("grow to five", `alive, joining`, halfway)
	c.grow(t)
	c.settle(t, 5)
	c.admit(t, "starling-4", "starling-5")
	c.operator.begin("shrink to three", `alive, leaving`, halfway)
	c.shrink(t)
	c.operator.begin("lose a disk", `(?m)^starling-3\S* .* dead`, gapOf3)
	c.loseDisk(t)
	c.operator.begin("replace it", `(?m)^starling-3\S* .* alive, joining`, halfway)
	c.replace(t)
	c.finish(t, 3)
}

// TestComposeJoinAcrossPartition has two nodes join three, cuts one of the three off before
// anything is copied, and lets the others copy. The join waits for it until it is there again.
func TestComposeJoinAcrossPartition(t *testing.T) {
	requireContainers(t)
	c := newChanging(t, slowly, buildStarlingImage(t), nil)
	c.operator.begin("join, paused", `alive, joining`, `(?m)^Paused: nothing is copied`)
	c.operate(t, "starling-1", "pause")
	c.grow(t)
	c.awaitTransition(t, "both join", func(s clusterState) bool {
		return s.joins(s.find("starling-4", "alive")) && s.joins(s.find("starling-5", "alive"))
	})
	c.operator.awaitSeen(t)
	c.operator.begin("cut one off", `(?m)^starling-3\S* .* dead`, gapOf3)
	c.cut(t, "starling-3")
	c.operator.awaitSeen(t)
	c.operator.begin("copy meanwhile", halfway, `(?m)^Waiting for starling-3 \(it is dead\)$`)
	c.operate(t, "starling-1", "resume")
	c.awaitTransition(t, "only starling-3 is waited for", func(s clusterState) bool {
		return slices.Equal(s.Transition.Awaited, []string{s.find("starling-3", "dead")})
	})
	c.operator.awaitSeen(t)
	c.operator.begin("mend", `alive, joining`)
	c.mend(t, "starling-3")
	c.settle(t, 5)
	c.admit(t, "starling-4", "starling-5")
	c.finish(t, 5)
}

// gapOf3 matches a status that says that samples are noted for starling-3, and for how long.
const gapOf3 = `(?m)^Gap: starling-3\S* lacks samples since .*, noted \d+s ago`

// halfway matches a status in which somebody copies and is not done.
const halfway = `(?m)^Transition: copying since (.*\n)*  \S+ +\[=*> *\] +\d+% `

// changing is a Compose cluster whose members change, under load and an operator's eyes.
type changing struct {
	*project
	members  []*member
	client   *load.Client
	load     *load.Load
	usage    *load.Usage
	operator *operator
}

// member is a service whose container a node runs in, or is to run in later.
type member struct {
	service string
	at      atomic.Pointer[address]
	// used tells that the load talks to it, asked that an operator does.
	used, asked atomic.Bool
}

// address is where a member is found until its container is another one.
type address struct{ container, base string }

// Base implements load.Node.
func (m *member) Base() string { return m.at.Load().base }

// Member implements load.Node.
func (m *member) Member() bool { return m.used.Load() }

// slowly is a rate of copying at which one can watch it.
const slowly = "128KiB"

// newChanging starts the first three nodes, which copy at a rate, the load and the operator. All
// of it ends with the test. With secrets everything is encrypted.
func newChanging(t *testing.T, rate, image string, s *secrets) *changing {
	t.Helper()
	env := []string{"STARLING_IMAGE=" + image}
	c := &changing{}
	var places []load.Node
	for i := range 5 {
		env = append(env, fmt.Sprintf("STARLING_%d_PORT=0", i+1))
		m := &member{service: fmt.Sprintf("starling-%d", i+1)}
		c.members, places = append(c.members, m), append(places, m)
	}
	env = append(env, "ACCEPTANCE_TRANSFER_RATE="+rate)
	overlays := []string{filepath.Join(repository, "docs/compose/five.yml"), "testdata/compose.slow.yml"}
	if s != nil {
		overlays = append(overlays, s.overlays()...)
		env = append(env, "STARLING_SECRETS="+s.dir)
	}
	c.project = newProject(t, overlays, env...)
	c.secrets = s
	c.up(t, nodes...)
	awaitCluster(t, c.project)
	c.admit(t, nodes...)
	c.client = load.NewClient(s.papers())
	c.load = load.New(c.client, places, len(nodes))
	if err := c.load.WriteHistory(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.usage = c.load.Use(t.Context())
	t.Cleanup(c.usage.Abandon)
	c.operator = watch(t.Context(), c.members)
	t.Cleanup(c.operator.stop)
	return c
}

// finish ends the load, reads everything back from n members, and judges all that was seen.
func (c *changing) finish(t *testing.T, n int) {
	t.Helper()
	c.end(t, n)
	c.report(t)
}

// end ends the load and the operator, and reads everything back from n members.
func (c *changing) end(t *testing.T, n int) {
	t.Helper()
	c.operator.begin("whole again", settledLine)
	pause(t, 3*time.Second)
	if err := c.usage.Finish(); err != nil {
		t.Error(err)
	}
	writes, reads := c.load.Down()
	c.settle(t, n)
	c.operator.stop()
	c.operator.judge(t)
	if err := c.load.ReadAll(t.Context()); err != nil {
		t.Error(err)
	}
	c.mustNotHaveCrashed(t, c.members...)
	t.Logf("no write succeeded anywhere for %s at the longest, no query for %s", writes.Anywhere.Round(time.Millisecond), reads.Anywhere.Round(time.Millisecond))
}

// report judges what the load was answered.
func (c *changing) report(t *testing.T) {
	t.Helper()
	counts, found := c.load.Ledger.Counts(), c.load.Ledger.Found
	t.Logf("%d samples sent, %d acknowledged, %d refused, %d lost, %d twice, %d invented", counts.Sent, counts.Acknowledged,
		counts.Refused, found(ledger.Lost), found(ledger.Duplicated), found(ledger.Invented))
	for _, failure := range c.load.Failures(false) {
		t.Error(failure)
	}
}

func (c *changing) member(service string) *member {
	i := slices.IndexFunc(c.members, func(m *member) bool { return m.service == service })
	return c.members[i]
}

// used are the members that the load uses.
func (c *changing) used() []*member {
	return slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return !m.Member() })
}

// find notes where the container of a service is.
func (c *changing) find(t *testing.T, service string) *member {
	t.Helper()
	m := c.member(service)
	m.at.Store(&address{container: c.container(t, service), base: c.url(t, service, 9080)})
	return m
}

// admit has the load and the operator use nodes that are members.
func (c *changing) admit(t *testing.T, services ...string) {
	t.Helper()
	for _, service := range services {
		m := c.find(t, service)
		m.used.Store(true)
		m.asked.Store(true)
	}
}

// operate runs `starling cluster` where a node runs, as an operator does.
func (c *changing) operate(t *testing.T, service string, args ...string) {
	t.Helper()
	mustRun(t, command{args: append([]string{"docker", "exec", c.container(t, service), "/bin/starling", "cluster"}, args...)})
}

// settle waits until all that are used are a whole cluster of n members.
func (c *changing) settle(t *testing.T, n int) {
	t.Helper()
	for _, m := range c.used() {
		awaitSettled(t, stepTimeout, m.service, m.Base(), n)
	}
}

// grow starts two more nodes, which join by themselves. The operator does not ask them before
// they are admitted: at first they belong to no cluster.
func (c *changing) grow(t *testing.T) {
	t.Helper()
	c.up(t, "starling-4", "starling-5")
	for _, service := range []string{"starling-4", "starling-5"} {
		c.find(t, service).used.Store(true)
	}
}

func (c *changing) shrink(t *testing.T) {
	t.Helper()
	leaving := []string{"starling-1", "starling-2"}
	c.operate(t, "starling-5", append([]string{"leave", "--yes", "--wait"}, leaving...)...)
	for _, service := range leaving {
		c.retire(t, service)
	}
	c.settle(t, 3)
}

// retire stops a node that has left.
func (c *changing) retire(t *testing.T, service string) {
	t.Helper()
	m := c.member(service)
	m.used.Store(false)
	m.asked.Store(false)
	c.docker(t, service, "stop")
	if code := c.docker(t, service, "inspect", "--format", "{{.State.ExitCode}}"); code != "0" {
		t.Errorf("%s exited with %s after it had left", service, code)
	}
}

// loseDisk ends starling-3 at once, with all it has, and waits until it is missed.
func (c *changing) loseDisk(t *testing.T) {
	t.Helper()
	c.member("starling-3").asked.Store(false)
	c.destroy(t, "starling-3")
	c.miss(t, "starling-3")
	c.operator.awaitSeen(t)
}

// destroy takes away a container and its volume.
func (c *changing) destroy(t *testing.T, service string) {
	t.Helper()
	c.docker(t, service, "rm", "--force")
	mustRun(t, command{args: []string{"docker", "volume", "rm", c.name + "_" + service}})
}

// awaitTransition waits until a transition is under way that is as it should be.
func (c *changing) awaitTransition(t *testing.T, what string, as func(clusterState) bool) {
	t.Helper()
	eventually(t, stepTimeout, what, func(ctx context.Context) error {
		s, err := readCluster(ctx, c.member("starling-1").Base())
		if err == nil && (s.Transition == nil || !as(s)) {
			err = fmt.Errorf("transition %+v of %+v", s.Transition, s)
		}
		return err
	})
}

// miss waits until others know that a node is dead, and what it misses.
func (c *changing) miss(t *testing.T, service string) {
	t.Helper()
	other := c.members[slices.IndexFunc(c.members, func(m *member) bool { return m.asked.Load() })].Base()
	eventually(t, time.Minute, service+" is missed", func(ctx context.Context) error {
		s, err := readCluster(ctx, other)
		if err == nil && (s.find(service, "dead") == "" || len(s.Gaps) == 0) {
			err = fmt.Errorf("%s is not dead yet, or nothing is noted: %+v", service, s)
		}
		return err
	})
	pause(t, 2*time.Second)
}

// cut takes a node off the network, and its published port with it. No container may start
// before it is mended: the engine would give it the address, and the node another one then.
func (c *changing) cut(t *testing.T, service string) {
	t.Helper()
	c.member(service).asked.Store(false)
	mustRun(t, command{args: []string{"docker", "network", "disconnect", c.name + "_starling", c.container(t, service)}})
	c.miss(t, service)
}

func (c *changing) mend(t *testing.T, service string) {
	t.Helper()
	mustRun(t, command{args: []string{"docker", "network", "connect", "--alias", service, c.name + "_starling", c.container(t, service)}})
	c.admit(t, service)
}

// replace starts a fresh starling-3 and gives it the slot of the one that was lost.
func (c *changing) replace(t *testing.T) {
	t.Helper()
	c.up(t, "starling-3")
	c.find(t, "starling-3")
	var lost, fresh string
	eventually(t, time.Minute, "a fresh starling-3 joins", func(ctx context.Context) error {
		s, err := readCluster(ctx, c.member("starling-4").Base())
		if err != nil {
			return err
		}
		if lost, fresh = s.find("starling-3", "dead"), s.find("starling-3", "alive"); lost == "" || !s.joins(fresh) {
			return fmt.Errorf("want a dead starling-3, and a living one that joins: %+v", s)
		}
		return nil
	})
	c.operate(t, "starling-4", "replace", lost, fresh, "--yes", "--wait")
	c.settle(t, 3)
	c.admit(t, "starling-3")
}

// mustNotHaveCrashed checks that the engine has started no node again.
func (c *changing) mustNotHaveCrashed(t *testing.T, members ...*member) {
	t.Helper()
	for _, m := range members {
		if n := c.docker(t, m.service, "inspect", "--format", "{{.RestartCount}}"); n != "0" {
			t.Errorf("%s was restarted %s times", m.service, n)
		}
	}
}

// clusterState is the part of /api/v1/cluster that tells when a change is over.
type clusterState struct {
	Epoch uint64
	// Assignment is the present one.
	table.Assignment
	Transition *struct {
		Phase table.Phase
		table.Assignment
		Awaited []string
		Copying []struct {
			Ready   bool
			Started *time.Time
		}
	}
	Waiting int
	Nodes   []struct {
		ID, Name, State string
		Slot            *int
		Epoch           uint64
	}
	Gaps []any
}

// find returns the ID of a node by its name and state, empty if there is none.
func (s clusterState) find(name, state string) string {
	for _, n := range s.Nodes {
		if n.Name == name && n.State == state {
			return n.ID
		}
	}
	return ""
}

// joins tells whether a node is to own copies when the transition has ended.
func (s clusterState) joins(id string) bool {
	return id != "" && s.Transition != nil && slices.ContainsFunc(s.Transition.Slots, func(slot table.Slot) bool { return string(slot.Node) == id })
}

func readCluster(ctx context.Context, base string) (clusterState, error) {
	var answer struct{ Data clusterState }
	status, body, err := fetch(ctx, base+"/api/v1/cluster")
	if err != nil {
		return answer.Data, err
	}
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK {
		return answer.Data, fmt.Errorf("%s/api/v1/cluster: %d, %w: %.300s", base, status, err, body)
	}
	return answer.Data, nil
}

// awaitSettled waits until a node is one of n members and misses nothing.
func awaitSettled(t *testing.T, within time.Duration, node, base string, n int) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("%s is one of %d and misses nothing", node, n), settled(base, n))
}

// settled is a check for eventually: the server is ready and knows n members, alive and at
// its epoch, nothing moves, and nobody misses anything.
func settled(base string, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := ready(base)(ctx); err != nil {
			return err
		}
		s, err := readCluster(ctx, base)
		if err != nil {
			return err
		}
		whole, owners := 0, 0
		for _, node := range s.Nodes {
			if node.Slot != nil {
				owners++
				if node.State == "alive" && node.Epoch == s.Epoch {
					whole++
				}
			}
		}
		if whole != n || owners != n || s.Transition != nil || s.Waiting > 0 || len(s.Gaps) > 0 {
			return fmt.Errorf("%s: want %d members at one epoch, no transition and no gap: %s", base, n, strings.TrimSpace(fmt.Sprintf("%+v", s)))
		}
		return nil
	}
}
