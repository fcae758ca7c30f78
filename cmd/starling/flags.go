package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"

	"github.com/starling-tsdb/starling/internal/config"
)

// commandLine is what flags and environment variables said.
type commandLine struct {
	app    *kingpin.Application
	config config.Config
	log    promslog.Config

	autoMemLimit  bool
	memLimitRatio float64

	health           *kingpin.CmdClause
	healthURL        string
	healthTimeout    time.Duration
	healthHTTPConfig string

	cluster clusterCommand
	imports importCommand
}

func newCommandLine() *commandLine {
	cl := &commandLine{
		app:    kingpin.New("starling", "A Prometheus-compatible time-series database that runs as a flock of equal nodes."),
		config: config.Default(),
	}
	cl.app.DefaultEnvars()
	cl.app.Version(version.Print("starling"))
	cl.app.HelpFlag.Short('h')
	cl.app.UsageWriter(os.Stderr)
	cl.app.Command("server", "Run a node. This is what starling does without a command.").Default()
	cl.health = cl.app.Command("health", "Ask a node whether it is ready; exit status 0 if it is. For container health checks.")
	cl.health.Flag("url", "What to ask. Default: /-/ready at --web.listen-address on this host, by TLS if --web.config.file turns it on.").
		Envar("STARLING_HEALTH_URL").StringVar(&cl.healthURL)
	cl.health.Flag("timeout", "How long to wait for an answer.").
		Envar("STARLING_HEALTH_TIMEOUT").Default("3s").DurationVar(&cl.healthTimeout)
	cl.health.Flag("http.config.file", "HTTP client configuration file for TLS and passwords, in Prometheus's format.").
		Envar("STARLING_HEALTH_HTTP_CONFIG_FILE").StringVar(&cl.healthHTTPConfig)
	cl.clusterCommands()
	cl.importCommands()
	cl.webFlags(&cl.config.Web)
	cl.storageFlags(&cl.config.Storage)
	cl.clusterFlags(&cl.config.Cluster)
	cl.queryFlags(&cl.config.Query)
	cl.tracingFlags(&cl.config.Tracing)
	cl.app.Flag("enable-feature", "Prometheus's experimental features, comma-separated or repeated: "+strings.Join(config.Features(), ", ")+".").
		SetValue(&listValue{dst: &cl.config.Features})
	cl.memoryFlags()
	cl.logFlags()
	return cl
}

func (cl *commandLine) logFlags() {
	cl.log.Level, cl.log.Format = promslog.NewLevel(), promslog.NewFormat()
	cl.value(promslogflag.LevelFlagName, promslogflag.LevelFlagHelp, "info", cl.log.Level.Set)
	cl.value(promslogflag.FormatFlagName, promslogflag.FormatFlagHelp, "logfmt", cl.log.Format.Set)
}

func (cl *commandLine) webFlags(c *config.Web) {
	f := cl.app.Flag
	f("web.listen-address", "Address of the HTTP API.").Default(c.ListenAddress).StringVar(&c.ListenAddress)
	cl.value("web.max-connections", "Connections to the HTTP API at one time; more wait to be accepted.",
		strconv.Itoa(c.MaxConnections), parsed(&c.MaxConnections, strconv.Atoi))
	f("web.config.file", "File with TLS and authentication settings of the HTTP API, in Prometheus's format.").StringVar(&c.ConfigFile)
}

