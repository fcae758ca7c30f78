package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/fileutil"
	"github.com/prometheus/prometheus/util/compression"
)

// SyncMode says when the write-ahead logs are synced.
type SyncMode string

const (
	// SyncCommit syncs before an append is confirmed. It is the default.
	SyncCommit SyncMode = "commit"
	// SyncInterval syncs every second, in the background: a power loss takes what was
	// confirmed during the last second or so.
	SyncInterval SyncMode = "interval"
	// SyncOff leaves syncing to the TSDB, which does it when a segment of 128 MiB ends.
	SyncOff SyncMode = "off"
)

const (
	syncInterval = time.Second

	defaultRetention     = 15 * 24 * time.Hour
	defaultBlockDuration = 2 * time.Hour
	defaultMaxExemplars  = 100_000
	defaultMaxFuture     = 10 * time.Minute
	// maxBlockDuration bounds compacted blocks where a tenth of the retention does not.
	maxBlockDuration = 31 * 24 * time.Hour
	// maxRetention keeps the retention in milliseconds far from overflowing.
	maxRetention = 100 * 365 * 24 * time.Hour
)

// Options say how to open a store. Zero values stand for the defaults named here.
type Options struct {
	// Dir is the data directory; it is made if it is missing. Required.
	Dir string
	// Key is what ChunkQuerierOf tells series apart by: the same for the same labels. Required
	// for it; several goroutines call it.
	Key func(labels.Labels) uint64
	// RetentionTime is the age at which samples expire, counted from the newest one that the
	// store holds, or from Now if that is earlier: 15 d if RetentionSize is 0 too, else none.
	// Two MinBlockDuration of samples are kept whatever it says.
	RetentionTime time.Duration
	// RetentionSize is the number of bytes that blocks may take, together with the logs, 0 for
	// no limit. The oldest samples expire, but not the last two MinBlockDuration.
	RetentionSize int64
	// OutOfOrderWindow is how far behind the newest sample of the head a sample may be.
	// Required, and at least half of MinBlockDuration: with less, the TSDB can drop a
	// sample without a word when two appends on one series overlap.
	OutOfOrderWindow time.Duration
	// WALSync defaults to SyncCommit.
	WALSync SyncMode
	// WALCompression has the records of the log be compressed, with snappy.
	WALCompression bool
	// Features are names as Prometheus knows them; see SupportsFeature.
	Features []string
	// MaxSeries is how many series the head may have before new ones are refused, 0 for
	// no limit. Those that are there, after a restart with a lower limit also more of
	// them, go on.
	MaxSeries int
	// MaxExemplars is the number of exemplars kept, of all series together: 100,000.
	MaxExemplars int64
	// MinBlockDuration is the time range of a block cut from the head: 2 h.
	MinBlockDuration time.Duration
	// CompactionDelay is how long a block of the head that is due may be put off, in percent of its
	// duration: for some of that, at random when the store is opened. 0 for not at all.
	CompactionDelay int
	// MaxFuture is how far ahead of Now a sample may be: 10 min.
	MaxFuture time.Duration
	// Now defaults to time.Now.
	Now func() time.Time
	// Logger defaults to none.
	Logger *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// SupportsFeature tells whether a feature of that name changes the store. The features
// delayed-compaction and exemplar-storage are known, but have no more to change.
func SupportsFeature(name string) bool {
	return slices.Contains(featureNames(), name)
}

func featureNames() []string {
	return []string{
		"created-timestamp-zero-ingestion",
		"delayed-compaction",
		"exemplar-storage",
		"histograms-st-encoding",
		"memory-snapshot-on-shutdown",
		"metadata-wal-records",
		"st-storage",
		"use-uncached-io",
		"xor2-encoding",
	}
}

// complete fills in the defaults and checks the options; errors name the flag at fault, or
// the field where there is no flag.
func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("--storage.tsdb.path: a directory is required")
	}
	if o.RetentionTime < 0 || o.RetentionTime > maxRetention {
		return fmt.Errorf("--storage.tsdb.retention.time=%s: must lie between 0 and 100 years", o.RetentionTime)
	}
	if o.RetentionSize < 0 {
		return fmt.Errorf("--storage.tsdb.retention.size=%d: must not be negative", o.RetentionSize)
	}
	if o.RetentionTime == 0 && o.RetentionSize == 0 {
		o.RetentionTime = defaultRetention
	}
	if o.MinBlockDuration == 0 {
		o.MinBlockDuration = defaultBlockDuration
	}
	if o.MinBlockDuration < time.Second {
		return fmt.Errorf("MinBlockDuration=%s: must be at least 1s", o.MinBlockDuration)
	}
	if least := o.MinBlockDuration / 2; o.OutOfOrderWindow < least {
		return fmt.Errorf("--storage.tsdb.out-of-order-time-window=%s: must be at least %s, half the duration of a block, or overlapping writes to a series could lose samples", o.OutOfOrderWindow, least)
	}
	switch o.WALSync {
	case "":
		o.WALSync = SyncCommit
	case SyncCommit, SyncInterval, SyncOff:
	default:
		return fmt.Errorf("--storage.wal-sync=%q: must be %s, %s or %s", string(o.WALSync), SyncCommit, SyncInterval, SyncOff)
	}
	if o.MaxSeries < 0 {
		return fmt.Errorf("--storage.max-series=%d: must not be negative", o.MaxSeries)
	}
	if o.MaxExemplars < 0 {
		return fmt.Errorf("MaxExemplars=%d: must not be negative", o.MaxExemplars)
	}
	if o.MaxExemplars == 0 {
		o.MaxExemplars = defaultMaxExemplars
	}
	if o.CompactionDelay < 0 || o.CompactionDelay > 100 {
		return fmt.Errorf("--storage.tsdb.delayed-compaction.max-percent=%d: must lie between 0 and 100", o.CompactionDelay)
	}
	if o.MaxFuture < 0 {
		return fmt.Errorf("MaxFuture=%s: must not be negative", o.MaxFuture)
	}
	if o.MaxFuture == 0 {
		o.MaxFuture = defaultMaxFuture
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o.checkFeatures()
}

