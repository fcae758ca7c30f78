package storage

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"
)

// Queries of a cluster read a share of the series that a node holds, by a hash of their labels,
// the key. Keys of series in the head are remembered by the numbers that the TSDB gives series,
// so that what others serve is left out before anything of it is looked up.

// seriesKeys remembers keys while a TSDB is open: the next one may give numbers anew.
type seriesKeys struct {
	key func(labels.Labels) uint64
	// pages are *keyPage by number. Numbers rise, so pages empty with time, and all of them
	// are dropped when there are far more than the series of the head need.
	pages sync.Map
	count atomic.Int64
}

const keysPerPage = 512

// keyPage has the keys of neighbors. Zero stands for one that is not known.
type keyPage [keysPerPage]atomic.Uint64

// spare is how many more pages there may be than series need.
const spare = 128

func (k *seriesKeys) page(number, series uint64) *keyPage {
	if p, ok := k.pages.Load(number); ok {
		return p.(*keyPage)
	}
	if k.count.Add(1) > int64(4*series/keysPerPage)+spare {
		k.pages.Clear()
		k.count.Store(1)
	}
	p, _ := k.pages.LoadOrStore(number, new(keyPage))
	return p.(*keyPage)
}

// keyedQuerier reads the head, or the part of it that keep tells if it is set.
type keyedQuerier struct {
	promstorage.ChunkQuerier
	head       *keyedHead
	mint, maxt int64
}

// headChunkQuerier is for tsdb.Options.BlockChunkQuerierFunc: the TSDB is asked for its head
// alone.
func (k *seriesKeys) headChunkQuerier(b tsdb.BlockReader, mint, maxt int64) (promstorage.ChunkQuerier, error) {
	if _, ok := b.(*tsdb.Block); ok {
		return promstorage.NoopChunkedQuerier(), nil
	}
	head := &keyedHead{BlockReader: b, keys: k}
	q, err := tsdb.NewBlockChunkQuerier(head, mint, maxt)
	return &keyedQuerier{q, head, mint, maxt}, err
}

// Select implements storage.ChunkQuerier.
func (q *keyedQuerier) Select(ctx context.Context, sorted bool, hints *promstorage.SelectHints, ms ...*labels.Matcher) promstorage.ChunkSeriesSet {
	if q.head.keep != nil {
		q.head.done = ctx
		own := promstorage.SelectHints{Start: q.mint, End: q.maxt}
		if hints != nil {
			own = *hints
		}
		// This has the TSDB ask for a shard.
		own.ShardIndex, own.ShardCount = 0, 1
		hints = &own
	}
	return q.ChunkQuerier.Select(ctx, sorted, hints, ms...)
}

// keyedHead is a head whose one shard is what keep tells.
type keyedHead struct {
	tsdb.BlockReader
	keys *seriesKeys
	keep func(key uint64) bool
	// done ends a select. It carries nothing else.
	done context.Context
}

// Index implements tsdb.BlockReader.
func (h *keyedHead) Index() (tsdb.IndexReader, error) {
	r, err := h.BlockReader.Index()
	return &keyedIndex{IndexReader: r, head: h}, err
}

type keyedIndex struct {
	tsdb.IndexReader
	head    *keyedHead
	builder labels.ScratchBuilder
}

// ShardedPostings implements tsdb.IndexReader.
func (r *keyedIndex) ShardedPostings(p index.Postings, _, _ uint64) index.Postings {
	var kept []promstorage.SeriesRef
	series := r.head.Meta().Stats.NumSeries
	var page *keyPage
	for current := ^uint64(0); p.Next(); {
		ref := p.At()
		if number := uint64(ref) / keysPerPage; number != current {
			if r.head.done.Err() != nil {
				return index.ErrPostings(context.Cause(r.head.done))
			}
			page, current = r.head.keys.page(number, series), number
		}
		key := page[ref%keysPerPage].Load()
		if key == 0 {
			if r.Series(ref, &r.builder, nil) != nil {
				continue // It has left the head.
			}
			key = r.head.keys.key(r.builder.Labels())
			page[ref%keysPerPage].Store(key)
		}
		if r.head.keep(key) {
			kept = append(kept, ref)
		}
	}
	if err := p.Err(); err != nil {
		return index.ErrPostings(err)
	}
	return index.NewListPostings(kept)
}