func (cl *commandLine) storageFlags(c *config.Storage) {
	f := cl.app.Flag
	f("storage.tsdb.path", "Directory of everything that this node keeps.").Default(c.Path).StringVar(&c.Path)
	cl.value("storage.tsdb.retention.time", "How long samples are kept, e.g. 15d; 0 leaves it to the size.",
		c.RetentionTime.String(), duration(&c.RetentionTime))
	cl.value("storage.tsdb.retention.size", "Bytes of blocks that are kept, e.g. 512MB; 0 is no limit.",
		"0B", parsed(&c.RetentionSize, units.ParseBase2Bytes))
	cl.value("storage.tsdb.out-of-order-time-window", "How far behind the newest sample of this node a sample may be.",
		c.OutOfOrderWindow.String(), duration(&c.OutOfOrderWindow))
	cl.value("storage.tsdb.delayed-compaction.max-percent", "How long a block that is due may be put off, in percent of its duration. Each node takes a random part of that when it starts, so that not all copies are compacted at once.",
		strconv.Itoa(c.CompactionDelay), parsed(&c.CompactionDelay, strconv.Atoi))
	f("storage.tsdb.wal-compression", "Compress the log: a quarter less to write, for some six percent more CPU time.").
		Default(strconv.FormatBool(c.WALCompression)).BoolVar(&c.WALCompression)
	f("storage.wal-sync", "When writes reach stable storage: commit (before they are confirmed), interval (once a second) or off.").
		Default(c.WALSync).StringVar(&c.WALSync)
	cl.value("storage.max-series", "Series that this node has in memory before it refuses new ones; auto is one for each 4 KiB of GOMEMLIMIT, 0 no limit.",
		"auto", parsed(&c.MaxSeries, parseMaxSeries))
}

func parseMaxSeries(s string) (int, error) {
	if s == "auto" {
		return config.AutoSeries, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, errors.New("takes a number or auto")
	}
	return n, nil
}

func (cl *commandLine) memoryFlags() {
	cl.app.Flag("auto-gomemlimit", "Automatically set GOMEMLIMIT to match Linux container or system memory limit.").
		Default("true").BoolVar(&cl.autoMemLimit)
	cl.value("auto-gomemlimit.ratio", "The ratio of reserved GOMEMLIMIT memory to the detected maximum container or system memory.",
		"0.9", parsed(&cl.memLimitRatio, parseRatio))
}

func parseFloat(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

func parseRatio(s string) (float64, error) {
	r, err := strconv.ParseFloat(s, 64)
	if err != nil || !(r > 0 && r <= 1) {
		return 0, errors.New("must be greater than 0 and less than or equal to 1")
	}
	return r, nil
}

func (cl *commandLine) clusterFlags(c *config.Cluster) {
	f := cl.app.Flag
	f("cluster.name", "Name of the cluster. Nodes of clusters with other names are refused.").Default(c.Name).StringVar(&c.Name)
	f("cluster.gossip-address", "Address for gossip, TCP and UDP.").Default(c.GossipAddress).StringVar(&c.GossipAddress)
	f("cluster.rpc-address", "Address for requests of other nodes.").Default(c.RPCAddress).StringVar(&c.RPCAddress)
	f("cluster.advertise-host", "Host under which other nodes reach this one. Default: the bound or a private address.").StringVar(&c.AdvertiseHost)
	f("cluster.join", "Gossip address of nodes to find, host or host:port, by name or number. Repeatable; the same list on every node will do.").
		SetValue(&listValue{dst: &c.Join})
	cl.value("cluster.bootstrap-expect", "Found a new cluster when this many fresh nodes have found each other.",
		strconv.Itoa(c.BootstrapExpect), parsed(&c.BootstrapExpect, strconv.Atoi))
	cl.value("cluster.replication-factor", "Copies of each series. Counts when a cluster is founded.",
		strconv.Itoa(c.ReplicationFactor), parsed(&c.ReplicationFactor, strconv.Atoi))
	cl.value("cluster.transfer-rate", "Bytes a second that this node gives to others that missed writes or take over copies, e.g. 64MB.",
		c.TransferRate.String(), parsed(&c.TransferRate, units.ParseBase2Bytes))
	f("cluster.tls.cert-file", "Certificate of this node, in PEM, for mutual TLS between nodes. Read again when it changes.").StringVar(&c.TLS.CertFile)
	f("cluster.tls.key-file", "Key of that certificate.").StringVar(&c.TLS.KeyFile)
	f("cluster.tls.ca-file", "Certificates of the authorities whose nodes are peers.").StringVar(&c.TLS.CAFile)
	f("cluster.tls.server-name", "Name that the certificate of every node has to carry. Default: the address of the node that is dialled.").StringVar(&c.TLS.ServerName)
	f("cluster.gossip-keyring-file", "File with the keys that encrypt gossip: a JSON list of base64 texts of 16, 24 or 32 bytes, the one to use first.").StringVar(&c.GossipKeyringFile)
	f("cluster.allowed-cidrs", "Networks that other nodes may be in, like 10.0.0.0/8; repeatable or with commas. Default: any.").SetValue(&listValue{dst: &c.AllowedCIDRs})
	f("cluster.zone", "Failure domain of this node; copies are spread over zones.").StringVar(&c.Zone)
}

func (cl *commandLine) queryFlags(c *config.Query) {
	cl.value("query.timeout", "How long a query may take.", c.Timeout.String(), duration(&c.Timeout))
	cl.value("query.max-samples", "Samples that one query may hold in memory.", strconv.Itoa(c.MaxSamples), parsed(&c.MaxSamples, strconv.Atoi))
	cl.value("query.max-concurrency", "Queries that run at the same time; more wait.", strconv.Itoa(c.MaxConcurrency), parsed(&c.MaxConcurrency, strconv.Atoi))
	cl.value("query.lookback-delta", "How far back an instant looks for a sample.", c.LookbackDelta.String(), duration(&c.LookbackDelta))
	cl.value("query.verify-pushdown", "Share of the queries evaluated in parts by the owners of their series that are evaluated as a whole, too, to compare; 0 to 1.",
		strconv.FormatFloat(c.VerifyPushdown, 'g', -1, 64), parsed(&c.VerifyPushdown, parseFloat))
}

func (cl *commandLine) tracingFlags(c *config.Tracing) {
	cl.app.Flag("tracing.endpoint", "URL of a collector that takes traces by OTLP, e.g. http://collector:4317; gRPC is spoken at port 4317, HTTP elsewhere. Default: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT; without one nothing is traced.").
		StringVar(&c.Endpoint)
	cl.value("tracing.sampling-fraction", "Share of the requests that are traced, 0 to 1, where the sender has not decided; auto is as OTEL_TRACES_SAMPLER says, or 0.01.",
		"auto", parsed(&c.SamplingFraction, parseFraction))
}

func parseFraction(s string) (float64, error) {
	if s == "auto" {
		return config.AutoFraction, nil
	}
	f, err := parseFloat(s)
	if err != nil || !(f >= 0 && f <= 1) {
		return 0, errors.New("takes a number from 0 to 1, or auto")
	}
	return f, nil
}

// otelVariables returns what the environment says to OpenTelemetry, by name.
func otelVariables(environ []string) map[string]string {
	variables := map[string]string{}
	for _, v := range environ {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, config.VariablePrefix) {
			variables[name] = value
		}
	}
	return variables
}

