package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestConfigNamesTheFlag(t *testing.T) {
	good := func() Config {
		return Config{
			Dir: "d", Caller: simCaller{}, RaftListener: &net.TCPListener{}, GossipBind: "127.0.0.1:7946",
			Dial:      func(context.Context, string) (net.Conn, error) { return nil, io.EOF },
			Advertise: Advertise{RPCPort: 1, HTTPPort: 2},
		}
	}
	if _, err := good().fill(); err != nil {
		t.Fatalf("a good configuration: %v", err)
	}
	for _, c := range []struct {
		change func(*Config)
		says   string
	}{
		{func(c *Config) { c.Advertise.Zone = strings.Repeat("z", maxZone+1) }, "--cluster.zone"},
		{func(c *Config) { c.Advertise.Zone = "a\nb" }, "--cluster.zone"},
		{func(c *Config) { c.Advertise.Name = "<&>" }, "the name of this node"},
		{func(c *Config) { c.ClusterName = strings.Repeat("n", 256) }, "--cluster.name"},
		{func(c *Config) { c.Find.BootstrapExpect = -1 }, "--cluster.bootstrap-expect"},
		{func(c *Config) { c.Find.BootstrapExpect = maxExpect + 1 }, "--cluster.bootstrap-expect"},
		{func(c *Config) { c.Find.Join = []string{"host:x"} }, "--cluster.join"},
		{func(c *Config) { c.ReplicationFactor = -1 }, "--cluster.replication-factor"},
		{func(c *Config) { c.GossipBind = "nowhere" }, "--cluster.gossip-address"},
		{func(c *Config) { c.Dir = "" }, "Dir"},
		{func(c *Config) { c.Advertise.RPCPort = 70000 }, "70000"},
	} {
		cfg := good()
		c.change(&cfg)
		if _, err := cfg.fill(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("error %v, want one that names %s", err, c.says)
		}
	}
}

