// Package config holds the options of a node: what they mean, their defaults, and the one
// function that checks them. Reading flags is the command's business.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"github.com/starling-tsdb/starling/internal/table"
)

// WAL sync modes, the values of --storage.wal-sync.
const (
	// SyncCommit confirms a write when it is on stable storage.
	SyncCommit = "commit"
	// SyncInterval syncs once a second: a power loss costs up to that much.
	SyncInterval = "interval"
	// SyncOff leaves syncing to the operating system.
	SyncOff = "off"
)

const (
	maxClusterName = 64
	maxZone        = 64
	// minTransferRate is a second or so of the writes of a small cluster.
	minTransferRate = 64 * units.Kibibyte
)

// Config is everything that a node can be told. The comments name the flags.
type Config struct {
	Web     Web
	Storage Storage
	Cluster Cluster
	Query   Query
	Tracing Tracing
	// Features are the --enable-feature names, each from Features().
	Features []string
}

// Web is the HTTP side.
type Web struct {
	// ListenAddress is --web.listen-address, host:port.
	ListenAddress string
	// ConfigFile is --web.config.file, exporter-toolkit's format; empty for plain HTTP.
	ConfigFile string
	// MaxConnections is --web.max-connections: more wait to be accepted.
	MaxConnections int
}

// Storage is the local store.
type Storage struct {
	// Path is --storage.tsdb.path. Everything a node keeps lies below it.
	Path string
	// RetentionTime is --storage.tsdb.retention.time; 0 leaves it to the size.
	RetentionTime model.Duration
	// RetentionSize is --storage.tsdb.retention.size in bytes; 0 is no limit.
	RetentionSize units.Base2Bytes
	// OutOfOrderWindow is --storage.tsdb.out-of-order-time-window.
	OutOfOrderWindow model.Duration
	// CompactionDelay is --storage.tsdb.delayed-compaction.max-percent, of the duration of
	// a block.
	CompactionDelay int
	// WALSync is --storage.wal-sync: commit, interval or off.
	WALSync string
	// WALCompression is --storage.tsdb.wal-compression.
	WALCompression bool
	// MaxSeries is --storage.max-series: new series past it are refused. 0 is no limit,
	// AutoSeries leaves it to the memory.
	MaxSeries int
}

// AutoSeries is the MaxSeries of a node that takes one series for each 4 KiB of memory
// that it may use, as far as that is known.
const AutoSeries = -1

// Cluster is membership and placement.
type Cluster struct {
	// Name is --cluster.name: gossip from clusters with another name is refused.
	Name string
	// GossipAddress is --cluster.gossip-address, UDP and TCP, host:port.
	GossipAddress string
	// RPCAddress is --cluster.rpc-address, host:port.
	RPCAddress string
	// AdvertiseHost is --cluster.advertise-host: the host under which peers reach this node.
	AdvertiseHost string
	// Join is --cluster.join: gossip addresses, host or host:port.
	Join []string
	// BootstrapExpect is --cluster.bootstrap-expect: how many fresh nodes found a cluster.
	BootstrapExpect int
	// ReplicationFactor is --cluster.replication-factor; it counts when a cluster is founded.
	ReplicationFactor int
	// Zone is --cluster.zone.
	Zone string
	// TLS is --cluster.tls.…: connections between nodes are mutual TLS.
	TLS ClusterTLS
	// GossipKeyringFile is --cluster.gossip-keyring-file, a JSON list of keys; empty for gossip in
	// clear.
	GossipKeyringFile string
	// AllowedCIDRs are --cluster.allowed-cidrs, as they were given; see Networks.
	AllowedCIDRs []string
	// TransferRate is --cluster.transfer-rate, in bytes a second: what this node gives to
	// others that missed it.
	TransferRate units.Base2Bytes
}

// ClusterTLS names what TLS between nodes takes: all three files, or none for connections in
// clear.
type ClusterTLS struct {
	// CertFile, KeyFile and CAFile are --cluster.tls.cert-file, …key-file and …ca-file, in PEM.
	CertFile, KeyFile, CAFile string
	// ServerName is --cluster.tls.server-name, which all certificates carry; empty if each
	// carries the address of its node.
	ServerName string
}

// Enabled tells whether connections between nodes are TLS.
func (t ClusterTLS) Enabled() bool { return t.CertFile != "" }

func (t ClusterTLS) check() error {
	var set []string
	missing := ""
	for _, f := range []struct{ flag, path string }{
		{"cluster.tls.cert-file", t.CertFile}, {"cluster.tls.key-file", t.KeyFile}, {"cluster.tls.ca-file", t.CAFile},
	} {
		if f.path != "" {
			set = append(set, "--"+f.flag)
		} else if missing == "" {
			missing = f.flag
		}
	}
	switch {
	case len(set) > 0 && missing != "":
		return Flagged(missing, fmt.Errorf("is missing beside %s: TLS between nodes takes a certificate, its key and the CA", strings.Join(set, " and ")))
	case len(set) == 0 && t.ServerName != "":
		return Flagged("cluster.tls.server-name", errors.New("has no meaning without --cluster.tls.cert-file, --cluster.tls.key-file and --cluster.tls.ca-file"))
	case t.ServerName == "":
		return nil
	}
	if err := checkHost(t.ServerName); err != nil {
		return Flagged("cluster.tls.server-name", err)
	}
	return nil
}

