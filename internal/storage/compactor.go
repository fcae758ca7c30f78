package storage

import (
	"context"
	"log/slog"
	"math"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// compactor is the TSDB's own compactor, with a say in which blocks it may take.
type compactor struct {
	*tsdb.LeveledCompactor
	damaged func(*tsdb.BlockMeta) bool
	db      atomic.Pointer[tsdb.DB] // nil until the TSDB is open
}

// new is for tsdb.Options.NewCompactorFunc.
func (c *compactor) new(ctx context.Context, r prometheus.Registerer, l *slog.Logger, ranges []int64, pool chunkenc.Pool, o *tsdb.Options) (tsdb.Compactor, error) {
	var err error
	c.LeveledCompactor, err = tsdb.NewLeveledCompactorWithOptions(ctx, r, l, ranges, pool, tsdb.LeveledCompactorOptions{
		MaxBlockChunkSegmentSize:    o.MaxBlockChunkSegmentSize,
		EnableOverlappingCompaction: o.EnableOverlappingCompaction,
		PD:                          o.PostingsDecoderFactory,
		UseUncachedIO:               o.UseUncachedIO,
		BlockExcludeFilter:          c.excluded,
		FloatChunkEncoding:          func() chunkenc.Encoding { return o.FloatChunkEncoding },
	})
	return c, err
}

// Plan implements tsdb.Compactor.
func (c *compactor) Plan(dir string) ([]string, error) {
	if c.db.Load() == nil {
		return nil, nil
	}
	return c.LeveledCompactor.Plan(dir)
}

// excluded tells whether a block must not be compacted now: it is damaged, or holds
// out-of-order samples of a time of which the log holds in-order ones. Merged with blocks of in-order samples it would count as one of them, and a
// replay begins where those end.
func (c *compactor) excluded(meta *tsdb.BlockMeta) bool {
	return c.damaged(meta) || (meta.Compaction.FromOutOfOrder() && meta.MaxTime > c.sealed())
}

// sealed returns the time before which the log has no in-order samples that are not in
// blocks, and will have none: what comes later goes to the out-of-order log.
func (c *compactor) sealed() int64 {
	db := c.db.Load()
	end := int64(math.MinInt64)
	for _, b := range db.Blocks() {
		meta := b.Meta()
		if k := &meta.Compaction; !k.FromOutOfOrder() && !k.FromStaleSeries() && !k.FromSelectedSeries() {
			end = max(end, meta.MaxTime)
		}
	}
	head := db.Head()
	if valid, ok := head.AppendableMinValidTime(); ok {
		end = max(end, min(valid, head.MinTime()))
	}
	return end
}
