package node

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/storage"
)

func TestOneNodeWorksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		a := f.start("a", ip(1), nil)
		f.ready(a)
		if code := a.write("m", 1, 2); code != http.StatusNoContent {
			t.Fatalf("write: %d", code)
		}
		if got := a.query("m"); got.code != http.StatusOK || got.values["0"] != "1" || got.values["1"] != "2" {
			t.Errorf("query: %+v", got)
		}
	})
}

func TestEveryNodeTakesWritesAndAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		members := f.fresh("a", "b", "c")
		for i, m := range members {
			if code := m.write(fmt.Sprintf("m%d", i), 1, 2, 3); code != http.StatusNoContent {
				t.Fatalf("write through %s: %d", m.name, code)
			}
			for _, reader := range members {
				if got := reader.query(fmt.Sprintf("sum(m%d)", i)); got.values[""] != "6" {
					t.Errorf("%s wrote, %s answers %+v", m.name, reader.name, got)
				}
			}
		}
	})
}

func TestOneOfThreeDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		if code := m[0].write("before", 1); code != http.StatusNoContent {
			t.Fatal(code)
		}
		m[2].crash()
		if code := m[1].write("after", 2); code != http.StatusNoContent {
			t.Errorf("write with one node down: %d", code)
		}
		for _, reader := range m[:2] {
			if got := reader.query("sum(before) + sum(after)"); got.values[""] != "3" || len(got.warnings) > 0 {
				t.Errorf("%s answers %+v", reader.name, got)
			}
		}

		m[1].crash()
		if code := m[0].write("lonely", 1); code != http.StatusServiceUnavailable {
			t.Errorf("write with two nodes down: %d, want 503", code)
		}
		if got := m[0].query("sum(before)"); got.code != http.StatusServiceUnavailable {
			t.Errorf("query with two nodes down: %+v, want 503", got)
		}
		if got := m[0].query("sum(before)", "partial_response", "true"); got.values[""] != "1" || len(got.warnings) == 0 {
			t.Errorf("partial query with two nodes down: %+v, want an answer with a warning", got)
		}
		f.eventually(time.Minute, "not ready", func() error {
			if m[0].ready() == nil {
				return errors.New("ready although neither writes nor queries can succeed")
			}
			return nil
		})

		back := f.start("b", ip(2), func(c *config.Cluster) { c.Join = seeds(3) })
		f.ready(m[0], back)
		for _, reader := range []*member{m[0], back} {
			// Others dial a node that was down every half second.
			f.eventually(time.Second, "answers after the restart", func() error {
				if got := reader.query("sum(before) + sum(after)"); got.values[""] != "3" {
					return fmt.Errorf("%s answers %+v", reader.name, got)
				}
				return nil
			})
		}
	})
}

// A node that is cut off without a word must not cost more than the grace.
func TestSilentNodeCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("m", 1)
		f.net.Partition([]string{ip(1), ip(2)}, []string{ip(3)})
		start := time.Now()
		if code := m[0].write("m", 2); code != http.StatusNoContent || time.Since(start) > time.Second {
			t.Errorf("write: %d after %s", code, time.Since(start))
		}
		start = time.Now()
		if got := m[1].query("m"); got.values["0"] != "2" || time.Since(start) > time.Second {
			t.Errorf("query: %+v after %s", got, time.Since(start))
		}
	})
}

// A cluster that grows after it took writes stays complete, node by node.
func TestJoinAfterWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		members := []*member{f.start("a", ip(1), nil)}
		f.ready(members...)
		for i := range 5 {
			metric := fmt.Sprintf("m%d", i)
			if code := members[0].write(metric, 1, 2, 3); code != http.StatusNoContent {
				t.Fatalf("write to %d nodes: %d", len(members), code)
			}
			next := f.start(fmt.Sprintf("n%d", i), ip(i+2), func(c *config.Cluster) { c.Join = seeds(1) })
			members = append(members, next)
			f.ready(members...)
			f.settled(i + 2)
			for _, m := range members {
				for j := range i + 1 {
					if got := m.query(fmt.Sprintf("sum(m%d)", j)); got.values[""] != "6" {
						t.Fatalf("%d nodes: %s answers %+v for what was written to %d nodes", len(members), m.name, got, j+1)
					}
				}
			}
		}
	})
}

// All nodes restart with new addresses and find each other through the one that stayed.
func TestRestartWithNewAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("m", 1, 2, 3)
		before := m[0].placed.Load().table
		for _, n := range m {
			n.halt()
		}
		join := func(c *config.Cluster) { c.Join, c.BootstrapExpect = seeds(3), 3 }
		restarted := []*member{f.start("a", ip(1), join), f.start("b", ip(12), join), f.start("c", ip(13), join)}
		f.ready(restarted...)
		for _, n := range restarted {
			if got := n.query("sum(m)"); got.values[""] != "6" {
				t.Errorf("%s answers %+v", n.name, got)
			}
			after := n.placed.Load().table
			if after.ClusterID != before.ClusterID || fmt.Sprint(after.Current) != fmt.Sprint(before.Current) {
				t.Errorf("%s holds %+v, before the restart %+v", n.name, after, before)
			}
		}
		if code := restarted[2].write("m", 4, 5, 6); code != http.StatusNoContent {
			t.Errorf("write after the restart: %d", code)
		}
	})
}

func TestClusterStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		got := m[0].get("/api/v1/cluster")
		for _, want := range []string{
			`"self":"` + string(m[0].cluster.Self()) + `"`, `"replicationFactor":3`, `"writeQuorum":2`, `"name":"c"`,
			`"gossip":"10.0.0.3:7946"`, `"rpc":"10.0.0.3:9081"`, `"http":"10.0.0.3:9080"`, `"state":"alive"`, `"slot":2`,
		} {
			if !strings.Contains(got.text, want) {
				t.Errorf("/api/v1/cluster lacks %s: %s", want, got.text)
			}
		}
	})
}

// Every node's load, disk and open gaps are in the status of each.
func TestStatusOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		gone := m[2].cluster.Self()
		m[2].crash()
		if code := m[0].write("m", 1, 2, 3); code != http.StatusNoContent {
			t.Fatalf("a write without c: %d", code)
		}
		<-time.After(2 * loadInterval)
		s := status{m[0].Node}.Status(t.Context())
		for _, want := range []string{"table adopted", "node is gone", "A peer misses writes: noting what it has to be handed when it is back"} {
			if !slices.ContainsFunc(s.Events, func(e api.EventStatus) bool { return e.Text == want && e.Count > 0 && !e.Time.IsZero() }) {
				t.Errorf("it does not tell %q: %+v", want, s.Events)
			}
		}
		for _, n := range s.Nodes {
			if n.ID == string(gone) {
				if n.Load != nil || n.Holds != nil || n.State != "dead" {
					t.Errorf("a dead node tells %+v", n)
				}
				continue
			}
			if len(n.Gaps) != 1 || n.Gaps[0].Peer != string(gone) || n.Gaps[0].SamplesLeft == 0 {
				t.Errorf("%s notes %+v", n.Name, n.Gaps)
			}
			if l := n.Load; l == nil || l.DiskSize == 0 || l.DiskFree > l.DiskSize || l.CPUs == 0 || l.Memory == 0 {
				t.Errorf("%s has the load %+v", n.Name, l)
			}
			if n.Unready != "" || n.Windows != 1 {
				t.Errorf("%s is not ready (%s) or holds %d windows", n.Name, n.Unready, n.Windows)
			}
		}
	})
}

func TestNewNamesTheFlagAtFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.ready(f.start("a", ip(1), nil))
		for _, c := range []struct {
			flag   string
			change func(*config.Config)
		}{
			{"web.listen-address", func(c *config.Config) {}}, // taken by the node that runs
			{"cluster.rpc-address", func(c *config.Config) { c.Web.ListenAddress = ":9180" }},
			{"web.config.file", func(c *config.Config) { c.Web.ListenAddress, c.Web.ConfigFile = ":9180", "/none" }},
			{"storage.wal-sync", func(c *config.Config) { c.Storage.WALSync = "maybe" }},
			{"storage.tsdb.path", func(c *config.Config) {
				c.Web.ListenAddress, c.Cluster.RPCAddress, c.Storage.Path = ":9180", ":9181", "/dev/null/x"
			}},
			{"cluster.tls.cert-file", func(c *config.Config) {
				c.Web.ListenAddress, c.Cluster.RPCAddress = ":9180", ":9181"
				c.Cluster.TLS = config.ClusterTLS{CertFile: "/none/cert", KeyFile: "/none/key", CAFile: "/none/ca"}
			}},
			{"cluster.gossip-keyring-file", func(c *config.Config) {
				c.Web.ListenAddress, c.Cluster.RPCAddress, c.Cluster.GossipKeyringFile = ":9180", ":9181", "/none/keyring"
			}},
			{"cluster.allowed-cidrs", func(c *config.Config) { c.Cluster.AllowedCIDRs = []string{"10.0.0.1"} }},
		} {
			conf := config.Default()
			conf.Storage.Path = t.TempDir()
			c.change(&conf)
			_, err := New(Options{Config: conf, Network: host{f.net.Host(ip(1)), "b", nil}, Logger: f.nodes["a"].logger})
			if err == nil || !strings.Contains(err.Error(), "--"+c.flag) || strings.Contains(err.Error(), "\n") {
				t.Errorf("New: %v, want one line that names --%s", err, c.flag)
			}
		}
	})
}

func TestStoreHasItsSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		var o storage.Options
		f.tune = func(opts *storage.Options) { o = *opts }
		f.fresh("a")
		c := config.Default().Storage
		if o.CompactionDelay != c.CompactionDelay || o.RetentionTime != time.Duration(c.RetentionTime) || o.RetentionSize != int64(c.RetentionSize) ||
			o.OutOfOrderWindow != time.Duration(c.OutOfOrderWindow) || o.WALSync != storage.SyncMode(c.WALSync) || o.WALCompression != c.WALCompression {
			t.Errorf("the store has %+v, the node %+v", o, c)
		}
	})
}

// The epoch of a table that is not known to everybody must not be served by an owner.
func TestStaleCoordinatorPlansAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("m", 1)
		// One node hears of a newer table before the others do.
		next := *m[1].placed.Load().table
		next.Epoch++
		if err := m[1].cluster.Learn(&next); err != nil {
			t.Fatal(err)
		}
		f.eventually(time.Minute, "adopted", func() error {
			if m[1].placed.Load().table.Epoch != next.Epoch {
				return errors.New("not yet")
			}
			return nil
		})
		if code := m[0].write("m", 2); code != http.StatusNoContent {
			t.Errorf("write through a node at the older epoch: %d", code)
		}
		if got := m[2].query("m"); got.values["0"] != "2" {
			t.Errorf("query through a node at the older epoch: %+v", got)
		}
	})
}