// Query bounds what queries may cost.
type Query struct {
	// Timeout is --query.timeout.
	Timeout model.Duration
	// MaxSamples is --query.max-samples, held in memory by one query at a time.
	MaxSamples int
	// MaxConcurrency is --query.max-concurrency.
	MaxConcurrency int
	// LookbackDelta is --query.lookback-delta.
	LookbackDelta model.Duration
	// VerifyPushdown is --query.verify-pushdown: the share of the queries that are evaluated in
	// parts which are evaluated as a whole, too, to compare.
	VerifyPushdown float64
}

// Default returns the settings of a node that is told nothing.
func Default() Config {
	return Config{
		Web: Web{ListenAddress: ":9080", MaxConnections: 512},
		Storage: Storage{
			Path:             "data",
			RetentionTime:    model.Duration(15 * 24 * time.Hour),
			OutOfOrderWindow: model.Duration(3 * time.Hour),
			WALSync:          SyncCommit,
			CompactionDelay:  2,
			MaxSeries:        AutoSeries,
		},
		Cluster: Cluster{
			Name:              "starling",
			GossipAddress:     ":7946",
			RPCAddress:        ":9081",
			ReplicationFactor: 3,
			TransferRate:      64 * units.Mebibyte,
		},
		Query: Query{
			Timeout:        model.Duration(2 * time.Minute),
			MaxSamples:     50_000_000,
			MaxConcurrency: 20,
			LookbackDelta:  model.Duration(5 * time.Minute),
		},
		Tracing: Tracing{SamplingFraction: AutoFraction},
	}
}

// Features returns the names that --enable-feature takes: Prometheus's features that
// concern PromQL and storage.
func Features() []string {
	return []string{
		"created-timestamp-zero-ingestion",
		"delayed-compaction",
		"exemplar-storage",
		"histograms-st-encoding",
		"memory-snapshot-on-shutdown",
		"metadata-wal-records",
		"native-histograms",
		"ooo-native-histograms",
		"otlp-native-delta-ingestion",
		"promql-binop-fill-modifiers",
		"promql-delayed-name-removal",
		"promql-duration-expr",
		"promql-experimental-functions",
		"promql-extended-range-selectors",
		"promql-per-step-stats",
		"st-storage",
		"type-and-unit-labels",
		"use-start-timestamps",
		"use-uncached-io",
		"xor2-encoding",
	}
}

// Error is a wrong value of one flag.
type Error struct {
	Flag string
	Err  error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("--%s: %v", e.Flag, e.Err) }

// Unwrap returns what is wrong with the value.
func (e *Error) Unwrap() error { return e.Err }

// Flagged gives err the name of the flag that is at fault.
func Flagged(flag string, err error) error { return &Error{Flag: flag, Err: err} }

// Check returns an *Error for the first wrong value.
func (c *Config) Check() error {
	return firstOf(
		c.Web.check,
		c.Storage.check,
		c.Cluster.check,
		c.Query.check,
		c.Tracing.check,
		c.checkFeatures,
	)
}

