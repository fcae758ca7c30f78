package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

const apiPrefix = "/api/v1"

// prometheusRouter registers Prometheus's own handlers, without the prefix of the API.
func (a *API) prometheusRouter() *route.Router {
	o := &a.opts
	registerFeatures(o.Info.Features)
	absent := nothing{}
	api := v1.NewAPI(
		clusterEngine{o.Sources.Engine, o.Sources.Queryable},
		a.reads,
		nil, nil, // Writes have handlers of their own.
		readExemplars{o.Sources.Exemplars},
		func(context.Context) v1.ScrapePoolsRetriever { return absent },
		func(context.Context) v1.TargetRetriever { return absent },
		func(context.Context) v1.AlertmanagerRetriever { return absent },
		func() config.Config { return config.DefaultConfig },
		o.Info.Flags,
		v1.GlobalURLOptions{},
		a.whenServing,
		localStats{&o.Info},
		"",    // No directory: snapshots need the admin API.
		false, // The admin API would reach one node only.
		false, // The search API needs a searcher over the cluster.
		0,
		a.logger,
		func(context.Context) v1.RulesRetriever { return absent },
		o.Limits.RemoteReadSamples,
		o.Limits.RemoteReadConcurrent,
		o.Limits.RemoteReadFrameBytes,
		false,
		anyOrigin(),
		a.runtimeInfo,
		&o.Info.Version,
		func() []notifications.Notification { return []notifications.Notification{} },
		func() (<-chan notifications.Notification, func(), bool) { return nil, nil, false },
		o.Gatherer,
		o.Registerer,
		a.renderStats,
		false, remoteapi.MessageTypes{}, // Remote write.
		false, false, false, // OTLP.
		false,
		o.Limits.LookbackDelta,
		false,
		false,
		overrideStatus,
		o.Info.Features,
		v1.OpenAPIOptions{Version: o.Info.Version.Version},
		o.Sources.Parser,
	)
	router := route.New().WithInstrumentation(a.instrumented)
	api.Register(router)
	return router
}

// instrumented wraps each of Prometheus's handlers as its pattern demands.
func (a *API) instrumented(pattern string, next http.HandlerFunc) http.HandlerFunc {
	switch pattern {
	case "/query", "/query_range":
		next = a.read(readPath{form: true}, withStats(next))
	case "/query_exemplars", "/labels", "/label/:name/values", "/series":
		next = a.read(readPath{turns: a.readTurns, form: true}, next)
	case "/read":
		next = a.read(readPath{turns: a.remoteReadTurns, text: true}, a.boundedRemoteRead(next))
	}
	return named(apiPrefix+pattern, next)
}

// overrideStatus gives errors that say nothing about the request their status. The
// types of the first parameter are not exported, but their numbers are not needed.
func overrideStatus[N any](_ N, err error) (int, bool) {
	status, _, ok := retryable(err)
	return status, ok
}

// registerFeatures declares what this API can do, by Prometheus's names, since clients
// ask for features and not for products.
func registerFeatures(c features.Collector) {
	for name, enabled := range map[string]bool{
		"admin":                 false,
		"lifecycle":             false,
		"search":                false,
		"remote_write_receiver": true,
		"otlp_write_receiver":   true,
		"label_values_match":    true,
		"query_warnings":        true,
		"query_stats":           true,
		"time_range_series":     true,
		"time_range_labels":     true,
		"openapi_3.1":           true,
		"openapi_3.2":           true,
	} {
		c.Set(features.API, name, enabled)
	}
}

// runtimeInfo describes this process.
func (a *API) runtimeInfo() (v1.RuntimeInfo, error) {
	info := v1.RuntimeInfo{
		StartTime:           a.start,
		ServerTime:          a.opts.Now().UTC(),
		ReloadConfigSuccess: true,
		LastConfigTime:      a.start,
		GoroutineCount:      runtime.NumGoroutine(),
		GOMAXPROCS:          runtime.GOMAXPROCS(0),
		GOMEMLIMIT:          debug.SetMemoryLimit(-1),
		GOGC:                os.Getenv("GOGC"),
		GODEBUG:             os.Getenv("GODEBUG"),
		StorageRetention:    a.opts.Info.Retention,
	}
	var err error
	if info.CWD, err = os.Getwd(); err != nil {
		return info, fmt.Errorf("reading the working directory: %w", err)
	}
	if info.Hostname, err = os.Hostname(); err != nil {
		return info, fmt.Errorf("reading the host name: %w", err)
	}
	corruptions, err := a.gauge("prometheus_tsdb_wal_corruptions_total")
	if err != nil {
		return info, err
	}
	info.CorruptionCount = int64(corruptions)
	return info, nil
}

// gauge sums what this node's metric name shows, 0 if there is none.
func (a *API) gauge(name string) (float64, error) {
	families, err := a.opts.Gatherer.Gather()
	if err != nil {
		return 0, fmt.Errorf("gathering metrics: %w", err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum, nil
}

// nothing stands for all that Starling has no part of: it does not scrape and evaluates
// no rules. Its answers are those of a Prometheus without a configuration.
type nothing struct{}

func (nothing) ScrapePools() []string                       { return []string{} }
func (nothing) TargetsActive() map[string][]*scrape.Target  { return nil }
func (nothing) TargetsDropped() map[string][]*scrape.Target { return nil }
func (nothing) TargetsDroppedCounts() map[string]int        { return map[string]int{} }
func (nothing) Alertmanagers() []*url.URL                   { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL            { return nil }
func (nothing) RuleGroups() []*rules.Group                  { return nil }
func (nothing) AlertingRules() []*rules.AlertingRule        { return nil }

func (nothing) ScrapePoolConfig(pool string) (*config.ScrapeConfig, error) {
	return nil, fmt.Errorf("scrape pool %q not found", pool)
}

// errAdminAPI is for handlers that Prometheus's API does not call while its admin API
// is disabled.
var errAdminAPI = errors.New("admin APIs disabled")

// localStats answers what Prometheus's status pages ask a database for. The cluster's
// statistics have a handler of their own, because these carry no context.
type localStats struct{ info *Info }

func (s localStats) BlockMetas() ([]tsdb.BlockMeta, error)          { return s.info.BlockMetas() }
func (s localStats) WALReplayStatus() (tsdb.WALReplayStatus, error) { return s.info.WALReplay(), nil }
func (localStats) Stats(string, int) (*tsdb.Stats, error)           { return nil, errors.ErrUnsupported }
func (localStats) CleanTombstones() error                           { return errAdminAPI }
func (localStats) Snapshot(string, bool) error                      { return errAdminAPI }
func (localStats) Delete(context.Context, int64, int64, ...*labels.Matcher) error {
	return errAdminAPI
}
