package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/table"
)

// Caller sends one opaque request to the cluster package of the node at an rpc address
// and returns its answer, see Cluster.Handle. It is called concurrently, and has to
// return when ctx ends.
type Caller interface {
	Call(ctx context.Context, address string, request []byte) ([]byte, error)
}

// Config is all that a Cluster is told. Dir, Caller, Dial, RaftListener and the ports
// have to be set; fill says what the rest defaults to.
type Config struct {
	// Dir holds all that this package persists.
	Dir string
	// ClusterName keeps clusters apart: gossip with another name is refused.
	ClusterName string
	// ReplicationFactor is the number of copies in a table that this node founds.
	ReplicationFactor int

	// Find is how the node finds others, Advertise how others find it.
	Find      Find
	Advertise Advertise

	// GossipBind is the host:port to listen on for gossip, UDP and TCP.
	GossipBind string
	// GossipTransport replaces UDP and TCP on GossipBind; it is shut down by Run.
	GossipTransport memberlist.Transport
	// GossipKeys encrypt gossip, and may change; nil for gossip in clear.
	GossipKeys *memberlist.Keyring
	// RaftListener accepts the streams that peers open with Dial; Run closes it.
	RaftListener net.Listener
	// Dial opens a raw stream to the RaftListener behind a peer's rpc address.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Caller reaches the peers' Handle.
	Caller Caller

	// Allowed returns why no other node may be at an address: nothing is sent to it by gossip,
	// and nothing taken from it. Nil means that they may be anywhere.
	Allowed func(ip netip.Addr) error
	// Advertised is told the address at which peers reach this node, before gossip says it to
	// them. An error ends Run. Nil means nobody wants to know.
	Advertised func(ip netip.Addr) error

	// Adopt is told of every change of the table: one at a time, in order of epochs
	// (which may skip some), after the table is on disk and before Table returns it. It
	// may block while appends of the old epoch finish. old is nil for the first table.
	// The table that New loads is not announced. Nil means nobody wants to know.
	Adopt func(old, new *table.Table)

	// Ready returns the epoch with which the phase of a transition began for which this
	// node holds, synced, all that it is to own; see table.Transition. Announce tells the
	// others when it has changed. Nil is for a node that has nothing to hold.
	Ready func() uint64

	// Timing is for tests; the zero value is right for production.
	Timing Timing
	// Logger defaults to slog.Default, Registerer to none.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Find says how a node finds its cluster.
type Find struct {
	// Join lists gossip addresses, host or host:port, of any members. Hosts may be names,
	// which are resolved anew at each attempt. The node's own address does no harm.
	Join []string
	// BootstrapExpect is the number of fresh nodes that found a cluster together. It has
	// to be more than half of the fresh nodes that are started at the same time. 0 with
	// Join means to wait for a cluster, 0 or 1 without Join to found one alone.
	BootstrapExpect int
	// LookupHost resolves names, by default net.DefaultResolver.LookupHost.
	LookupHost func(ctx context.Context, host string) ([]string, error)
}

// Advertise is what a node says of itself.
type Advertise struct {
	// Host is the address or name at which peers reach the node; empty to use the one
	// that gossip is bound to, or a private address if that is unspecified.
	Host string
	// RPCPort and HTTPPort are where peers and clients find the node on that host.
	RPCPort, HTTPPort int
	// Zone is the failure domain, empty for none. Name is for people, by default the ID.
	// Version is the program's.
	Zone, Name, Version string
}

// Timing holds the intervals and limits of the protocols.
type Timing struct {
	// Rejoin is how often seeds and lost members are contacted (10 s).
	Rejoin time.Duration
	// Poll is how often a node that has no table yet tries the next step (500 ms).
	Poll time.Duration
	// Settle is how long the set of fresh nodes has to stay the same before a node
	// vouches (2 s). It gives gossip time to find everybody.
	Settle time.Duration
	// Call limits one request to a peer (3 s), Stream the opening of a stream to one and
	// each exchange on it (5 s).
	Call, Stream time.Duration
	// Complain is how often a node that waits says for what (10 s).
	Complain time.Duration
	// Election is how long Raft's followers wait for their leader before they elect
	// another (3 s). Nothing that serves data waits for a leader, so it can be long
	// enough for a busy machine.
	Election time.Duration
	// Leave limits each step of a graceful stop (2 s).
	Leave time.Duration
}

// defaultGossipPort is where a seed without a port gossips, if this node's own port says
// nothing about it.
const defaultGossipPort = 7946

const (
	maxZone    = 64
	maxName    = 64
	maxVersion = 64
)

// fill returns the configuration with its defaults, or says which flag is wrong.
func (c Config) fill() (Config, error) {
	if c.Dir == "" || c.Caller == nil || c.Dial == nil || c.RaftListener == nil {
		return c, errors.New("cluster: Dir, Caller, Dial and RaftListener have to be set")
	}
	if c.ClusterName == "" {
		c.ClusterName = "starling"
	}
	if c.ReplicationFactor == 0 {
		c.ReplicationFactor = 3
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Find.LookupHost == nil {
		c.Find.LookupHost = net.DefaultResolver.LookupHost
	}
	if c.Advertised == nil {
		c.Advertised = func(netip.Addr) error { return nil }
	}
	if c.Adopt == nil {
		c.Adopt = func(_, _ *table.Table) {}
	}
	c.Timing.fill()
	if err := c.check(); err != nil {
		return c, err
	}
	var err error
	c.Find.Join, err = c.seeds()
	return c, err
}

// seeds returns Join with a port everywhere: a name alone is meant to be at the port where
// this node gossips, since the nodes of a cluster mostly use the same one.
func (c *Config) seeds() ([]string, error) {
	_, own, err := splitHostPort(c.GossipBind)
	if err != nil || own == 0 {
		own = defaultGossipPort
	}
	seeds := make([]string, 0, len(c.Find.Join))
	for _, seed := range c.Find.Join {
		if isHost(seed) {
			seed = net.JoinHostPort(strings.Trim(seed, "[]"), strconv.Itoa(own))
		}
		if _, _, err := splitHostPort(seed); err != nil {
			return nil, fmt.Errorf("--cluster.join %q: %w", seed, err)
		}
		seeds = append(seeds, seed)
	}
	return seeds, nil
}

// isHost tells whether a seed is a name or an address without a port.
func isHost(seed string) bool {
	if _, err := netip.ParseAddr(strings.Trim(seed, "[]")); err == nil {
		return true
	}
	return seed != "" && !strings.Contains(seed, ":")
}

func (t *Timing) fill() {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.Rejoin, 10 * time.Second},
		{&t.Poll, 500 * time.Millisecond},
		{&t.Settle, 2 * time.Second},
		{&t.Call, 3 * time.Second},
		{&t.Stream, 5 * time.Second},
		{&t.Complain, 10 * time.Second},
		{&t.Election, 3 * time.Second},
		{&t.Leave, 2 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
}

func (c *Config) check() error {
	for _, s := range []struct {
		flag, value string
		limit       int
	}{
		{"--cluster.name", c.ClusterName, memberlist.LabelMaxSize},
		{"--cluster.zone", c.Advertise.Zone, maxZone},
		{"the name of this node", c.Advertise.Name, maxName},
		{"the version", c.Advertise.Version, maxVersion},
	} {
		if err := checkText(s.value, s.limit); err != nil {
			return fmt.Errorf("%s %q: %w", s.flag, s.value, err)
		}
	}
	if c.ReplicationFactor < 1 {
		return fmt.Errorf("--cluster.replication-factor %d: has to be at least 1", c.ReplicationFactor)
	}
	if n := c.Find.BootstrapExpect; n < 0 || n > maxExpect {
		return fmt.Errorf("--cluster.bootstrap-expect %d: has to be in 0..%d", n, maxExpect)
	}
	for _, p := range []int{c.Advertise.RPCPort, c.Advertise.HTTPPort} {
		if p < 1 || p > 65535 {
			return fmt.Errorf("cluster: port %d to advertise is not in 1..65535", p)
		}
	}
	if c.GossipTransport == nil {
		if _, _, err := splitHostPort(c.GossipBind); err != nil {
			return fmt.Errorf("--cluster.gossip-address %q: %w", c.GossipBind, err)
		}
	}
	return nil
}

// checkText allows what travels in gossip metadata: so much, and only characters that
// JSON leaves as they are, so that the size of the metadata is bounded.
func checkText(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(s), limit)
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case r == '.', r == '-', r == '_', r == '/', r == ':', r == '+', r == '@', r == '(', r == ')', r == ' ', r == ',', r == '=':
		default:
			return fmt.Errorf("character %q is not allowed; use letters, digits and . - _ / : + @ = , ( )", r)
		}
	}
	return nil
}

// splitHostPort takes host:port apart; the host may be empty.
func splitHostPort(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not a number in 0..65535", text)
	}
	return host, port, nil
}