func firstOf(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (w *Web) check() error {
	if w.MaxConnections <= 0 {
		return Flagged("web.max-connections", fmt.Errorf("%d is not positive", w.MaxConnections))
	}
	return checkAddress("web.listen-address", w.ListenAddress)
}

func (s *Storage) check() error {
	switch {
	case s.Path == "":
		return Flagged("storage.tsdb.path", errors.New("must not be empty"))
	case s.RetentionTime < 0:
		return Flagged("storage.tsdb.retention.time", fmt.Errorf("%s is negative", s.RetentionTime))
	case s.RetentionSize < 0:
		return Flagged("storage.tsdb.retention.size", fmt.Errorf("%s is negative", s.RetentionSize))
	case time.Duration(s.OutOfOrderWindow) < time.Hour:
		return Flagged("storage.tsdb.out-of-order-time-window",
			fmt.Errorf("%s is less than 1h, half the duration of a block: overlapping writes to a series could lose samples", s.OutOfOrderWindow))
	case s.CompactionDelay < 0 || s.CompactionDelay > 100:
		return Flagged("storage.tsdb.delayed-compaction.max-percent", fmt.Errorf("%d is not between 0 and 100", s.CompactionDelay))
	case s.MaxSeries < AutoSeries:
		return Flagged("storage.max-series", fmt.Errorf("%d is negative", s.MaxSeries))
	case !slices.Contains([]string{SyncCommit, SyncInterval, SyncOff}, s.WALSync):
		return Flagged("storage.wal-sync", fmt.Errorf("%q is none of commit, interval, off", s.WALSync))
	}
	return nil
}

func (c *Cluster) check() error {
	if err := checkAddress("cluster.gossip-address", c.GossipAddress); err != nil {
		return err
	}
	if err := checkAddress("cluster.rpc-address", c.RPCAddress); err != nil {
		return err
	}
	switch {
	case c.Name == "" || len(c.Name) > maxClusterName:
		return Flagged("cluster.name", fmt.Errorf("%q must have 1 to %d bytes", c.Name, maxClusterName))
	case len(c.Zone) > maxZone:
		return Flagged("cluster.zone", fmt.Errorf("%q has more than %d bytes", c.Zone, maxZone))
	case c.ReplicationFactor < 1 || c.ReplicationFactor > table.MaxReplicationFactor:
		return Flagged("cluster.replication-factor", fmt.Errorf("%d is not between 1 and %d", c.ReplicationFactor, table.MaxReplicationFactor))
	case c.BootstrapExpect < 0:
		return Flagged("cluster.bootstrap-expect", fmt.Errorf("%d is negative", c.BootstrapExpect))
	case c.TransferRate < minTransferRate:
		return Flagged("cluster.transfer-rate", fmt.Errorf("%s is less than %s a second: a node that was away would hardly catch up", c.TransferRate, minTransferRate))
	}
	if c.AdvertiseHost != "" {
		if err := checkHost(c.AdvertiseHost); err != nil {
			return Flagged("cluster.advertise-host", err)
		}
	}
	for _, j := range c.Join {
		if err := checkSeed(j); err != nil {
			return Flagged("cluster.join", err)
		}
	}
	if _, err := c.Networks(); err != nil {
		return err
	}
	return c.TLS.check()
}

// Networks are where other nodes may be; none for anywhere. Those of IPv4 are of that form.
func (c *Cluster) Networks() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range c.AllowedCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, Flagged("cluster.allowed-cidrs", fmt.Errorf("%q is no network, like 10.0.0.0/8 or fd00::/8 or, for one address, 10.0.0.1/32", text))
		}
		if p.Addr().Is4In6() {
			// ::ffff:0:0/96 holds the addresses of IPv4.
			if p.Bits() < 96 {
				return nil, Flagged("cluster.allowed-cidrs", fmt.Errorf("%q is more than the IPv4 addresses in it: name 0.0.0.0/0 and ::/0 if you mean all", text))
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		networks = append(networks, p.Masked())
	}
	return networks, nil
}

// checkSeed takes host or host:port.
func checkSeed(seed string) error {
	if checkHost(strings.Trim(seed, "[]")) == nil {
		return nil
	}
	host, port, err := net.SplitHostPort(seed)
	if err != nil || host == "" {
		return fmt.Errorf("%q is not host:port or a DNS name", seed)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q: port %q is not a number in 1..65535", seed, port)
	}
	return checkHost(host)
}

// checkHost takes a DNS name or an IP address that others can reach.
func checkHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() {
			return fmt.Errorf("%q is no address that other nodes can reach", host)
		}
		return nil
	}
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || strings.ContainsRune(":/[]@", r) }) {
		return fmt.Errorf("%q is not a DNS name or an IP address, without a port", host)
	}
	return nil
}

func (q *Query) check() error {
	switch {
	case q.Timeout <= 0:
		return Flagged("query.timeout", fmt.Errorf("%s is not positive", q.Timeout))
	case q.MaxSamples <= 0:
		return Flagged("query.max-samples", fmt.Errorf("%d is not positive", q.MaxSamples))
	case q.MaxConcurrency <= 0:
		return Flagged("query.max-concurrency", fmt.Errorf("%d is not positive", q.MaxConcurrency))
	case q.LookbackDelta <= 0:
		return Flagged("query.lookback-delta", fmt.Errorf("%s is not positive", q.LookbackDelta))
	case !(q.VerifyPushdown >= 0 && q.VerifyPushdown <= 1):
		return Flagged("query.verify-pushdown", fmt.Errorf("%v is not between 0 and 1", q.VerifyPushdown))
	}
	return nil
}

func (c *Config) checkFeatures() error {
	for _, f := range c.Features {
		if !slices.Contains(Features(), f) {
			return Flagged("enable-feature", fmt.Errorf("%q is not known; it takes %s", f, strings.Join(Features(), ", ")))
		}
	}
	return nil
}

func checkAddress(flag, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return Flagged(flag, fmt.Errorf("%q is not host:port or :port", address))
	}
	if _, err := net.ResolveTCPAddr("tcp", address); err != nil {
		return Flagged(flag, fmt.Errorf("%q: %w", address, err))
	}
	return nil
}