// values returns what every flag is set to, as /api/v1/status/flags shows it.
func (cl *commandLine) values() map[string]string {
	m := map[string]string{}
	for _, f := range cl.app.Model().Flags {
		if f.Name != "help" && f.Name != "version" && !f.Hidden {
			m[f.Name] = f.Value.String()
		}
	}
	return m
}

// value adds a flag whose error messages carry its name.
func (cl *commandLine) value(name, help, fallback string, set func(string) error) {
	cl.app.Flag(name, help).Default(fallback).SetValue(&flagValue{name: name, set: set})
}

func duration(dst *model.Duration) func(string) error {
	return parsed(dst, model.ParseDuration)
}

func parsed[T any](dst *T, parse func(string) (T, error)) func(string) error {
	return func(s string) (err error) {
		*dst, err = parse(s)
		return err
	}
}

type flagValue struct {
	name string
	text string
	set  func(string) error
}

// Set implements kingpin.Value.
func (v *flagValue) Set(s string) error {
	v.text = s
	if err := v.set(s); err != nil {
		return config.Flagged(v.name, fmt.Errorf("%q: %w", s, err))
	}
	return nil
}

// String implements kingpin.Value.
func (v *flagValue) String() string { return v.text }

// listValue takes a flag several times, or once with commas.
type listValue struct{ dst *[]string }

// Set implements kingpin.Value.
func (v *listValue) Set(s string) error {
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == '\n' }) {
		*v.dst = append(*v.dst, strings.TrimSpace(part))
	}
	return nil
}

// String implements kingpin.Value.
func (v *listValue) String() string { return strings.Join(*v.dst, ",") }

// IsCumulative tells kingpin that the flag is repeatable.
func (v *listValue) IsCumulative() bool { return true }
