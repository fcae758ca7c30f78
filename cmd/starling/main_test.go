package main

import (
	"errors"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
)

func TestFlagsReachTheConfig(t *testing.T) {
	cl := newCommandLine()
	_, err := cl.app.Parse([]string{
		"--web.listen-address=127.0.0.1:1", "--web.max-connections=4", "--web.config.file=w.yml", "--storage.tsdb.path=p",
		"--storage.tsdb.retention.time=7d", "--storage.tsdb.retention.size=2GB",
		"--storage.tsdb.out-of-order-time-window=5h", "--storage.tsdb.delayed-compaction.max-percent=7", "--storage.tsdb.wal-compression", "--storage.wal-sync=interval",
		"--storage.max-series=12", "--no-auto-gomemlimit", "--auto-gomemlimit.ratio=0.5",
		"--cluster.name=n", "--cluster.gossip-address=127.0.0.1:2", "--cluster.rpc-address=127.0.0.1:3",
		"--cluster.advertise-host=h", "--cluster.join=a:1,b", "--cluster.join=c:2", "--cluster.bootstrap-expect=3",
		"--cluster.replication-factor=2", "--cluster.zone=z",
		"--cluster.tls.cert-file=c", "--cluster.tls.key-file=k", "--cluster.tls.ca-file=a", "--cluster.tls.server-name=s", "--cluster.gossip-keyring-file=g", "--cluster.allowed-cidrs=10.0.0.0/8,fd00::/8",
		"--query.timeout=1m", "--query.max-samples=7", "--query.max-concurrency=8", "--query.lookback-delta=9m", "--query.verify-pushdown=0.25",
		"--tracing.endpoint=http://c:4317", "--tracing.sampling-fraction=0.5",
		"--enable-feature=promql-duration-expr,st-storage", "--log.level=debug", "--log.format=json",
	})
	if err != nil {
		t.Fatal(err)
	}
	c := cl.config
	for _, check := range []struct {
		flag string
		ok   bool
	}{
		{"web.listen-address", c.Web.ListenAddress == "127.0.0.1:1"},
		{"web.config.file", c.Web.ConfigFile == "w.yml"},
		{"storage.tsdb.path", c.Storage.Path == "p"},
		{"storage.tsdb.retention.time", time.Duration(c.Storage.RetentionTime) == 7*24*time.Hour},
		{"storage.tsdb.retention.size", c.Storage.RetentionSize == 2<<30},
		{"storage.tsdb.out-of-order-time-window", time.Duration(c.Storage.OutOfOrderWindow) == 5*time.Hour},
		{"storage.tsdb.delayed-compaction.max-percent", c.Storage.CompactionDelay == 7},
		{"storage.tsdb.wal-compression", c.Storage.WALCompression},
		{"storage.wal-sync", c.Storage.WALSync == "interval"},
		{"web.max-connections", c.Web.MaxConnections == 4},
		{"storage.max-series", c.Storage.MaxSeries == 12},
		{"auto-gomemlimit", !cl.autoMemLimit},
		{"auto-gomemlimit.ratio", cl.memLimitRatio == 0.5},
		{"cluster.name", c.Cluster.Name == "n"},
		{"cluster.gossip-address", c.Cluster.GossipAddress == "127.0.0.1:2"},
		{"cluster.rpc-address", c.Cluster.RPCAddress == "127.0.0.1:3"},
		{"cluster.advertise-host", c.Cluster.AdvertiseHost == "h"},
		{"cluster.join", slices.Equal(c.Cluster.Join, []string{"a:1", "b", "c:2"})},
		{"cluster.bootstrap-expect", c.Cluster.BootstrapExpect == 3},
		{"cluster.replication-factor", c.Cluster.ReplicationFactor == 2},
		{"cluster.zone", c.Cluster.Zone == "z"},
		{"cluster.allowed-cidrs", slices.Equal(c.Cluster.AllowedCIDRs, []string{"10.0.0.0/8", "fd00::/8"})},
		{"cluster.gossip-keyring-file", c.Cluster.GossipKeyringFile == "g"},
		{"cluster.tls", c.Cluster.TLS == config.ClusterTLS{CertFile: "c", KeyFile: "k", CAFile: "a", ServerName: "s"}},
		{"query.timeout", time.Duration(c.Query.Timeout) == time.Minute},
		{"query.max-samples", c.Query.MaxSamples == 7},
		{"query.max-concurrency", c.Query.MaxConcurrency == 8},
		{"query.lookback-delta", time.Duration(c.Query.LookbackDelta) == 9*time.Minute},
		{"query.verify-pushdown", c.Query.VerifyPushdown == 0.25},
		{"tracing.endpoint", c.Tracing.Endpoint == "http://c:4317"},
		{"tracing.sampling-fraction", c.Tracing.SamplingFraction == 0.5},
		{"enable-feature", slices.Equal(c.Features, []string{"promql-duration-expr", "st-storage"})},
		{"log.level", cl.log.Level.String() == "debug"},
		{"log.format", cl.log.Format.String() == "json"},
	} {
		if !check.ok {
			t.Errorf("--%s did not arrive: %+v", check.flag, c)
		}
	}
}

