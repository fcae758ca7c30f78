package handoff

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/storage"
)

// countingStore counts the queriers that are open.
type countingStore struct {
	Store
	open int
}

// Querier implements Store.
func (s *countingStore) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.Store.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	s.open++
	return &countedQuerier{q, s}, nil
}

type countedQuerier struct {
	storage.Querier
	store *countingStore
}

// Close implements storage.Querier.
func (q *countedQuerier) Close() error { q.store.open--; return q.Querier.Close() }

// atEnd calls end when a set has ended.
type atEnd struct {
	storage.ChunkSeriesSet
	end func()
}

// Next implements storage.ChunkSeriesSet.
func (s *atEnd) Next() bool {
	if s.ChunkSeriesSet.Next() {
		return true
	}
	s.end()
	return false
}

// A block goes into service under the lock of the TSDB's compactions, and a compaction that
// deletes a block waits, under that lock, for those who read it: whoever reads while he waits
// for a block to be imported may wait for ever.
func TestNothingIsReadWhileABlockGoesIntoService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMoverRig(t, 1<<30)
		first := time.Now().Add(-24 * time.Hour)
		r.everywhere("m", first, 10)
		c := &countingStore{Store: r.own}
		r.store = c
		imports := 0
		r.onImport = func(set storage.ChunkSeriesSet) storage.ChunkSeriesSet {
			return &atEnd{set, func() {
				imports++
				if c.open > 0 {
					t.Errorf("%d queriers of the own store are open when the block is complete", c.open)
				}
			}}
		}
		r.wantReady()
		if imports == 0 || c.open != 0 {
			t.Errorf("%d blocks, %d queriers left open", imports, c.open)
		}
	})
}
