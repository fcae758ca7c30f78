package storage

import (
	"errors"
	"fmt"
	"io"

	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/merge"
)

// Where blocks and the head hold several values for one timestamp, the TSDB answers whichever
// it meets first. What it would merge is taken from it here, in parts, and merged so that the
// greatest value is left. Among the out-of-order chunks of the head it is still the TSDB that
// chooses, until they have become a block.

// merged returns a querier over the head and the blocks.
func (s *Store) merged(mint, maxt int64) (promstorage.Querier, error) {
	parts, err := partsOf(s, mint, maxt, s.db.Querier, s.guard.BlockQuerier)
	if err != nil {
		return nil, err
	}
	return promstorage.NewMergeQuerier(parts, nil, merge.Series), nil
}

// mergedChunks is merged for chunks.
func (s *Store) mergedChunks(mint, maxt int64, want Want) (promstorage.ChunkQuerier, error) {
	encoding := s.opts.tsdbOptions().FloatChunkEncoding
	byTime := merge.ChunkSeries(func() chunkenc.Encoding { return encoding })
	keep := want.Keep
	if keep == nil {
		parts, err := partsOf(s, mint, maxt, s.db.ChunkQuerier, s.guard.BlockChunkQuerier)
		if err != nil {
			return nil, err
		}
		return promstorage.NewMergeChunkQuerier(parts, nil, byTime), nil
	}
	parts, err := partsOf(s, mint, maxt, s.db.ChunkQuerier, func(b *tsdb.Block, mint, maxt int64) (promstorage.ChunkQuerier, error) {
		return s.keyedBlock(b, mint, maxt, keep)
	})
	if err != nil {
		return nil, err
	}
	joined := &joinedQuerier{merge: byTime, looks: want.Looks}
	for _, p := range parts[1:] {
		joined.sources = append(joined.sources, p.(*guardedBlock).source)
	}
	unguarded := func(read func() error) error { return read() } // What guards the whole is the head's.
	switch head, ok := parts[0].(*keyedQuerier); {
	case ok:
		head.keep = keep
		if want.Labels != nil {
			joined.shared = head.shared.of(want.Labels)
		}
		joined.sources = append(joined.sources, &source{keyedQuerier: head, guard: unguarded})
	case parts[0] != promstorage.NoopChunkedQuerier():
		// It has late samples, too.
		late := &keptHead{parts[0], s.opts.Key, keep}
		parts[0] = late
		joined.sources = append(joined.sources, &source{late: late, guard: unguarded})
	}
	joined.ChunkQuerier = promstorage.NewMergeChunkQuerier(parts, nil, byTime)
	return joined, nil
}

// guardedBlock is a block as it is merged, and as it is joined.
type guardedBlock struct {
	promstorage.ChunkQuerier
	source *source
}

func (s *Store) keyedBlock(b *tsdb.Block, mint, maxt int64, keep func(key uint64) (bool, error)) (promstorage.ChunkQuerier, error) {
	src := &source{guard: s.guard.Reading(b), dir: b.Dir()}
	q, err := s.guard.BlockChunkQuerierBy(b, func() (promstorage.ChunkQuerier, error) {
		var err error
		src.keyedQuerier, err = s.blockKeys.chunkQuerier(b, s.db.Blocks, mint, maxt, keep)
		return src.keyedQuerier, err
	})
	if err != nil {
		return nil, err
	}
	return &guardedBlock{q, src}, nil
}

// headQuerier is for tsdb.Options.BlockQuerierFunc: the TSDB is asked for its head alone.
func headQuerier(b tsdb.BlockReader, mint, maxt int64) (promstorage.Querier, error) {
	if _, ok := b.(*tsdb.Block); ok {
		return promstorage.NoopQuerier(), nil
	}
	return tsdb.NewBlockQuerier(b, mint, maxt)
}

// maxListings bounds how often blocks are listed anew because one of them was closed between
// its listing and its use. Once is rare.
const maxListings = 10

// partsOf opens the head, and then each block: what leaves the head meanwhile is in a block,
// and what a block that was closed held is in one of the next list.
func partsOf[Q io.Closer](s *Store, mint, maxt int64, head func(mint, maxt int64) (Q, error), block func(b *tsdb.Block, mint, maxt int64) (Q, error)) ([]Q, error) {
	first, err := head(mint, maxt)
	if err != nil {
		return nil, err
	}
	parts := []Q{first}
	for range maxListings {
		parts, err = appendBlocks(parts[:1], s.db.Blocks(), mint, maxt, block)
		if err == nil {
			return parts, nil
		}
		if !errors.Is(err, tsdb.ErrClosing) {
			break
		}
	}
	return nil, errors.Join(err, first.Close())
}

// appendBlocks opens the blocks that overlap a range of time, all of them or none.
func appendBlocks[Q io.Closer](parts []Q, blocks []*tsdb.Block, mint, maxt int64, open func(b *tsdb.Block, mint, maxt int64) (Q, error)) ([]Q, error) {
	others := len(parts)
	for _, b := range blocks {
		if !b.OverlapsClosedInterval(mint, maxt) {
			continue
		}
		q, err := open(b, mint, maxt)
		if err != nil {
			for _, q := range parts[others:] {
				err = errors.Join(err, q.Close())
			}
			return parts[:others], fmt.Errorf("open block %s: %w", b.Meta().ULID, err)
		}
		parts = append(parts, q)
	}
	return parts, nil
}
