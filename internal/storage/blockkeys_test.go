package storage

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// blockOf returns a store with a block of so many series, and how often a key was asked for.
func blockOf(t *testing.T, n int) (s *Store, asked *int) {
	t.Helper()
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	asked = new(int)
	o.Key = func(ls labels.Labels) uint64 { *asked++; return ls.Hash() }
	s = mustOpen(t, o, hooks{fsync: newDisk().fsync})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
	var block []promstorage.ChunkSeries
	base := at(-3 * time.Hour)
	for i := range n {
		block = append(block, chunkSeries(name(fmt.Sprintf("s%04d", i)), floatChunk(t, float64(i), base+1, base+2)))
	}
	if _, err := s.ImportBlock(t.Context(), base, at(-2*time.Hour), chunkSetOf(block...)); err != nil {
		t.Fatal(err)
	}
	*asked = 0
	return s, asked
}

// TestKeysOfBlocksAreRemembered: keys of a block are asked for once, unless there is no room.
func TestKeysOfBlocksAreRemembered(t *testing.T) {
	const n = 3 * keysPerPage
	s, asked := blockOf(t, n)
	for range 3 {
		expectShares(t, s)
	}
	if *asked != n+1 {
		t.Errorf("%d keys for %d series", *asked, n+1)
	}

	s, asked = blockOf(t, n)
	s.blockKeys.most = 1
	expectShares(t, s)
	expectShares(t, s)
	if pages := s.blockKeys.pages.Load(); pages != 1 || *asked <= 4*n {
		t.Errorf("%d pages, %d keys for %d series", pages, *asked, n)
	}
}

// TestKeysOfBlocksAreForgotten: when a new block is read, those of blocks that are gone make room.
func TestKeysOfBlocksAreForgotten(t *testing.T) {
	s, _ := blockOf(t, 1)
	b, k := s.db.Blocks()[0], newBlockKeys(s.opts.Key)
	gone := new(keysOfBlock)
	k.blocks[ulid.MustNew(1, nil)] = gone
	for number := range uint64(7) {
		k.page(gone, number)
	}
	present := func() []*tsdb.Block { return s.db.Blocks() }
	keys := k.of(b, present)
	k.page(keys, 1)
	if k.page(keys, 1) != k.page(k.of(b, present), 1) || len(k.blocks) != 1 || k.pages.Load() != 1 {
		t.Errorf("%d pages of %d blocks", k.pages.Load(), len(k.blocks))
	}
}
