package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// Blocks reads the blocks of a Prometheus TSDB: a data directory, a snapshot or a backup of one.
// What is in the log alone is not read.
type Blocks struct {
	dir    string
	blocks []*tsdb.Block
}

// OpenBlocks opens all blocks in a directory, which are not changed.
func OpenBlocks(dir string) (*Blocks, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	b := &Blocks{dir: dir}
	for _, e := range entries {
		if _, err := ulid.ParseStrict(e.Name()); err != nil || !e.IsDir() {
			continue
		}
		block, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), filepath.Join(dir, e.Name()), nil, nil)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("block %s: %w", e.Name(), err), b.Close())
		}
		b.blocks = append(b.blocks, block)
	}
	if len(b.blocks) == 0 {
		return nil, fmt.Errorf("%s has no blocks of a TSDB: name the data directory or a snapshot of a Prometheus", dir)
	}
	return b, nil
}

// Close closes the blocks. No series of them may be used any more.
func (b *Blocks) Close() error {
	var errs []error
	for _, block := range b.blocks {
		errs = append(errs, block.Close())
	}
	return errors.Join(errs...)
}

// Name implements Source.
func (b *Blocks) Name() string { return "blocks " + b.dir }

// Span implements Source.
func (b *Blocks) Span() (mint, maxt int64, known bool) {
	mint, maxt = b.blocks[0].MinTime(), b.blocks[0].MaxTime()
	for _, block := range b.blocks {
		mint, maxt = min(mint, block.MinTime()), max(maxt, block.MaxTime())
	}
	return mint, maxt - 1, true
}

// Select implements Source.
func (b *Blocks) Select(ctx context.Context, mint, maxt int64, matchers []*labels.Matcher) (Set, error) {
	var queriers []storage.Querier
	for _, block := range b.blocks {
		if !block.OverlapsClosedInterval(mint, maxt) {
			continue
		}
		q, err := tsdb.NewBlockQuerier(block, mint, maxt)
		if err != nil {
			for _, q := range queriers {
				err = errors.Join(err, q.Close())
			}
			return nil, fmt.Errorf("block %s: %w", block.Meta().ULID, err)
		}
		queriers = append(queriers, q)
	}
	merged := storage.NewMergeQuerier(queriers, nil, storage.ChainedSeriesMerge)
	hints := &storage.SelectHints{Start: mint, End: maxt}
	return blockSet{SeriesSet: merged.Select(ctx, true, hints, matchers...), Closer: merged}, nil
}

type blockSet struct {
	storage.SeriesSet
	io.Closer
}
