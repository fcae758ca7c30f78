package config

import (
	"errors"
	"strings"
	"testing"
)

func TestDefaultsAreValid(t *testing.T) {
	c := Default()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestCheckNamesTheFlag(t *testing.T) {
	for _, c := range []struct {
		flag   string
		change func(*Config)
	}{
		{"web.listen-address", func(c *Config) { c.Web.ListenAddress = "9080" }},
		{"web.listen-address", func(c *Config) { c.Web.ListenAddress = "127.0.0.1:http-alt-x" }},
		{"storage.tsdb.path", func(c *Config) { c.Storage.Path = "" }},
		{"storage.tsdb.retention.time", func(c *Config) { c.Storage.RetentionTime = -1 }},
		{"storage.tsdb.retention.size", func(c *Config) { c.Storage.RetentionSize = -1 }},
		{"storage.tsdb.out-of-order-time-window", func(c *Config) { c.Storage.OutOfOrderWindow = 0 }},
		{"storage.wal-sync", func(c *Config) { c.Storage.WALSync = "always" }},
		{"cluster.name", func(c *Config) { c.Cluster.Name = "" }},
		{"cluster.name", func(c *Config) { c.Cluster.Name = strings.Repeat("x", 65) }},
		{"cluster.gossip-address", func(c *Config) { c.Cluster.GossipAddress = "nowhere" }},
		{"cluster.rpc-address", func(c *Config) { c.Cluster.RPCAddress = ":99999" }},
		{"cluster.zone", func(c *Config) { c.Cluster.Zone = strings.Repeat("z", 65) }},
		{"cluster.replication-factor", func(c *Config) { c.Cluster.ReplicationFactor = 0 }},
		{"cluster.bootstrap-expect", func(c *Config) { c.Cluster.BootstrapExpect = -1 }},
		{"cluster.join", func(c *Config) { c.Cluster.Join = []string{" "} }},
		{"query.timeout", func(c *Config) { c.Query.Timeout = 0 }},
		{"query.max-samples", func(c *Config) { c.Query.MaxSamples = 0 }},
		{"query.max-concurrency", func(c *Config) { c.Query.MaxConcurrency = -3 }},
		{"query.lookback-delta", func(c *Config) { c.Query.LookbackDelta = 0 }},
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
