package storage

import (
	"cmp"
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// keptSet leaves series out while a set is read.
type keptSet struct {
	promstorage.ChunkSeriesSet
	keep func(labels.Labels) (bool, error)
	// ctx is that of the select: who reads the set cannot look at it while series are left out.
	ctx context.Context
	err error
}

// leftOut is how many series are left out before the context is looked at.
const leftOut = 512

// Next implements storage.ChunkSeriesSet.
func (s *keptSet) Next() bool {
	for n := 1; s.err == nil && s.ChunkSeriesSet.Next(); n++ {
		var keeps bool
		if keeps, s.err = s.keep(s.At().Labels()); keeps {
			return true
		}
		if s.err == nil && n%leftOut == 0 {
			s.err = context.Cause(s.ctx)
		}
	}
	return false
}

// Err implements storage.ChunkSeriesSet.
func (s *keptSet) Err() error { return cmp.Or(s.err, s.ChunkSeriesSet.Err()) }

// keptHead leaves series of the head out before it sorts them: the head has them in no order,
// and most are left out where others serve them.
type keptHead struct {
	promstorage.ChunkQuerier
	key  func(labels.Labels) uint64
	keep func(key uint64) (bool, error)
}

// Select implements storage.ChunkQuerier.
func (q *keptHead) Select(ctx context.Context, sorted bool, hints *promstorage.SelectHints, ms ...*labels.Matcher) promstorage.ChunkSeriesSet {
	keep := func(ls labels.Labels) (bool, error) { return q.keep(q.key(ls)) }
	set := &keptSet{ChunkSeriesSet: q.ChunkQuerier.Select(ctx, false, hints, ms...), keep: keep, ctx: ctx}
	if !sorted {
		return set
	}
	var all []promstorage.ChunkSeries
	for set.Next() {
		if ctx.Err() != nil {
			return promstorage.ErrChunkSeriesSet(context.Cause(ctx))
		}
		all = append(all, set.At())
	}
	slices.SortFunc(all, func(a, b promstorage.ChunkSeries) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &listedSet{rest: all, err: set.Err(), warnings: set.Warnings()}
}

// listedSet implements storage.ChunkSeriesSet over series that are known.
type listedSet struct {
	rest     []promstorage.ChunkSeries
	current  promstorage.ChunkSeries
	err      error
	warnings annotations.Annotations
}

// Next implements storage.ChunkSeriesSet.
func (s *listedSet) Next() bool {
	if s.err != nil || len(s.rest) == 0 {
		return false
	}
	s.current, s.rest = s.rest[0], s.rest[1:]
	return true
}

// At implements storage.ChunkSeriesSet.
func (s *listedSet) At() promstorage.ChunkSeries { return s.current }

// Err implements storage.ChunkSeriesSet.
func (s *listedSet) Err() error { return s.err }

// Warnings implements storage.ChunkSeriesSet.
func (s *listedSet) Warnings() annotations.Annotations { return s.warnings }
