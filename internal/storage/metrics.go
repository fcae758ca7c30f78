package storage

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-tsdb/starling/internal/series"
)

// metrics are the store's own; the TSDB's prometheus_tsdb_* stand beside them.
type metrics struct {
	syncDuration    prometheus.Histogram
	syncs           prometheus.Counter
	fenced          prometheus.Gauge
	floats          prometheus.Counter
	histograms      prometheus.Counter
	exemplars       prometheus.Counter
	invalid         prometheus.Counter
	conflict        prometheus.Counter
	metadataDropped prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	appended := f.NewCounterVec(prometheus.CounterOpts{
		Name: "starling_storage_appended_total",
		Help: "Items this node confirmed as stored, duplicates included.",
	}, []string{"type"})
	refused := f.NewCounterVec(prometheus.CounterOpts{
		Name: "starling_storage_refusals_total",
		Help: "Samples and exemplars this node's storage did not take.",
	}, []string{"reason"})
	return &metrics{
		syncDuration: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "starling_storage_wal_sync_duration_seconds",
			Help:    "Time of one sync round, which confirms all appends that wait for it.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12),
		}),
		syncs: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_wal_syncs_total",
			Help: "Files and directories of the write-ahead logs that were synced.",
		}),
		fenced: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_storage_fenced",
			Help: "1 if the storage refuses writes since a write or sync failed, until the process restarts.",
		}),
		floats:     appended.WithLabelValues("float"),
		histograms: appended.WithLabelValues("histogram"),
		exemplars:  appended.WithLabelValues("exemplar"),
		invalid:    refused.WithLabelValues("invalid"),
		conflict:   refused.WithLabelValues("conflict"),
		metadataDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_metadata_dropped_total",
			Help: "Metadata entries that were not kept because the metadata store is full.",
		}),
	}
}

func (m *metrics) observe(c counts, refusals []series.Refusal) {
	m.floats.Add(float64(c.floats))
	m.histograms.Add(float64(c.histograms))
	m.exemplars.Add(float64(c.exemplars))
	for i := range refusals {
		if refusals[i].Reason == series.Conflict {
			m.conflict.Inc()
		} else {
			m.invalid.Inc()
		}
	}
}
