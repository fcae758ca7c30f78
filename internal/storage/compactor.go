package storage

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/merge"
)

// compactor is the TSDB's own compactor, with a say in which blocks it may take, and with a
// way for others to change blocks: the TSDB calls Plan and Compact under the lock of its
// compactions, and looks at its directory anew after each Compact.
type compactor struct {
	*tsdb.LeveledCompactor
	// ranges are the durations of blocks, in milliseconds, from the smallest on.
	ranges  []int64
	damaged func(*tsdb.BlockMeta) bool
	late    *lateGate
	db      atomic.Pointer[tsdb.DB] // nil until the TSDB is open

	mu       sync.Mutex
	jobs     []*job // wait for the next Plan
	taken    []*job // are for the Compact that follows it
	held     int    // while above 0, no blocks are compacted
	reserved map[ulid.ULID]bool
}

// job is something to be done while no compaction runs.
type job struct {
	// run gets the blocks that are loaded.
	run  func(loaded []*tsdb.Block) error
	done bool
	err  error
}

// new is for tsdb.Options.NewCompactorFunc.
func (c *compactor) new(ctx context.Context, r prometheus.Registerer, l *slog.Logger, ranges []int64, pool chunkenc.Pool, o *tsdb.Options) (tsdb.Compactor, error) {
	var err error
	c.ranges = slices.Clone(ranges)
	c.LeveledCompactor, err = tsdb.NewLeveledCompactorWithOptions(ctx, r, l, ranges, pool, tsdb.LeveledCompactorOptions{
		MaxBlockChunkSegmentSize:    o.MaxBlockChunkSegmentSize,
		EnableOverlappingCompaction: o.EnableOverlappingCompaction,
		PD:                          o.PostingsDecoderFactory,
		UseUncachedIO:               o.UseUncachedIO,
		BlockExcludeFilter:          c.excluded,
		MergeFunc:                   merge.ChunkSeries(func() chunkenc.Encoding { return o.FloatChunkEncoding }),
	})
	return c, err
}

// Write implements tsdb.Compactor.
func (c *compactor) Write(dest string, b tsdb.BlockReader, mint, maxt int64, base *tsdb.BlockMeta) ([]ulid.ULID, error) {
	if _, ofHead := b.(*tsdb.RangeHead); ofHead {
		c.late.begin()
	}
	return c.LeveledCompactor.Write(dest, b, mint, maxt, base)
}

// Plan implements tsdb.Compactor.
func (c *compactor) Plan(dir string) ([]string, error) {
	c.late.end()
	c.mu.Lock()
	jobs, held := len(c.jobs) > 0, c.held > 0
	if jobs {
		c.taken, c.jobs = c.jobs, nil
	}
	c.mu.Unlock()
	switch {
	case jobs:
		return []string{dir}, nil // of no meaning but that there is something to do
	case held || c.db.Load() == nil:
		return nil, nil
	}
	return c.LeveledCompactor.Plan(dir)
}

// Compact implements tsdb.Compactor.
func (c *compactor) Compact(dest string, dirs []string, loaded []*tsdb.Block) ([]ulid.ULID, error) {
	c.mu.Lock()
	jobs := c.taken
	c.taken = nil
	c.mu.Unlock()
	if len(jobs) == 0 {
		return c.LeveledCompactor.Compact(dest, dirs, loaded)
	}
	for _, j := range jobs {
		err := j.run(loaded)
		c.mu.Lock()
		j.done, j.err = true, err
		c.mu.Unlock()
	}
	// The TSDB removes blocks that it is told of here where it fails to look at its
	// directory, while it may have deleted what they replace by then.
	return nil, nil
}

// do runs f while no compaction runs, and returns when the TSDB has looked at its directory
// after that. It waits for a compaction that is under way, and has the head compacted if
// that is due. The caller is inside of a gate.
func (c *compactor) do(ctx context.Context, f *fence, run func(loaded []*tsdb.Block) error) error {
	j := &job{run: run}
	c.mu.Lock()
	c.jobs = append(c.jobs, j)
	c.mu.Unlock()
	defer c.withdraw(j)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := f.guard("compact the TSDB", func() error { return c.db.Load().Compact(ctx) })
		if err != nil {
			c.late.end() // the TSDB logs failures of its own goroutine alone
		}
		c.mu.Lock()
		done, failed := j.done, j.err
		c.mu.Unlock()
		if failed != nil {
			return failed
		}
		if err != nil || done {
			return err
		}
		// The head became due for compaction, which has precedence.
	}
}

func (c *compactor) withdraw(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs = slices.DeleteFunc(c.jobs, func(o *job) bool { return o == j })
}

// hold keeps blocks from being compacted until release is called. Of the head blocks are
// cut all the same.
func (c *compactor) hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held--
	}
}

// reserve keeps one block from being compacted, and from being reserved by others, until
// release is called. It is not ok while another one has it. A compaction that is under way
// may have taken the block already.
func (c *compactor) reserve(id ulid.ULID) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reserved[id] {
		return nil, false
	}
	if c.reserved == nil {
		c.reserved = make(map[ulid.ULID]bool)
	}
	c.reserved[id] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.reserved, id)
	}, true
}

// loaded tells whether the TSDB has a block in service.
func (c *compactor) loaded(id ulid.ULID) bool {
	return slices.ContainsFunc(c.db.Load().Blocks(), func(b *tsdb.Block) bool { return b.Meta().ULID == id })
}

// excluded tells whether a block must not be compacted now: it is damaged, or reserved, or
// holds out-of-order samples, as imported blocks do, of a time of which the log holds
// in-order ones. Merged with blocks of in-order samples it would count as one of them, and a
// replay begins where those end.
func (c *compactor) excluded(meta *tsdb.BlockMeta) bool {
	c.mu.Lock()
	reserved := c.reserved[meta.ULID]
	c.mu.Unlock()
	return reserved || c.damaged(meta) || (meta.Compaction.FromOutOfOrder() && meta.MaxTime > c.sealed())
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
