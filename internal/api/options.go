package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/features"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/starling-tsdb/starling/internal/tracing"
)

// Metadata answers what metrics mean, from the whole cluster.
type Metadata interface {
	// Metadata returns the metadata of each metric family, of metric alone unless it is
	// empty. A negative limit means any number of families, a limitPerMetric below one
	// any number of entries for each. It is called concurrently.
	Metadata(ctx context.Context, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, annotations.Annotations, error)
}

// Stats counts series and labels over the whole cluster.
type Stats interface {
	// Stats returns the cardinality statistics of the recent data: the limit greatest
	// entries of each list, the series counted by the values of label. It is called
	// concurrently.
	Stats(ctx context.Context, label string, limit int) (*tsdb.Stats, error)
}

// Options configure an API. Every field that is not called optional has to be set.
type Options struct {
	// Sources answer the reads.
	Sources Sources
	// Writes serve the write paths.
	Writes *WriteHandlers
	// Info says what the status pages show.
	Info Info
	// Page builds what is shown at / and /graph, with what is below /assets/ and /favicon.ico.
	// It asks the handler, which serves the other paths, as any client.
	Page func(paths http.Handler) http.Handler
	// Admin changes the cluster.
	Admin Admin
	// Recoverer leads it out of the loss of a majority.
	Recoverer Recoverer
	// Repairer has the nodes compare what they hold.
	Repairer Repairer
	// Keyrings change the keys of gossip.
	Keyrings Keyrings
	// Limits bound the reads; zero fields take their default.
	Limits Limits
	// Serving returns nil if the node can take part in reads and writes, and otherwise why
	// not. It is called with every request, so it must be quick.
	Serving func() error
	// Ready returns nil if the node is a good place to send requests to, and otherwise why
	// not. It is what /-/ready says.
	Ready func() error
	// Gatherer is what /metrics shows. Optional.
	Gatherer prometheus.Gatherer
	// Registerer takes the metrics of the API itself. Optional.
	Registerer prometheus.Registerer
	// Logger is optional.
	Logger *slog.Logger
	// Tracer begins the spans of requests. Optional: none are recorded.
	Tracer *tracing.Tracer
	// Now is the clock of federation and of the status pages. Optional: time.Now.
	Now func() time.Time
}

// Sources are where the answers to reads come from. All see the whole cluster; an error
// of theirs that implements [Unavailable] becomes status 503.
type Sources struct {
	// Engine evaluates PromQL over Queryable.
	Engine *Engine
	// Parser parses selectors and expressions as Engine does; see [NewParser]. Optional.
	Parser    parser.Parser
	Queryable storage.SampleAndChunkQueryable
	Exemplars storage.ExemplarQueryable
	Metadata  Metadata
	Stats     Stats
}

// Info is what a node tells about itself.
type Info struct {
	Cluster Cluster
	// NodeName says how a node is called, from what this one knows. Optional: by its ID alone.
	NodeName func(id string) NodeName
	// BlockMetas lists the blocks of this node. Optional: none are shown.
	BlockMetas func() ([]tsdb.BlockMeta, error)
	// WALReplay tells how far this node's replay of its log is. Optional: the replay is
	// over whenever the API serves.
	WALReplay func() tsdb.WALReplayStatus
	// Flags are the effective values of the command line, by flag name. Optional.
	Flags map[string]string
	// Version names the build.
	Version v1.PrometheusVersion
	// Retention describes how long samples are kept: "15d or 100GiB".
	Retention string
	// Features collects what is switched on, for clients that ask. Optional.
	Features features.Collector
}

// Limits bound what reads may cost this node.
type Limits struct {
	// QueryTimeout ends any read, the wait for its turn included. Default 2 minutes.
	QueryTimeout time.Duration
	// MaxConcurrent is the number of reads other than PromQL queries and remote reads
	// that run at once: series, labels, exemplars, metadata, statistics, federation.
	// PromQL queries are bounded by the engine, see [NewEngine]. Default 20.
	MaxConcurrent int
	// LookbackDelta is how far back federation looks for the last sample of a series.
	// Default 5 minutes.
	LookbackDelta time.Duration
	// RemoteReadSamples is the greatest number of samples in one remote read answer
	// that is not streamed. Default 50 million.
	RemoteReadSamples int
	// RemoteReadConcurrent is the number of remote reads that run at once. Default 10.
	RemoteReadConcurrent int
	// RemoteReadFrameBytes is the size of a frame of a streamed remote read, before a
	// chunk is split off. Default 1 MiB.
	RemoteReadFrameBytes int
}

