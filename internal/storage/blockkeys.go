package storage

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// maxBlockPages bounds what is remembered of all blocks: 128 MiB, for a million or two
// of series with ten labels, in each block that was read. Of others it is found anew.
const maxBlockPages = 128 << 20 / (16 * keysPerPage)

// blockKeys remembers keys of series in blocks, which never change.
type blockKeys struct {
	key func(labels.Labels) uint64
	// most is maxBlockPages but in tests.
	most int64
	// pages is how many all blocks have.
	pages atomic.Int64

	mu     sync.Mutex
	blocks map[ulid.ULID]*keysOfBlock
}

// keysOfBlock has *keyPage by number.
type keysOfBlock struct {
	pages sync.Map
	count atomic.Int64
}

func newBlockKeys(key func(labels.Labels) uint64) *blockKeys {
	return &blockKeys{key: key, most: maxBlockPages, blocks: map[ulid.ULID]*keysOfBlock{}}
}

// of returns the keys of a block. It forgets those of blocks that are gone when it meets a new one.
func (k *blockKeys) of(b *tsdb.Block, present func() []*tsdb.Block) *keysOfBlock {
	id := b.Meta().ULID
	k.mu.Lock()
	defer k.mu.Unlock()
	if keys := k.blocks[id]; keys != nil {
		return keys
	}
	blocks := present()
	for other, keys := range k.blocks {
		if !slices.ContainsFunc(blocks, func(b *tsdb.Block) bool { return b.Meta().ULID == other }) {
			// A query that still reads it may add a page, which is counted for good: few.
			k.pages.Add(-keys.count.Load())
			delete(k.blocks, other)
		}
	}
	k.blocks[id] = new(keysOfBlock)
	return k.blocks[id]
}

// page returns a page of a block, nil if it would be one too many.
func (k *blockKeys) page(keys *keysOfBlock, number uint64) *keyPage {
	if p, ok := keys.pages.Load(number); ok {
		return p.(*keyPage)
	}
	if k.pages.Load() >= k.most {
		return nil
	}
	p, known := keys.pages.LoadOrStore(number, new(keyPage))
	if !known {
		k.pages.Add(1)
		keys.count.Add(1)
	}
	return p.(*keyPage)
}

// chunkQuerier returns a querier over the part of a block that keep tells. All that it reads is
// opened at once: a block that is about to be closed cannot be opened any more.
func (k *blockKeys) chunkQuerier(b *tsdb.Block, present func() []*tsdb.Block, mint, maxt int64, keep func(key uint64) (bool, error)) (*keyedQuerier, error) {
	base, err := tsdb.NewBlockChunkQuerier(b, mint, maxt)
	if err != nil {
		return nil, err
	}
	keys := k.of(b, present)
	q := &keyedQuerier{ChunkQuerier: base, from: b, key: k.key, keep: keep, mint: mint, maxt: maxt}
	q.page = func(number uint64) *keyPage { return k.page(keys, number) }
	r, err := q.reopen(&promstorage.SelectHints{})
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	q.open = func(*promstorage.SelectHints) (blockReader, error) { return r, nil }
	return q, nil
}