func TestAdvertisedAddress(t *testing.T) {
	for _, c := range []struct {
		host, bind string
		join       []string
		want, says string
	}{
		{"10.1.2.3", "0.0.0.0:7946", nil, "10.1.2.3", ""},
		{"", "10.1.2.3:7946", []string{"10.9.9.9:7946"}, "10.1.2.3", ""},
		{"", "127.0.0.1:7001", []string{"127.0.0.1:7001", "127.0.0.1:7002"}, "127.0.0.1", ""},
		{"", "127.0.0.1:7001", []string{"10.9.9.9:7946"}, "", "--cluster.advertise-host"},
		{"127.0.0.1", "0.0.0.0:7946", []string{"10.9.9.9:7946"}, "", "--cluster.advertise-host"},
		{"0.0.0.0", "0.0.0.0:7946", nil, "", "--cluster.advertise-host"},
		{"::", "[::]:7946", nil, "", "--cluster.advertise-host"},
		{"no.such.name.invalid", "0.0.0.0:7946", nil, "", "--cluster.advertise-host"},
	} {
		cfg := Config{GossipBind: c.bind, Advertise: Advertise{Host: c.host}, Find: Find{Join: c.join, LookupHost: lookupLiteral}}
		got, err := cfg.advertiseIP(t.Context())
		switch {
		case c.says == "" && (err != nil || got != netip.MustParseAddr(c.want)):
			t.Errorf("%+v: %v, %v", c, got, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}

func TestNextServer(t *testing.T) {
	nodes := []table.NodeID{"a", "b", "c", "d", "e", "f"}
	var servers []raft.Server
	set := func(id table.NodeID, voter bool) {
		for i, s := range servers {
			if s.ID == raft.ServerID(id) {
				servers[i] = server(id, voter)
				return
			}
		}
		servers = append(servers, server(id, voter))
	}
	set("x", true)
	set("y", false)
	set("f", true)
	var did []string
	for range 50 {
		step := nextServer(nodes, nodes[:5], servers)
		did = append(did, strings.TrimSpace(string(step.do)+" "+string(step.id)))
		switch step.do {
		case addServer:
			set(step.id, false)
		case promoteServer:
			set(step.id, true)
		case demoteServer:
			set(step.id, false)
		case removeServer:
			for i, s := range servers {
				if s.ID == raft.ServerID(step.id) {
					servers = append(servers[:i:i], servers[i+1:]...)
					break
				}
			}
		}
		if step.do == "" {
			break
		}
	}
	want := "add a,add b,add c,add d,add e,remove x,remove y,make a voter a,make a voter b,make a voter c,make a voter d,make a voter e,make a follower f,"
	if got := strings.Join(did, ","); got != want {
		t.Errorf("steps\n%s, want\n%s", got, want)
	}
}

func TestMachineStopsAtWhatItDoesNotKnow(t *testing.T) {
	var offers int
	m := &machine{offer: func(*table.Table) { offers++ }}
	entry := func(v any) *raft.Log {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return &raft.Log{Data: b}
	}
	found := table.Command{Kind: table.Found, ClusterID: "c", ReplicationFactor: 3, Founders: []table.Member{{Node: "a"}}}
	if a := m.Apply(entry(found)).(applied); a.err != nil || a.t.Epoch != 1 {
		t.Fatalf("found: %+v", a)
	}
	if a := m.Apply(entry(found)).(applied); !errors.Is(a.err, table.ErrFounded) {
		t.Errorf("found again: %+v", a)
	}
	newer := map[string]any{"kind": table.Pause, "color": "red"}
	if a := m.Apply(entry(newer)).(applied); !errors.Is(a.err, errNewer) {
		t.Errorf("a command with an unknown field: %+v", a)
	}
	if a := m.Apply(entry(table.Command{Kind: table.Pause})).(applied); !errors.Is(a.err, errNewer) {
		t.Errorf("a command after it: %+v, want none applied", a)
	}
	if _, err := m.Snapshot(); !errors.Is(err, errNewer) {
		t.Errorf("snapshot of a state that misses an entry: %v", err)
	}
	b, err := table.Encode(tableOf("c", 7, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(io.NopCloser(strings.NewReader(string(b)))); err != nil {
		t.Fatal(err)
	}
	if a := m.Apply(entry(table.Command{Kind: table.Pause})).(applied); a.err != nil || a.t.Epoch != 8 {
		t.Errorf("after a snapshot of others: %+v", a)
	}
	if offers != 3 {
		t.Errorf("%d tables offered, want 3", offers)
	}
}

// TestGossipKeepsOthersOut looks at the delegates, which see what comes passively, too.
func TestGossipKeepsOthersOut(t *testing.T) {
	count, err := newMetrics(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	allowed := netip.MustParsePrefix("10.0.0.0/24")
	g := &gossip{
		cfg: &Config{Allowed: func(ip netip.Addr) error {
			if !allowed.Contains(ip.Unmap()) && !ip.Unmap().IsLoopback() && !ip.Unmap().IsUnspecified() {
				return errors.New("not allowed")
			}
			return nil
		}},
		self: identity{Node: "me", Boots: 1}, ip: netip.MustParseAddr("10.0.0.1"), count: count,
		log: slog.New(slog.DiscardHandler), quiet: newThrottle(time.Minute),
		describe: func() metadata { return metadata{Cluster: "ours"} },
	}
	member := func(name, ip, cluster string) *memberlist.Node {
		b, err := json.Marshal(metadata{Cluster: cluster, RPC: 1})
		if err != nil {
			t.Fatal(err)
		}
		return &memberlist.Node{Name: name, Addr: net.ParseIP(ip), Port: 1, Meta: b, State: memberlist.StateAlive}
	}
	ours, fresh := member("a-1", "10.0.0.2", "ours"), member("b-1", "10.0.0.3", "")
	theirs := member("c-1", "10.0.0.4", "theirs")
	for _, c := range []struct {
		what string
		err  error
		ok   bool
	}{
		{"a member", g.NotifyAlive(ours), true},
		{"a fresh node", g.NotifyAlive(fresh), true},
		{"a node of another cluster", g.NotifyAlive(theirs), false},
		{"a loopback address", g.NotifyAlive(member("d-1", "127.0.0.1", "ours")), false},
		{"an unspecified address", g.NotifyAlive(member("d-1", "0.0.0.0", "ours")), false},
		{"an address where no node may be", g.NotifyAlive(member("d-1", "10.0.1.5", "ours")), false},
		{"a name without starts", g.NotifyAlive(member("d", "10.0.0.5", "ours")), false},
		{"no metadata", g.NotifyAlive(&memberlist.Node{Name: "d-1", Addr: net.ParseIP("10.0.0.5")}), false},
		{"a view of fresh nodes", g.NotifyMerge([]*memberlist.Node{fresh}), true},
		{"a mixed view", g.NotifyMerge([]*memberlist.Node{theirs, ours}), true},
		{"a view of another cluster", g.NotifyMerge([]*memberlist.Node{theirs}), false},
	} {
		if (c.err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
}

func TestThrottle(t *testing.T) {
	q := newThrottle(time.Hour)
	if !q.allow("a") || q.allow("a") || !q.allow("b") {
		t.Error("one of each kind an hour is allowed")
	}
	for i := range 3 * throttleKinds {
		q.allow(strings.Repeat("x", i))
	}
	if len(q.last) > throttleKinds {
		t.Errorf("%d kinds are remembered", len(q.last))
	}
}
