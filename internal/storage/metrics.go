package storage

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/series"
)

// metrics are the store's own; the TSDB's prometheus_tsdb_* stand beside them.
type metrics struct {
	syncDuration    prometheus.Histogram
	syncs           prometheus.Counter
	fenced          *prometheus.GaugeVec
	reopened        prometheus.Counter
	floats          prometheus.Counter
	histograms      prometheus.Counter
	exemplars       prometheus.Counter
	invalid         prometheus.Counter
	conflict        prometheus.Counter
	limit           prometheus.Counter
	maxSeries       prometheus.Gauge
	metadataDropped prometheus.Counter
	disk            diskMetrics
	blockMetrics
}

// diskMetrics are of the file system that the store lies on.
type diskMetrics struct{ free, size, reserve prometheus.Gauge }

func newDiskMetrics(f promauto.Factory) diskMetrics {
	return diskMetrics{
		free: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_storage_disk_free_bytes",
			Help: "Free space of the file system of --storage.tsdb.path, as users without privileges see it; 0 if it does not tell.",
		}),
		size: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_storage_disk_size_bytes",
			Help: "Size of the file system of --storage.tsdb.path; 0 if it does not tell.",
		}),
		reserve: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_storage_disk_reserve_bytes",
			Help: "Free space below which appends are refused.",
		}),
	}
}

func (m *diskMetrics) show(u usage) {
	m.free.Set(float64(u.free))
	m.size.Set(float64(u.total))
	m.reserve.Set(float64(u.reserve()))
}

// blockMetrics are those of the blocks that the store writes itself.
type blockMetrics struct {
	importedBlocks  prometheus.Counter
	importedBytes   prometheus.Counter
	importedSamples prometheus.Counter
	pruneBlocks     *prometheus.CounterVec
	prunedSeries    prometheus.Counter
	prunedBytes     prometheus.Counter
	pruneHeadSeries prometheus.Gauge
}

// The results that the metric of pruned blocks tells apart.
const (
	prunedKept      = "kept"
	prunedRewritten = "rewritten"
	prunedDeleted   = "deleted"
	prunedDamaged   = "damaged"
	prunedFull      = "disk_full"
)

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
	fenced := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "starling_storage_fenced",
		Help: "1 while the storage refuses writes: since a write or sync failed until it has been opened again, or for lack of disk space.",
	}, []string{"reason"})
	for _, reason := range []string{reasonFailure, reasonDiskFull} {
		fenced.WithLabelValues(reason) // 0 is told, too
	}
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
		fenced: fenced,
		reopened: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_reopenings_total",
			Help: "Times the storage was opened again after a failed write or sync.",
		}),
		floats:     appended.WithLabelValues("float"),
		histograms: appended.WithLabelValues("histogram"),
		exemplars:  appended.WithLabelValues("exemplar"),
		invalid:    refused.WithLabelValues("invalid"),
		conflict:   refused.WithLabelValues("conflict"),
		limit:      refused.WithLabelValues("limit"),
		maxSeries: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_storage_max_series",
			Help: "Number of series at which new ones are refused, 0 for none; prometheus_tsdb_head_series are there.",
		}),
		metadataDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_metadata_dropped_total",
			Help: "Metadata entries that were not kept because the metadata store is full.",
		}),
		disk:         newDiskMetrics(f),
		blockMetrics: newBlockMetrics(f),
	}
}

func newBlockMetrics(f promauto.Factory) blockMetrics {
	pruneBlocks := f.NewCounterVec(prometheus.CounterOpts{
		Name: "starling_storage_prune_blocks_total",
		Help: "Blocks looked at for series that this node does not own, by what became of them.",
	}, []string{"result"})
	for _, result := range []string{prunedKept, prunedRewritten, prunedDeleted, prunedDamaged, prunedFull} {
		pruneBlocks.WithLabelValues(result)
	}
	return blockMetrics{
		importedBlocks: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_imported_blocks_total",
			Help: "Blocks written from what other nodes handed over.",
		}),
		importedBytes: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_imported_block_bytes_total",
			Help: "Bytes of the blocks written from what other nodes handed over.",
		}),
		importedSamples: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_imported_block_samples_total",
			Help: "Samples in the blocks written from what other nodes handed over, those included that were there already.",
		}),
		pruneBlocks: pruneBlocks,
		prunedSeries: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_pruned_series_total",
			Help: "Series dropped from blocks because this node does not own them, once for each block.",
		}),
		prunedBytes: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_storage_pruned_bytes_total",
			Help: "Bytes that dropping series from blocks made free.",
		}),
		pruneHeadSeries: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_storage_prune_head_series",
			Help: "Series of the head that this node did not own when blocks were last pruned; they are pruned when they are in blocks.",
		}),
	}
}

// showHorizon registers the gauge of the horizon.
func (m *metrics) showHorizon(r prometheus.Registerer, s *Store) {
	promauto.With(r).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "starling_storage_horizon_timestamp_seconds",
		Help: "Time before which samples are expired, in seconds since 1970; 0 if none are. It never falls, and is to be the same on all nodes.",
	}, func() float64 {
		h := s.Horizon().At()
		if h == expiry.None {
			return 0
		}
		return float64(h) / 1000
	})
}

func (m *metrics) observe(c counts, refusals []series.Refusal) {
	m.floats.Add(float64(c.floats))
	m.histograms.Add(float64(c.histograms))
	m.exemplars.Add(float64(c.exemplars))
	for i := range refusals {
		switch refusals[i].Reason {
		case series.Conflict:
			m.conflict.Inc()
		case series.Limit:
			m.limit.Inc()
		default:
			m.invalid.Inc()
		}
	}
}