// DefaultLimits are those of a Prometheus without flags.
func DefaultLimits() Limits {
	return Limits{
		QueryTimeout:         2 * time.Minute,
		MaxConcurrent:        20,
		LookbackDelta:        5 * time.Minute,
		RemoteReadSamples:    50_000_000,
		RemoteReadConcurrent: 10,
		RemoteReadFrameBytes: 1 << 20,
	}
}

// fill puts defaults into the zero fields and checks the others.
func (l *Limits) fill() error {
	d := DefaultLimits()
	if err := errors.Join(
		fillLimit("--query.timeout", &l.QueryTimeout, d.QueryTimeout),
		fillLimit("--query.max-concurrency", &l.MaxConcurrent, d.MaxConcurrent),
		fillLimit("--query.lookback-delta", &l.LookbackDelta, d.LookbackDelta),
		fillLimit("--storage.remote.read-sample-limit", &l.RemoteReadSamples, d.RemoteReadSamples),
		fillLimit("--storage.remote.read-concurrent-limit", &l.RemoteReadConcurrent, d.RemoteReadConcurrent),
		fillLimit("--storage.remote.read-max-bytes-in-frame", &l.RemoteReadFrameBytes, d.RemoteReadFrameBytes),
	); err != nil {
		return fmt.Errorf("read limits: %w", err)
	}
	return nil
}

func fillLimit[T int | time.Duration](flag string, v *T, def T) error {
	switch {
	case *v == 0:
		*v = def
	case *v < 0:
		return fmt.Errorf("%s is %v: it has to be greater than zero", flag, *v)
	}
	return nil
}

// fill checks what is required and puts defaults into the rest.
func (o *Options) fill() error {
	for _, required := range []struct {
		name string
		set  bool
	}{
		{"Sources.Engine", o.Sources.Engine != nil},
		{"Sources.Queryable", o.Sources.Queryable != nil},
		{"Sources.Exemplars", o.Sources.Exemplars != nil},
		{"Sources.Metadata", o.Sources.Metadata != nil},
		{"Sources.Stats", o.Sources.Stats != nil},
		{"Writes", o.Writes != nil},
		{"Info.Cluster", o.Info.Cluster != nil},
		{"Page", o.Page != nil},
		{"Admin", o.Admin != nil},
		{"Recoverer", o.Recoverer != nil},
		{"Repairer", o.Repairer != nil},
		{"Keyrings", o.Keyrings != nil},
		{"Serving", o.Serving != nil},
		{"Ready", o.Ready != nil},
	} {
		if !required.set {
			return fmt.Errorf("api options: %s is missing", required.name)
		}
	}
	if err := o.Limits.fill(); err != nil {
		return err
	}
	if o.Sources.Parser == nil {
		o.Sources.Parser = NewParser(parser.Options{ExperimentalDurationExpr: true})
	}
	if o.Info.NodeName == nil {
		o.Info.NodeName = func(string) NodeName { return NodeName{} }
	}
	if o.Info.BlockMetas == nil {
		o.Info.BlockMetas = func() ([]tsdb.BlockMeta, error) { return []tsdb.BlockMeta{}, nil }
	}
	if o.Info.WALReplay == nil {
		o.Info.WALReplay = func() tsdb.WALReplayStatus { return tsdb.WALReplayStatus{} }
	}
	if o.Info.Flags == nil {
		o.Info.Flags = map[string]string{}
	}
	if o.Info.Features == nil {
		o.Info.Features = features.NewRegistry()
	}
	if o.Gatherer == nil {
		o.Gatherer = prometheus.NewRegistry()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}