func (o *Options) checkFeatures() error {
	for _, f := range o.Features {
		if !SupportsFeature(f) {
			return fmt.Errorf("--enable-feature=%s: the storage has no such feature, only %v", f, featureNames())
		}
		if f == "use-uncached-io" && !fileutil.UncachedIOSupported() {
			return fmt.Errorf("--enable-feature=%s: not supported by this build or platform", f)
		}
	}
	return nil
}

// tsdbOptions are those of a Prometheus with the same settings.
func (o *Options) tsdbOptions() *tsdb.Options {
	t := tsdb.DefaultOptions()
	t.RetentionDuration = o.RetentionTime.Milliseconds()
	t.OutOfOrderTimeWindow = math.MaxInt64 / 4 // the store judges ages itself
	t.MinBlockDuration = o.MinBlockDuration.Milliseconds()
	t.MaxBlockDuration = maxBlockDuration.Milliseconds()
	if o.RetentionTime > 0 {
		t.MaxBlockDuration = min(t.MaxBlockDuration, (o.RetentionTime / 10).Milliseconds())
	}
	t.WALCompression = compression.None
	if o.WALCompression {
		t.WALCompression = compression.Snappy
	}
	t.EnableDelayedCompaction, t.CompactionDelayMaxPercent = o.CompactionDelay > 0, o.CompactionDelay
	t.HeadChunksWriteQueueSize = 0
	t.EnableExemplarStorage = true
	t.MaxExemplars = o.MaxExemplars
	for _, f := range o.Features {
		switch f {
		case "created-timestamp-zero-ingestion":
			t.EnableSTAsZeroSample = true
		case "histograms-st-encoding":
			t.EnableHistogramSTEncoding = true
		case "memory-snapshot-on-shutdown":
			t.EnableMemorySnapshotOnShutdown = true
		case "metadata-wal-records":
			t.EnableMetadataWALRecords = true
		case "st-storage":
			t.EnableSTStorage = true
			t.FloatChunkEncoding = chunkenc.EncXOR2
			t.EnableHistogramSTEncoding = true
		case "use-uncached-io":
			t.UseUncachedIO = true
		case "xor2-encoding":
			t.FloatChunkEncoding = chunkenc.EncXOR2
		}
	}
	return t
}
