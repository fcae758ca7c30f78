package storage

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/tsdb/tombstones"

	"github.com/starling-tsdb/starling/internal/damage"
)

// Queries of a cluster read a share of the series that a node holds, by a hash of their labels,
// the key. Keys are remembered by the numbers that the TSDB gives series in the head, and by where
// they lie in the index of a block, so that what others serve is left out before anything of it
// is looked up.

const keysPerPage = 512

// identity tells who a series is, in the head and in each block: its key, and a hash of its labels
// that cannot be foreseen, so that nobody can make series that are taken for one another.
type identity struct{ key, hash uint64 }

// hashSeed is of the process, as identities are.
var hashSeed = maphash.MakeSeed()

// keyPage has the identities of neighbors. A key of zero stands for one that is not known.
type keyPage [keysPerPage]struct{ key, hash atomic.Uint64 }

func (p *keyPage) load(ref promstorage.SeriesRef) identity {
	at := &p[ref%keysPerPage]
	return identity{at.key.Load(), at.hash.Load()}
}

func (p *keyPage) store(ref promstorage.SeriesRef, id identity) {
	at := &p[ref%keysPerPage]
	at.hash.Store(id.hash) // before who loads the key relies on it
	at.key.Store(id.key)
}

// seriesKeys remembers keys of the head while a TSDB is open: the next one may give numbers anew.
type seriesKeys struct {
	key func(labels.Labels) uint64
	// pages are *keyPage by number. Numbers rise, so pages empty with time, and all of them
	// are dropped when there are far more than the series of the head need.
	pages  sync.Map
	count  atomic.Int64
	shared sharedSets
}

// spare is how many more pages there may be than series need.
const spare = 128

func (k *seriesKeys) page(number, series uint64) *keyPage {
	if p, ok := k.pages.Load(number); ok {
		return p.(*keyPage)
	}
	if k.count.Add(1) > int64(4*series/keysPerPage)+spare {
		k.pages.Clear()
		k.count.Store(1)
		k.shared.forget()
	}
	p, _ := k.pages.LoadOrStore(number, new(keyPage))
	return p.(*keyPage)
}

// keyedQuerier reads the head or a block, or the part of it that keep tells if it is set. Not for
// concurrent use.
type keyedQuerier struct {
	promstorage.ChunkQuerier
	from tsdb.BlockReader
	key  func(labels.Labels) uint64
	// page returns the page of a number, nil where it is not to be remembered.
	page func(number uint64) *keyPage
	keep func(key uint64) (bool, error)
	// shared remembers labels of the head, it is nil for a block.
	shared *sharedSets
	// open is what a select reads from.
	open       func(*promstorage.SelectHints) (blockReader, error)
	mint, maxt int64
	// opened are closed with the querier, before what it reads from itself, for which the head
	// waits before it cuts anything off.
	opened []io.Closer
}

// headChunkQuerier is for tsdb.Options.BlockChunkQuerierFunc: the TSDB is asked for its head
// alone.
func (k *seriesKeys) headChunkQuerier(b tsdb.BlockReader, mint, maxt int64) (promstorage.ChunkQuerier, error) {
	if _, ok := b.(*tsdb.Block); ok {
		return promstorage.NoopChunkedQuerier(), nil
	}
	q, err := tsdb.NewBlockChunkQuerier(b, mint, maxt)
	if err != nil {
		return nil, err
	}
	head := &keyedQuerier{ChunkQuerier: q, from: b, key: k.key, shared: &k.shared, mint: mint, maxt: maxt}
	head.page = func(number uint64) *keyPage { return k.page(number, b.Meta().Stats.NumSeries) }
	head.open = head.reopen
	return head, nil
}

// blockReader reads series and chunks of the head, not for concurrent use, or of a block.
type blockReader struct {
	index   tsdb.IndexReader
	chunks  tsdb.ChunkReader
	deleted tombstones.Reader
}

