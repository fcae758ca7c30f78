package node

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/common/version"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/door"
	"github.com/starling-tsdb/starling/internal/handles"
	"github.com/starling-tsdb/starling/internal/page"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/receive"
	"github.com/starling-tsdb/starling/internal/tracing/otlp"
)

// openFrontend builds the query engine, the decoders and the HTTP API.
func (n *Node) openFrontend(built *teardown) error {
	c := &n.opts.Config
	has := func(feature string) bool { return slices.Contains(c.Features, feature) }
	promqlFeatures := api.ParsePromQLFeatures(c.Features)
	registry := features.NewRegistry()
	var err error
	n.engine, err = api.NewEngine(api.EngineOptions{
		Parser:        n.promql.Parser,
		Features:      promqlFeatures,
		Evaluator:     n.reads,
		MaxSamples:    c.Query.MaxSamples,
		Timeout:       time.Duration(c.Query.Timeout),
		LookbackDelta: time.Duration(c.Query.LookbackDelta),
		MaxConcurrent: c.Query.MaxConcurrency,
		VerifyShare:   c.Query.VerifyPushdown,
		Registry:      registry,
		Registerer:    n.registry,
		Logger:        n.logger,
	})
	if err != nil {
		return err
	}
	built.add("query engine", func() error { n.engine.Close(); return nil })
	writes := api.NewWriteHandlers(api.WriteOptions{
		Writer: n.writes,
		Decoder: receive.New(receive.Options{
			TypeAndUnitLabels: has("type-and-unit-labels"),
			OTLP:              promconfig.DefaultOTLPConfig,
			NativeDelta:       has("otlp-native-delta-ingestion"),
			Handles: handles.New(handles.Options{
				MaxBytes:   cmp.Or(n.opts.HandleBytes, handleBytes(debug.SetMemoryLimit(-1))),
				Key:        keyOf,
				Interner:   n.interner,
				Registerer: n.registry,
			}),
			LookbackDelta: time.Duration(c.Query.LookbackDelta),
		}),
		MaxInflightBytes: writeBytes(debug.SetMemoryLimit(-1)),
		Logger:           n.logger,
		Registerer:       n.registry,
	})
	n.frontend, err = api.New(api.Options{
		Sources: api.Sources{
			Engine: n.engine, Parser: n.promql.Parser, Queryable: n.reads, Exemplars: n.reads, Metadata: n.reads, Stats: clusterStats{n.reads},
		},
		Writes: writes,
		Info: api.Info{
			Cluster:    status{n},
			NodeName:   n.nodeName,
			BlockMetas: n.store.BlockMetas,
			Flags:      n.opts.Flags,
			Version:    prometheusVersion(),
			Retention:  n.retention(),
			Features:   registry,
		},
		Page:  n.page,
		Admin: admin{n}, Recoverer: recoverer{n}, Repairer: repairer{n}, Keyrings: keyrings{n},
		Limits: api.Limits{
			QueryTimeout:      time.Duration(c.Query.Timeout),
			MaxConcurrent:     c.Query.MaxConcurrency,
			LookbackDelta:     time.Duration(c.Query.LookbackDelta),
			RemoteReadSamples: c.Query.MaxSamples,
		},
		Serving:    n.serving,
		Ready:      n.ready,
		Gatherer:   n.registry,
		Registerer: n.registry,
		Logger:     n.logger,
		Tracer:     n.traces.Tracer(),
	})
	return err
}

// page is what a browser shows, which asks the other paths of this node for what a query gives.
func (n *Node) page(paths http.Handler) http.Handler {
	return page.New(page.Options{Cluster: status{n}, API: paths, Version: buildVersion(), Logger: n.logger})
}

// openDoor puts before the API what keeps people out.
func (n *Node) openDoor(*teardown) (err error) {
	if n.door, err = door.New(n.opts.Config.Web.ConfigFile, n.frontend.Handler(), n.logger); err != nil {
		return config.Flagged("web.config.file", err)
	}
	return nil
}

// openTraces has the spans of this node's requests sent to a collector, if there is one.
func (n *Node) openTraces(built *teardown) error {
	c := &n.opts.Config.Tracing
	var err error
	n.traces, err = otlp.Open(otlp.Options{
		On: c.Enabled() || n.opts.Spans != nil, Endpoint: c.Endpoint, GRPC: c.GRPC(), Fraction: c.Fraction(),
		Node: string(n.cluster.Self()), Version: buildVersion(), Spans: n.opts.Spans,
		Logger: n.logger, Registerer: n.registry,
	})
	if err != nil {
		return config.Flagged("tracing.endpoint", err)
	}
	built.add("traces", n.traces.Close)
	return nil
}

// writeBytes is what all write requests together may hold of a node's memory: a quarter,
// as the garbage that they leave takes about as much again.
func writeBytes(memory int64) int64 { return max(32<<20, min(512<<20, memory/4)) }

// handleBytes is what the series that senders named lately may take of a node's memory: an
// eighth, and without a limit as much as eight million series take.
func handleBytes(memory int64) int64 { return max(16<<20, min(4<<30, memory/8)) }

// clusterStats leaves the warnings to partial.Note: the handler of Prometheus has no
// place for them.
type clusterStats struct{ reads *query.Fanout }

// Stats implements api.Stats.
func (s clusterStats) Stats(ctx context.Context, label string, limit int) (*tsdb.Stats, error) {
	stats, _, err := s.reads.Stats(ctx, label, limit)
	return stats, err
}

func (n *Node) retention() string {
	c := &n.opts.Config.Storage
	switch {
	case c.RetentionSize == 0:
		return c.RetentionTime.String()
	case c.RetentionTime == 0:
		return c.RetentionSize.String()
	default:
		return fmt.Sprintf("%s or %s", c.RetentionTime, c.RetentionSize)
	}
}

func buildVersion() string {
	if version.Version == "" {
		return "devel"
	}
	return version.Version
}

func prometheusVersion() v1.PrometheusVersion {
	return v1.PrometheusVersion{
		Version:   buildVersion(),
		Revision:  version.GetRevision(),
		Branch:    version.Branch,
		BuildUser: version.BuildUser,
		BuildDate: version.BuildDate,
		GoVersion: runtime.Version(),
	}
}
