package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/starling-tsdb/starling/internal/statefile"
)

// PruneResult is what a Prune did. Series count once in each block.
type PruneResult struct {
	// Blocks were looked at, those included that took the place of others meanwhile.
	Blocks int
	// Rewritten lost some of their series, Deleted all.
	Rewritten, Deleted int
	// Damaged were left alone. Their series are not known.
	Damaged int
	// Full still have refused series, for lack of room on the disk to rewrite them.
	Full int
	// Series were dropped, and that made Bytes free.
	Series int
	Bytes  int64
	// HeadSeries of the head are refused. They are in blocks some hours later.
	HeadSeries int
	// Unseen blocks came too late to be looked at.
	Unseen int
}

// Clean tells whether no refused series is left, as far as is known.
func (r PruneResult) Clean() bool {
	return r.Full == 0 && r.Damaged == 0 && r.HeadSeries == 0 && r.Unseen == 0
}

// Prune drops the series that keep refuses from the blocks on disk: it writes each block that
// has some of them anew, and deletes those that have nothing else, from the smallest on.
// The head is left alone, so Prune is called again until the result is clean. keep is called
// by one goroutine, and must answer the same for the same labels.
//
// Appends, queries and compaction go on. A block is in service until the one that replaces
// it is durable and in service, so no kept sample is ever missing, nor after a crash. The
// disk needs room for the largest block that is rewritten. What fails for one block is in
// the error, and does not keep others from being pruned; in the end the error wraps ErrDiskFull
// if the result says that blocks are Full. No failure fences the store. It ends with ctx, with
// its cause, and when the store is closed or opened again; what was done until then stays, and
// is in the result. A second call waits for the first.
func (s *Store) Prune(ctx context.Context, keep func(labels.Labels) bool) (PruneResult, error) {
	ctx, leave, err := s.upkeep.begin(ctx)
	if err != nil {
		return PruneResult{}, err
	}
	defer leave()
	if err := s.prunes.take(ctx, s.fence); err != nil {
		return PruneResult{}, err
	}
	defer s.prunes.give()
	p := &pruning{Store: s, keep: keep, looked: make(map[ulid.ULID]bool)}
	if err := p.run(ctx); err != nil {
		return p.result, fmt.Errorf("prune: %w", err)
	}
	return p.result, nil
}

// pruning is one run of Prune.
type pruning struct {
	*Store
	keep   func(labels.Labels) bool
	looked map[ulid.ULID]bool
	result PruneResult
}

// candidate is a block with refused series.
type candidate struct {
	block         *tsdb.Block
	kept, refused int
}

// need estimates the bytes of what is kept.
func (c candidate) need() int64 {
	return int64(float64(c.block.Size()) / float64(c.kept+c.refused) * float64(c.kept))
}

// pruneRounds bounds how often a run looks for blocks that compactions and imports have made
// since it began.
const pruneRounds = 3

func (p *pruning) run(ctx context.Context) error {
	var failures []error
	for range pruneRounds {
		found, err := p.survey(ctx)
		failures = append(failures, err)
		for _, c := range found {
			if err := cmp.Or(p.ended(ctx), p.fence.check()); err != nil {
				return errors.Join(append(failures, err)...)
			}
			failures = append(failures, p.prune(ctx, c))
		}
		if err := p.ended(ctx); err != nil {
			return err
		}
	}
	for _, b := range p.db.Blocks() {
		if !p.looked[b.Meta().ULID] {
			p.result.Unseen++
		}
	}
	return errors.Join(append(failures, p.countHead(ctx))...)
}

