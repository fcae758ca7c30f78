package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/merge"
)

// ImportBlock stores a window of time of what other nodes hold as a block of the TSDB, and
// returns when that is durable and in every answer, and how many samples it holds. Samples
// outside of mint to maxt (exclusive; in milliseconds), or expired, are left out. Without a sample there
// is no block. What the store holds already is stored twice, until the TSDB compacts it away;
// of two values at one timestamp the greater is answered, and kept.
//
// The series are sorted by labels, each with its chunks in order of time; they may overlap.
// Chunks are stored as they are, except those that overlap or reach out of the window. One
// series at a time is in memory.
//
// The window must lie before ImportableUntil, else the error is ErrTooRecent, and within one
// aligned range of the largest block that compaction makes; a window of the smallest blocks,
// aligned to their duration, always does. It is ErrFenced in a
// fenced store, ErrDiskFull where the disk has no room beyond what appends are refused at. After an error nothing of it is stored, nor after a crash; but where
// the TSDB fails to load the block, that may happen later, and is no harm. No failure fences
// the store. It ends with ctx, with its cause, and when the store is closed or opened again.
func (s *Store) ImportBlock(ctx context.Context, mint, maxt int64, set promstorage.ChunkSeriesSet) (samples int, err error) {
	ctx, leave, err := s.upkeep.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	samples, err = s.importBlock(ctx, span{mint, maxt - 1}, set)
	if err != nil {
		return 0, fmt.Errorf("import a block: %w", err)
	}
	return samples, nil
}

func (s *Store) importBlock(ctx context.Context, window span, set promstorage.ChunkSeriesSet) (int, error) {
	block, err := s.blockRange(window)
	if err != nil {
		return 0, err
	}
	if err := s.importable(block); err != nil {
		return 0, err
	}
	if window.min = max(window.min, s.Horizon().At()); window.min > window.max {
		return 0, nil
	}
	segment, err := s.room(usage.enough)
	if err != nil {
		return 0, err
	}
	meta := tsdb.BlockMeta{MinTime: block.min, MaxTime: block.max + 1}
	meta.Compaction.Level = 1
	meta.Compaction.SetOutOfOrder() // else a replay of the log would begin at its end
	w, err := s.newBlock(meta, segment, func() error {
		_, err := s.room(usage.enough)
		return errors.Join(err, s.fence.admit())
	})
	if err != nil {
		return 0, err
	}
	defer w.discard()
	w.meta.Compaction.Sources = append(w.meta.Compaction.Sources, w.meta.ULID)
	c := clipper{window: window, encoding: s.opts.tsdbOptions().FloatChunkEncoding}
	for set.Next() {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		chks, err := c.clip(set.At())
		if err != nil {
			return 0, fmt.Errorf("series %s: %w", set.At().Labels(), err)
		}
		if len(chks) == 0 {
			continue
		}
		if err := w.add(set.At().Labels(), chks); err != nil {
			return 0, err
		}
	}
	if err := set.Err(); err != nil || w.empty() {
		return 0, err
	}
	if err := w.finish(ctx); err != nil {
		return 0, err
	}
	err = s.install(ctx, w, func([]*tsdb.Block) error { return s.importable(block) })
	if errors.Is(err, errUnloaded) && block.max < s.Horizon().At() {
		return 0, nil // expired meanwhile
	}
	if err != nil {
		return 0, err
	}
	s.metrics.importedBlocks.Inc()
	s.metrics.importedBytes.Add(float64(w.bytes))
	s.metrics.importedSamples.Add(float64(w.meta.Stats.NumSamples))
	return int(w.meta.Stats.NumSamples), nil
}

// errUnloaded says that a block is not in service, though it could be.
var errUnloaded = errors.New("the TSDB did not keep the block")

// install puts a finished block into service, unless admit, which gets the blocks that are
// loaded, says no.
func (s *Store) install(ctx context.Context, w *blockWriter, admit func(loaded []*tsdb.Block) error) error {
	defer s.compactor.hold()() // so that imports are not held up by what they make due
	// So that no Prune replaces the block before it was seen.
	release, _ := s.compactor.reserve(w.meta.ULID) // a new one, so nobody has it
	defer release()
	err := s.compactor.do(ctx, s.fence, func(loaded []*tsdb.Block) error {
		if err := errors.Join(s.fence.check(), admit(loaded)); err != nil {
			return err
		}
		return w.commit()
	})
	if err != nil {
		return err
	}
	if !s.compactor.loaded(w.meta.ULID) {
		return errUnloaded
	}
	return nil
}

// ImportableUntil returns the time up to which ImportBlock takes windows: before it, no
// sample will be appended in order any more. What is newer goes through Import. It
// is math.MinInt64 in a store that is not open.
func (s *Store) ImportableUntil() int64 {
	if err := s.upkeep.enter(); err != nil {
		return math.MinInt64
	}
	defer s.upkeep.leave()
	return s.importableUntil()
}

// importLevels is how many times blocks are merged until they have the time of one that is
// imported, at most: 18 hours by default, so that labels, postings and compactions cost a ninth
// of what they do in blocks of two hours, and a window that has to be imported again is not long.
const importLevels = 2

// ImportSpan returns the duration of the windows that ImportBlock is best given, aligned to it,
// in milliseconds. It is 0 in a store that is not open.
func (s *Store) ImportSpan() int64 {
	if err := s.upkeep.enter(); err != nil {
		return 0
	}
	defer s.upkeep.leave()
	return s.compactor.ranges[min(importLevels, len(s.compactor.ranges)-1)]
}