func TestDefaultsOfTheFlagsAreThoseOfTheConfig(t *testing.T) {
	cl := newCommandLine()
	if _, err := cl.app.Parse(nil); err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	if err := cl.config.Check(); err != nil {
		t.Error(err)
	}
	if cl.config.Storage != want.Storage || cl.config.Web != want.Web || cl.config.Query != want.Query || cl.config.Tracing.SamplingFraction != want.Tracing.SamplingFraction {
		t.Errorf("without flags: %+v, want %+v", cl.config, want)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("STARLING_CLUSTER_JOIN", "a:1\nb:2")
	t.Setenv("STARLING_QUERY_TIMEOUT", "7s")
	cl := newCommandLine()
	if _, err := cl.app.Parse(nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cl.config.Cluster.Join, []string{"a:1", "b:2"}) || time.Duration(cl.config.Query.Timeout) != 7*time.Second {
		t.Errorf("environment variables did not arrive: %+v", cl.config)
	}
}

func TestVariablesOfOpenTelemetry(t *testing.T) {
	got := otelVariables([]string{"HOME=/", "OTEL_EXPORTER_OTLP_HEADERS=a=b", "OTEL_SDK_DISABLED=", "NOT_OTEL_X=1"})
	if want := map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "a=b", "OTEL_SDK_DISABLED": ""}; !maps.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, fraction := range []string{"-1", "1.01", "NaN", "often"} {
		_, err := newCommandLine().app.Parse([]string{"--tracing.sampling-fraction=" + fraction})
		if err == nil || !strings.Contains(err.Error(), "tracing.sampling-fraction") || !strings.Contains(err.Error(), fraction) {
			t.Errorf("%s: %v", fraction, err)
		}
	}
}

// The status page shows what a node was told, not the help of the command line.
func TestValuesAreThoseOfTheNode(t *testing.T) {
	cl := newCommandLine()
	if _, err := cl.app.Parse([]string{"--cluster.zone=z"}); err != nil {
		t.Fatal(err)
	}
	values := cl.values()
	for name, want := range map[string]string{"cluster.zone": "z", "storage.max-series": "auto", "log.level": "info"} {
		if values[name] != want {
			t.Errorf("--%s is %q, want %q", name, values[name], want)
		}
	}
	for name := range values {
		if name == "help" || name == "version" || strings.HasPrefix(name, "help-") || strings.HasPrefix(name, "completion-") {
			t.Errorf("--%s is none of the node's", name)
		}
	}
}

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	cl := newCommandLine()
	if _, err := cl.app.Parse([]string{"--auto-gomemlimit.ratio=0.25"}); err != nil {
		t.Fatal(err)
	}
	if err := cl.limitMemory(slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	quarter := debug.SetMemoryLimit(-1)
	cl.memLimitRatio = 0.5
	if err := cl.limitMemory(slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	half := debug.SetMemoryLimit(-1)
	if quarter == before || half < 2*quarter-2 || half > 2*quarter+2 {
		t.Errorf("limits of %d with a ratio of 0.25 and %d with 0.5; %d before", quarter, half, before)
	}
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"--no-such-flag"}, exitUsage},
		{[]string{"no-such-command"}, exitUsage},
		{[]string{"--query.timeout=soon"}, exitFailure},
		{[]string{"--storage.wal-sync=always"}, exitFailure},
		{[]string{"--auto-gomemlimit.ratio=0"}, exitFailure},
		{[]string{"--auto-gomemlimit.ratio=1.1"}, exitFailure},
		{[]string{"--storage.max-series=-1"}, exitFailure},
		{[]string{"--storage.max-series=many"}, exitFailure},
		{[]string{"--cluster.join=:7946"}, exitFailure},
		{[]string{"--log.level=loud"}, exitFailure},
		{[]string{"--log.format=xml"}, exitFailure},
		{[]string{"import"}, exitUsage},
		{[]string{"import", "--from.blocks=a", "--from.export=http://b"}, exitUsage},
		{[]string{"import", "--from.remote-read=http://a/read"}, exitUsage}, // no --start
		{[]string{"import", "--from.blocks=a", "--start=yesterday"}, exitUsage},
		{[]string{"import", "--from.blocks=a", "--match={"}, exitUsage},
		{[]string{"import", "--from.blocks=/none", "--label=region=east"}, exitFailure},
		{[]string{"health", "--url=http://127.0.0.1:1/", "--timeout=100ms"}, exitFailure},
	} {
		if got := run(c.args); got != c.want {
			t.Errorf("starling %q exits with %d, want %d", c.args, got, c.want)
		}
	}
}

func TestWrongValueNamesTheFlag(t *testing.T) {
	_, err := newCommandLine().app.Parse([]string{"--query.max-samples=many"})
	var flagged *config.Error
	if !errors.As(err, &flagged) || flagged.Flag != "query.max-samples" {
		t.Errorf("Parse: %v, want an error that names --query.max-samples", err)
	}
}