func (p *pruning) ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// survey looks at the blocks that it has not looked at, and returns those that have refused
// series, the least work first.
func (p *pruning) survey(ctx context.Context) (found []candidate, err error) {
	var failures []error
	for _, b := range p.db.Blocks() {
		meta := b.Meta()
		if p.looked[meta.ULID] {
			continue
		}
		if err := p.ended(ctx); err != nil {
			return nil, err
		}
		p.looked[meta.ULID] = true
		p.result.Blocks++
		c, err := p.count(ctx, b)
		switch {
		case p.damage.Excluded(&meta):
			p.result.Damaged++
			p.metrics.pruneBlocks.WithLabelValues(prunedDamaged).Inc()
		case errors.Is(err, tsdb.ErrClosing): // replaced or expired
		case err != nil:
			failures = append(failures, fmt.Errorf("block %s: %w", meta.ULID, err))
		case c.refused == 0:
			p.metrics.pruneBlocks.WithLabelValues(prunedKept).Inc()
		default:
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b candidate) int { return cmp.Compare(a.need(), b.need()) })
	return found, errors.Join(failures...)
}

// count tells how many series of a block are kept. A damaged block is not read.
func (p *pruning) count(ctx context.Context, b *tsdb.Block) (candidate, error) {
	c := candidate{block: b}
	if meta := b.Meta(); p.damage.Excluded(&meta) {
		return c, nil
	}
	err := p.series(ctx, b, func(cs promstorage.ChunkSeries) error {
		if p.keep(cs.Labels()) {
			c.kept++
		} else {
			c.refused++
		}
		return nil
	})
	return c, err
}

// series calls f for each series of a block, in order. Damage that it meets is noted.
func (p *pruning) series(ctx context.Context, b *tsdb.Block, f func(promstorage.ChunkSeries) error) (err error) {
	q, err := p.guard.BlockChunkQuerier(b, b.MinTime(), b.MaxTime()-1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	name, value := index.AllPostingsKey()
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, name, value))
	for set.Next() {
		if err := p.ended(ctx); err != nil {
			return err
		}
		if err := f(set.At()); err != nil {
			return err
		}
	}
	return set.Err()
}

// errReplaced says that a block went out of service before it was pruned. What took its
// place is looked at in its turn.
var errReplaced = errors.New("block is not in service any more")

// prune drops the refused series of one block.
func (p *pruning) prune(ctx context.Context, c candidate) error {
	meta := c.block.Meta()
	release, ok := p.compactor.reserve(meta.ULID)
	if !ok { // who imports it does not know yet that it is in service
		delete(p.looked, meta.ULID)
		return nil
	}
	defer release()
	var freed int64
	var err error
	result := prunedRewritten
	if c.kept == 0 {
		result = prunedDeleted
		freed, err = p.remove(ctx, c.block)
	} else {
		freed, err = p.rewrite(ctx, c)
	}
	switch {
	case errors.Is(err, errReplaced), errors.Is(err, tsdb.ErrClosing), errors.Is(err, errUnloaded):
		return nil
	case p.damage.Excluded(&meta): // as it turned out
		p.result.Damaged++
		p.metrics.pruneBlocks.WithLabelValues(prunedDamaged).Inc()
		return nil
	case errors.Is(err, ErrDiskFull):
		p.result.Full++
		p.metrics.pruneBlocks.WithLabelValues(prunedFull).Inc()
		return fmt.Errorf("block %s: %w", meta.ULID, err)
	case err != nil:
		return fmt.Errorf("block %s: %w", meta.ULID, err)
	case c.kept == 0:
		p.result.Deleted++
	default:
		p.result.Rewritten++
	}
	p.result.Series += c.refused
	p.result.Bytes += freed
	p.metrics.pruneBlocks.WithLabelValues(result).Inc()
	p.metrics.prunedSeries.Add(float64(c.refused))
	p.metrics.prunedBytes.Add(float64(max(freed, 0)))
	return nil
}

// pruneReserve is what a rewriting leaves free: less than what ends appends, as it makes
// room.
func (u usage) pruneReserve() uint64 { return u.reserve() / 2 }