func (s *Store) importableUntil() int64 {
	until := s.compactor.sealed()
	if _, ok := s.db.Head().AppendableMinValidTime(); !ok {
		until = max(until, s.oldest(s.opts.Now()))
	}
	return floor(max(until, lowest), s.compactor.ranges[0])
}

// importable returns why no block may be imported over a range, or nil.
func (s *Store) importable(block span) error {
	if err := s.fence.admit(); err != nil {
		return err
	}
	if until := s.importableUntil(); block.max >= until {
		return fmt.Errorf("%w: it ends at %s, and blocks are imported up to %s", ErrTooRecent, formatTime(block.max+1), formatTime(until))
	}
	return nil
}

// blockRange returns the aligned range of the block for a window.
func (s *Store) blockRange(window span) (span, error) {
	smallest, largest := s.compactor.ranges[0], s.compactor.ranges[len(s.compactor.ranges)-1]
	if window.min > window.max || window.min < lowest || window.max > -lowest {
		return span{}, fmt.Errorf("no range of time: %d to %d", window.min, window.max)
	}
	block := span{floor(window.min, smallest), floor(window.max, smallest) + smallest - 1}
	if floor(block.min, largest) != floor(block.max, largest) {
		return span{}, fmt.Errorf("%s to %s is in no single block's range", formatTime(window.min), formatTime(window.max+1))
	}
	return block, nil
}

// floor returns the multiple of width at or before t.
func floor(t, width int64) int64 {
	r := t % width
	if r < 0 {
		r += width
	}
	return t - r
}

// room tells how large a file of chunks may be that is written now, or that least would not
// be free any more.
func (s *Store) room(least func(usage) uint64) (segment int64, err error) {
	u, err := s.hooks.usage(s.opts.Dir)
	if err != nil {
		return maxSegment, nil // a file system that does not tell is taken for a roomy one
	}
	segment = u.segmentSize()
	if need := least(u) + uint64(segment); u.free < need {
		return 0, fmt.Errorf("%w: %s free, and to write a block takes %s", ErrDiskFull, mib(u.free), mib(need))
	}
	return segment, nil
}

// clipper makes chunks fit for a block: in order, apart from each other, within a window.
type clipper struct {
	window   span // inclusive
	encoding chunkenc.Encoding
	chks     []chunks.Meta
	out      []chunks.Meta
	it       chunks.Iterator
}

// clip returns the chunks of a series; the slice is valid until the next call.
func (c *clipper) clip(s promstorage.ChunkSeries) ([]chunks.Meta, error) {
	c.chks, c.out = c.chks[:0], c.out[:0]
	c.it = s.Iterator(c.it)
	for c.it.Next() {
		m := c.it.At()
		if m.MaxTime >= c.window.min && m.MinTime <= c.window.max && m.Chunk.NumSamples() > 0 {
			c.chks = append(c.chks, m)
		}
	}
	if err := c.it.Err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(c.chks, func(a, b chunks.Meta) int {
		switch {
		case a.MinTime < b.MinTime:
			return -1
		case a.MinTime > b.MinTime:
			return 1
		}
		return 0
	})
	for rest := c.chks; len(rest) > 0; {
		n, end := 1, rest[0].MaxTime
		for n < len(rest) && rest[n].MinTime <= end {
			end = max(end, rest[n].MaxTime)
			n++
		}
		if err := c.merge(rest[:n], end); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	return c.out, nil
}

// merge appends the samples of chunks that overlap, the last of which is at end, as one or
// more chunks that do not.
func (c *clipper) merge(overlapping []chunks.Meta, end int64) error {
	overlapping = slices.CompactFunc(overlapping, func(a, b chunks.Meta) bool {
		return a.MinTime == b.MinTime && a.MaxTime == b.MaxTime && bytes.Equal(a.Chunk.Bytes(), b.Chunk.Bytes())
	})
	if len(overlapping) == 1 && overlapping[0].MinTime >= c.window.min && end <= c.window.max {
		c.out = append(c.out, overlapping[0])
		return nil
	}
	series := make([]promstorage.Series, len(overlapping))
	for i, m := range overlapping {
		series[i] = &promstorage.SeriesEntry{SampleIteratorFn: m.Chunk.Iterator}
	}
	samples := merge.Series(series...)
	within := &promstorage.SeriesEntry{SampleIteratorFn: func(it chunkenc.Iterator) chunkenc.Iterator {
		return windowIterator{Iterator: samples.Iterator(it), window: c.window}
	}}
	it := promstorage.NewSeriesToChunkEncoderWithFloatEncoding(within, c.encoding).Iterator(nil)
	for it.Next() {
		c.out = append(c.out, it.At())
	}
	return it.Err()
}

// windowIterator leaves samples out that are not in the window. It is only good for Next.
type windowIterator struct {
	chunkenc.Iterator
	window span
}

// Next implements chunkenc.Iterator.
func (it windowIterator) Next() chunkenc.ValueType {
	for {
		vt := it.Iterator.Next()
		if vt == chunkenc.ValNone || it.AtT() > it.window.max {
			return chunkenc.ValNone
		}
		if it.AtT() >= it.window.min {
			return vt
		}
	}
}
