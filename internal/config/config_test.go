package config

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestDefaultsAreValid(t *testing.T) {
	c := Default()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestHostsThatAreTaken(t *testing.T) {
	c := Default()
	c.Cluster.Join = []string{"node-1", "node-1.example.org:7946", "10.0.0.1", "10.0.0.1:1", "::1", "[::1]", "[fe80::1%eth0]:7946", "node_2"}
	for _, host := range []string{"node-1", "10.0.0.1", "fd00::1", "node_2.internal."} {
		c.Cluster.AdvertiseHost = host
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckNamesTheFlag(t *testing.T) {
	for _, c := range []struct {
		flag   string
		change func(*Config)
	}{
		{"web.listen-address", func(c *Config) { c.Web.ListenAddress = "9080" }},
		{"web.listen-address", func(c *Config) { c.Web.ListenAddress = "127.0.0.1:http-alt-x" }},
		{"web.max-connections", func(c *Config) { c.Web.MaxConnections = 0 }},
		{"storage.max-series", func(c *Config) { c.Storage.MaxSeries = -2 }},
		{"storage.tsdb.path", func(c *Config) { c.Storage.Path = "" }},
		{"storage.tsdb.retention.time", func(c *Config) { c.Storage.RetentionTime = -1 }},
		{"storage.tsdb.retention.size", func(c *Config) { c.Storage.RetentionSize = -1 }},
		{"storage.tsdb.out-of-order-time-window", func(c *Config) { c.Storage.OutOfOrderWindow = 0 }},
		{"storage.tsdb.delayed-compaction.max-percent", func(c *Config) { c.Storage.CompactionDelay = -1 }},
		{"storage.tsdb.delayed-compaction.max-percent", func(c *Config) { c.Storage.CompactionDelay = 101 }},
		{"storage.wal-sync", func(c *Config) { c.Storage.WALSync = "always" }},
		{"cluster.name", func(c *Config) { c.Cluster.Name = "" }},
		{"cluster.name", func(c *Config) { c.Cluster.Name = strings.Repeat("x", 65) }},
		{"cluster.gossip-address", func(c *Config) { c.Cluster.GossipAddress = "nowhere" }},
		{"cluster.rpc-address", func(c *Config) { c.Cluster.RPCAddress = ":99999" }},
		{"cluster.zone", func(c *Config) { c.Cluster.Zone = strings.Repeat("z", 65) }},
		{"cluster.replication-factor", func(c *Config) { c.Cluster.ReplicationFactor = 0 }},
		{"cluster.bootstrap-expect", func(c *Config) { c.Cluster.BootstrapExpect = -1 }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{" "} }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{"node-1", ":7946"} }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{"node-1:gossip"} }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{"node-1:0"} }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{"node-1:79460"} }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{"http://node-1:7946"} }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{"0.0.0.0:7946"} }},
		{"cluster.advertise-host", func(c *Config) { c.Cluster.AdvertiseHost = "node-1:7946" }},
		{"cluster.advertise-host", func(c *Config) { c.Cluster.AdvertiseHost = ":7946" }},
		{"cluster.advertise-host", func(c *Config) { c.Cluster.AdvertiseHost = "::" }},
		{"cluster.advertise-host", func(c *Config) { c.Cluster.AdvertiseHost = "node 1" }},
		{"cluster.tls.cert-file", func(c *Config) { c.Cluster.TLS = ClusterTLS{KeyFile: "k", CAFile: "a"} }},
		{"tracing.endpoint", func(c *Config) { c.Tracing.Endpoint = "collector:4317" }},
		{"tracing.sampling-fraction", func(c *Config) { c.Tracing.SamplingFraction = 1.5 }},
		{"tracing.sampling-fraction", func(c *Config) { c.Tracing.SamplingFraction = math.NaN() }},
		{"cluster.tls.key-file", func(c *Config) { c.Cluster.TLS = ClusterTLS{CertFile: "c", CAFile: "a"} }},
		{"cluster.tls.ca-file", func(c *Config) { c.Cluster.TLS = ClusterTLS{CertFile: "c", KeyFile: "k"} }},
		{"cluster.tls.server-name", func(c *Config) { c.Cluster.TLS.ServerName = "starling" }},
		{"cluster.tls.server-name", func(c *Config) {
			c.Cluster.TLS = ClusterTLS{CertFile: "c", KeyFile: "k", CAFile: "a", ServerName: "not a name"}
		}},
		{"cluster.allowed-cidrs", func(c *Config) { c.Cluster.AllowedCIDRs = []string{"10.0.0.0/8", "10.0.0.1"} }},
		{"cluster.allowed-cidrs", func(c *Config) { c.Cluster.AllowedCIDRs = []string{"10.0.0.0/33"} }},
		{"cluster.allowed-cidrs", func(c *Config) { c.Cluster.AllowedCIDRs = []string{"::ffff:10.0.0.0/64"} }},
		{"query.timeout", func(c *Config) { c.Query.Timeout = 0 }},
		{"query.max-samples", func(c *Config) { c.Query.MaxSamples = 0 }},
		{"query.max-concurrency", func(c *Config) { c.Query.MaxConcurrency = -3 }},
		{"query.lookback-delta", func(c *Config) { c.Query.LookbackDelta = 0 }},
		{"query.verify-pushdown", func(c *Config) { c.Query.VerifyPushdown = 1.1 }},
		{"query.verify-pushdown", func(c *Config) { c.Query.VerifyPushdown = math.NaN() }},
		{"enable-feature", func(c *Config) { c.Features = []string{"warp-drive"} }},
	} {
		config := Default()
		c.change(&config)
		err := config.Check()
		var flagged *Error
		if !errors.As(err, &flagged) || flagged.Flag != c.flag {
			t.Errorf("Check() = %v, want an error that names --%s", err, c.flag)
			continue
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("the message has more than one line: %q", err)
		}
	}
}

func TestNetworks(t *testing.T) {
	c := Cluster{AllowedCIDRs: []string{"10.1.2.3/8", "::ffff:192.168.1.0/120", "fd00::1/8"}}
	networks, err := c.Networks()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range networks {
		got = append(got, n.String())
	}
	if want := "10.0.0.0/8 192.168.1.0/24 fd00::/8"; strings.Join(got, " ") != want {
		t.Errorf("Networks() = %v, want %s", got, want)
	}
}