// rewrite replaces a block by one without the refused series: the TSDB deletes a block that
// another one names as its parent, also when it is opened.
func (p *pruning) rewrite(ctx context.Context, c candidate) (freed int64, err error) {
	least := func(u usage) uint64 { return u.pruneReserve() + uint64(c.need()) }
	segment, err := p.room(least)
	if err != nil {
		return 0, err
	}
	old := c.block.Meta()
	meta := tsdb.BlockMeta{MinTime: old.MinTime, MaxTime: old.MaxTime}
	meta.Compaction.Level = old.Compaction.Level
	meta.Compaction.Sources = old.Compaction.Sources
	meta.Compaction.Hints = old.Compaction.Hints
	meta.Compaction.Parents = []tsdb.BlockDesc{{ULID: old.ULID, MinTime: old.MinTime, MaxTime: old.MaxTime}}
	w, err := p.newBlock(meta, segment, func() error {
		_, err := p.room(usage.pruneReserve)
		return errors.Join(err, p.fence.check())
	})
	if err != nil {
		return 0, err
	}
	defer w.discard()
	if err := p.copyKept(ctx, c.block, w); err != nil {
		return 0, err
	}
	if w.empty() { // tombstones had the rest
		return p.remove(ctx, c.block)
	}
	if err := w.finish(ctx); err != nil {
		return 0, err
	}
	err = p.install(ctx, w, func(loaded []*tsdb.Block) error {
		if !slices.Contains(loaded, c.block) {
			return errReplaced
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	p.looked[w.meta.ULID] = true
	return c.block.Size() - w.bytes, nil
}

// copyKept writes the series of a block that are kept.
func (p *pruning) copyKept(ctx context.Context, b *tsdb.Block, w *blockWriter) error {
	var chks []chunks.Meta
	var it chunks.Iterator
	return p.series(ctx, b, func(cs promstorage.ChunkSeries) error {
		if !p.keep(cs.Labels()) {
			return nil
		}
		chks = chks[:0]
		for it = cs.Iterator(it); it.Next(); {
			chks = append(chks, it.At())
		}
		if err := it.Err(); err != nil || len(chks) == 0 { // all of it may be deleted
			return err
		}
		return w.add(cs.Labels(), chks)
	})
}

// remove deletes a block. Its directory gets a name by which the TSDB takes it out of
// service, and which it removes itself when it is opened; it leaves closing to others then.
func (p *pruning) remove(ctx context.Context, b *tsdb.Block) (freed int64, err error) {
	gone := b.Dir() + deletionSuffix
	err = p.compactor.do(ctx, p.fence, func(loaded []*tsdb.Block) error {
		if !slices.Contains(loaded, b) {
			return errReplaced
		}
		if err := os.Rename(b.Dir(), gone); err != nil {
			return err
		}
		return statefile.SyncPath(p.opts.Dir, p.hooks.fsync)
	})
	if err != nil {
		return 0, err
	}
	if p.compactor.loaded(b.Meta().ULID) {
		return 0, errors.New("the TSDB keeps the block open")
	}
	freed = b.Size()
	return freed, errors.Join(b.Close(), os.RemoveAll(gone)) // Close waits for its readers
}

// countHead counts the refused series of the head.
func (p *pruning) countHead(ctx context.Context) error {
	err := p.headSeries(ctx, func(ls labels.Labels) {
		if !p.keep(ls) {
			p.result.HeadSeries++
		}
	})
	p.metrics.pruneHeadSeries.Set(float64(p.result.HeadSeries))
	return err
}

// headSeries calls f for each series in memory, in no order. It ends with ctx, with its cause.
// Labels are valid until f returns.
func (s *Store) headSeries(ctx context.Context, f func(labels.Labels)) error {
	ix, err := s.db.Head().Index()
	if err != nil {
		return err
	}
	defer ix.Close()
	name, value := index.AllPostingsKey()
	all, err := ix.Postings(ctx, name, value)
	if err != nil {
		return err
	}
	var builder labels.ScratchBuilder
	for all.Next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := ix.Series(all.At(), &builder, nil)
		if errors.Is(err, promstorage.ErrNotFound) {
			continue // gone meanwhile
		}
		if err != nil {
			return err
		}
		f(builder.Labels())
	}
	return all.Err()
}