// reopen opens what the querier reads once more, to be closed with the querier.
func (q *keyedQuerier) reopen(hints *promstorage.SelectHints) (blockReader, error) {
	var r blockReader
	var err error
	if r.index, err = q.from.Index(); err != nil {
		return blockReader{}, err
	}
	q.opened = append(q.opened, r.index)
	if r.chunks, err = q.from.Chunks(); err != nil {
		return blockReader{}, err
	}
	q.opened = append(q.opened, r.chunks)
	if r.deleted, err = q.from.Tombstones(); err != nil {
		return blockReader{}, err
	}
	q.opened = append(q.opened, r.deleted)
	if c, ok := r.chunks.(interface{ EnableChunkCache() }); ok && hints.Step > 0 {
		c.EnableChunkCache()
	}
	return r, nil
}

// Close implements storage.ChunkQuerier.
func (q *keyedQuerier) Close() error {
	var err error
	for _, c := range q.opened {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, q.ChunkQuerier.Close())
}

// Select implements storage.ChunkQuerier.
func (q *keyedQuerier) Select(ctx context.Context, sorted bool, hints *promstorage.SelectHints, ms ...*labels.Matcher) promstorage.ChunkSeriesSet {
	if q.keep == nil {
		return q.ChunkQuerier.Select(ctx, sorted, hints, ms...)
	}
	if hints == nil {
		hints = &promstorage.SelectHints{Start: q.mint, End: q.maxt}
	}
	set, err := q.kept(ctx, sorted, hints, ms)
	if err != nil {
		return promstorage.ErrChunkSeriesSet(err)
	}
	return set
}

func (q *keyedQuerier) kept(ctx context.Context, sorted bool, hints *promstorage.SelectHints, ms []*labels.Matcher) (promstorage.ChunkSeriesSet, error) {
	r, err := q.open(hints)
	if err != nil {
		return nil, err
	}
	p, err := tsdb.PostingsForMatchers(ctx, r.index, ms...)
	if err != nil {
		return nil, err
	}
	refs, _, err := q.filter(ctx, r.index, p, false)
	if err != nil {
		return nil, err
	}
	p = index.NewListPostings(refs)
	if sorted {
		p = r.index.SortedPostings(p)
	}
	return tsdb.NewBlockChunkSeriesSet(q.from.Meta().ULID, r.index, r.chunks, r.deleted, p, hints.Start, hints.End, hints.DisableTrimming), nil
}

// filter returns the series that keep tells, and who they are if that is asked for. Those that have
// left the head are not among them.
func (q *keyedQuerier) filter(ctx context.Context, r tsdb.IndexReader, p index.Postings, identified bool) (kept []promstorage.SeriesRef, ids []identity, err error) {
	var page *keyPage
	var builder labels.ScratchBuilder
	var scratch []byte
	for current := ^uint64(0); p.Next(); {
		ref := p.At()
		if number := uint64(ref) / keysPerPage; number != current {
			if ctx.Err() != nil {
				return nil, nil, damage.ByReader(context.Cause(ctx))
			}
			page, current = q.page(number), number
		}
		var id identity
		if page != nil {
			id = page.load(ref)
		}
		if id.key == 0 {
			switch err := r.Series(ref, &builder, nil); {
			case errors.Is(err, promstorage.ErrNotFound):
				continue
			case err != nil:
				return nil, nil, fmt.Errorf("get series %d: %w", ref, err)
			}
			id, scratch = identify(builder.Labels(), q.key, scratch)
			if page != nil {
				page.store(ref, id)
			}
		}
		switch keeps, err := q.keep(id.key); {
		case err != nil:
			return nil, nil, damage.ByReader(err)
		case keeps:
			kept = append(kept, ref)
			if identified {
				ids = append(ids, id)
			}
		}
	}
	return kept, ids, p.Err()
}

// identify returns who a series is, and scratch for the next one.
func identify(ls labels.Labels, key func(labels.Labels) uint64, scratch []byte) (identity, []byte) {
	scratch = ls.Bytes(scratch)
	return identity{key(ls), maphash.Bytes(hashSeed, scratch)}, scratch
}
