package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// Who reads series in whatever order they come, and chunks as they are, gets those of the head and
// of blocks joined by identity: nothing is sorted or merged by labels, which are read once for each
// series, and several goroutines can read.

// joinedQuerier joins the series of sources. What cannot be joined is left to the querier that it has.
type joinedQuerier struct {
	promstorage.ChunkQuerier
	// sources are in the order of time, the head last.
	sources []*source
	// shared is set where not all labels of series of the head are looked at.
	shared *sharedLabels
	// looks is set where not all samples are looked at.
	looks func(mint, maxt int64) bool
	merge promstorage.VerticalChunkSeriesMergeFunc
}

// Select implements storage.ChunkQuerier.
func (q *joinedQuerier) Select(ctx context.Context, sorted bool, hints *promstorage.SelectHints, ms ...*labels.Matcher) promstorage.ChunkSeriesSet {
	if sorted || hints == nil || !hints.DisableTrimming {
		return q.ChunkQuerier.Select(ctx, sorted, hints, ms...)
	}
	set, err := q.join(ctx, hints, ms)
	switch {
	case err != nil:
		return promstorage.ErrChunkSeriesSet(err)
	case set == nil:
		return q.ChunkQuerier.Select(ctx, sorted, hints, ms...)
	}
	return set
}

// join returns nothing where that does not pay, or a source does not allow it.
func (q *joinedQuerier) join(ctx context.Context, hints *promstorage.SelectHints, ms []*labels.Matcher) (promstorage.ChunkSeriesSet, error) {
	set := &joinedSet{hints: hints, looks: q.looks, merge: q.merge, readers: make([]sourceReader, len(q.sources)), shared: q.shared.reader()}
	for i, src := range q.sources {
		err := src.guard(func() (err error) {
			set.readers[i], err = src.reader(hints)
			return err
		})
		if err != nil || !set.readers[i].joinable() {
			return nil, err
		}
	}
	var js joins
	for i, src := range q.sources {
		var refs []promstorage.SeriesRef
		var ids []identity
		prepared := true
		err := src.guard(func() (err error) {
			refs, ids, err = set.readers[i].find(ctx, hints, ms, len(q.sources) > 1)
			if err == nil && len(refs) > 0 {
				prepared = set.readers[i].prepare()
			}
			return err
		})
		if err != nil || !prepared {
			return nil, err
		}
		if len(q.sources) == 1 {
			set.parts = partsOfOne(refs)
			return set, nil
		}
		if fits, err := js.add(ctx, refs, ids); err != nil || !fits {
			return nil, err
		}
	}
	set.parts = js.parts()
	return set, nil
}

// mostJoined bounds the parts that are joined, at some 40 bytes each. The TSDB's own way takes more
// time, and no such memory.
const mostJoined = 4 << 20

// joins collects what sources have of series. The zero value is empty.
type joins struct {
	series map[identity]uint32
	// of and refs are by source: which series is meant, and its reference there.
	of   [][]uint32
	refs [][]promstorage.SeriesRef
	n    int
}

// unwatched is how many series are added before the context is looked at: some 10 ms.
const unwatched = 1 << 16

// add adds the series of the next source, unless that would be too many.
func (j *joins) add(ctx context.Context, refs []promstorage.SeriesRef, ids []identity) (fits bool, err error) {
	if j.n += len(refs); j.n > mostJoined {
		return false, nil
	}
	if j.series == nil {
		j.series = make(map[identity]uint32, len(ids))
	}
	of := make([]uint32, len(ids))
	for i, id := range ids {
		if i%unwatched == 0 && ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n, known := j.series[id]
		if !known {
			n = uint32(len(j.series))
			j.series[id] = n
		}
		of[i] = n
	}
	j.of, j.refs = append(j.of, of), append(j.refs, refs)
	return true, nil
}

// part is what one source has of a series, the last one of it or not.
type part struct {
	ref    promstorage.SeriesRef
	source int32
	last   bool
}

// parts returns all of them: series in the order in which they came first, which is that of labels
// in the first block, and of each its sources in their order.
func (j *joins) parts() []part {
	ends := make([]uint32, len(j.series)+1)
	for _, of := range j.of {
		for _, n := range of {
			ends[n+1]++
		}
	}
	for i := 1; i < len(ends); i++ {
		ends[i] += ends[i-1]
	}
	// From here on ends[n] is where the next part of series n belongs, and in the end where they end.
	parts := make([]part, j.n)
	for source, of := range j.of {
		for i, n := range of {
			parts[ends[n]] = part{ref: j.refs[source][i], source: int32(source)}
			ends[n]++
		}
	}
	for _, end := range ends[:len(j.series)] {
		parts[end-1].last = true
	}
	return parts
}

// partsOfOne returns the parts of series that one source has.
func partsOfOne(refs []promstorage.SeriesRef) []part {
	parts := make([]part, len(refs))
	for i, ref := range refs {
		parts[i] = part{ref: ref, last: true}
	}
	return parts
}

// joinedSet reads series, and their chunks as they are, in the order of the parts. What At returns
// changes with the next call of Next, its labels and the bytes of its chunks do not. Unlike the
// TSDB's own sets it allocates for chunks alone. Not for concurrent use, but what it is divided into is.
type joinedSet struct {
	readers []sourceReader // by source
	hints   *promstorage.SelectHints
	looks   func(mint, maxt int64) bool // nil for all samples
	merge   promstorage.VerticalChunkSeriesMergeFunc
	parts   []part // of the series to come

	// shared is set where not all labels of series of the head are looked at.
	shared  *sharedReader
	labels  labels.Labels
	labeled bool
	builder labels.ScratchBuilder
	found   []chunks.Meta
	late    chunks.Iterator
	// metas are the chunks of all sources; ends is where those of each end.
	metas []chunks.Meta
	ends  []int
	// merged is the series where chunks of its sources overlap.
	merged promstorage.ChunkSeries
	err    error
}

// leastDivided is how many series are not worth to be divided further.
const leastDivided = 256

// Divide returns sets with all series to come, each for a goroutine of its own, or nothing if
// one set will do. After it, the set that was divided is empty.
func (s *joinedSet) Divide(most int) []promstorage.ChunkSeriesSet {
	n := min(most, len(s.parts)/leastDivided)
	if n < 2 || s.err != nil {
		return nil
	}
	sets := make([]promstorage.ChunkSeriesSet, n)
	all, begin := s.parts, 0
	for i := range sets {
		end := (i + 1) * len(all) / n
		for ; end < len(all) && !all[end-1].last; end++ {
		}
		sets[i] = s.divided(all[begin:end], i == 0)
		begin = end
	}
	s.parts = nil
	return sets
}

// divided returns a set of parts. Who reads the head needs a reader of it, which the first one has.
func (s *joinedSet) divided(parts []part, first bool) *joinedSet {
	d := &joinedSet{readers: s.readers, hints: s.hints, looks: s.looks, merge: s.merge, parts: parts}
	if s.shared != nil {
		d.shared = s.shared.reader()
	}
	if last := len(s.readers) - 1; !first && s.readers[last].ofHead() {
		d.readers = append([]sourceReader(nil), s.readers...)
		d.readers[last], d.err = s.readers[last].source.reader(s.hints)
	}
	return d
}

// Next implements storage.ChunkSeriesSet.
func (s *joinedSet) Next() bool {
	for s.err == nil && len(s.parts) > 0 {
		n := 1
		for ; !s.parts[n-1].last; n++ {
		}
		if s.err = s.read(s.parts[:n]); s.err != nil {
			return false
		}
		if s.parts = s.parts[n:]; len(s.metas) > 0 {
			return true
		}
	}
	return false
}

// read reads what is there of a series.
func (s *joinedSet) read(parts []part) error {
	s.metas, s.ends, s.merged, s.labeled = s.metas[:0], s.ends[:0], nil, false
	overlap := false
	for _, p := range parts {
		before := len(s.metas)
		if err := s.readPart(p); err != nil {
			return err
		}
		if 0 < before && before < len(s.metas) && s.metas[before].MinTime <= s.metas[before-1].MaxTime {
			overlap = true
		}
		s.ends = append(s.ends, len(s.metas))
	}
	if len(s.metas) == 0 {
		return nil
	}
	for i := len(parts) - 1; i >= 0 && !s.labeled; i-- {
		if err := s.readLabels(parts[i]); err != nil {
			return err
		}
	}
	if overlap {
		s.mergeParts()
	}
	return nil
}

// readPart reads the chunks of a part, and its labels if they come with that.
func (s *joinedSet) readPart(p part) error {
	r := &s.readers[p.source]
	// What guards the whole is the head's.
	switch {
	case r.late != nil:
		return s.readLate(r.late, p.ref)
	case r.ofHead():
		return s.readHead(r, p.ref)
	}
	return r.source.guard(func() error {
		if err := r.entries.chunks(p.ref, &s.builder, &s.found); err != nil {
			return fmt.Errorf("get chunks of series %d: %w", p.ref, err)
		}
		return s.readFound(r)
	})
}

func (s *joinedSet) readHead(r *sourceReader, ref promstorage.SeriesRef) error {
	switch err := r.index.Series(ref, &s.builder, &s.found); {
	case errors.Is(err, promstorage.ErrNotFound): // It has left the head.
		return nil
	case err != nil:
		return fmt.Errorf("get series %d: %w", ref, err)
	}
	s.labels, s.labeled = s.builder.Labels(), true
	if s.shared != nil {
		s.labels = s.shared.of(ref, s.labels)
	}
	return s.readFound(r)
}

func (s *joinedSet) readLate(l *lateSeries, ref promstorage.SeriesRef) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.labels, s.labeled = l.all[ref].Labels(), true
	s.late = l.all[ref].Iterator(s.late)
	for s.late.Next() {
		if m := s.late.At(); s.wants(m) {
			s.metas = append(s.metas, m)
		}
	}
	return s.late.Err()
}

// wants tells whether a chunk has samples that are asked for, by its times.
func (s *joinedSet) wants(m chunks.Meta) bool {
	return m.MaxTime >= s.hints.Start && m.MinTime <= s.hints.End && (s.looks == nil || s.looks(m.MinTime, m.MaxTime))
}

// readFound reads the chunks that were found, but for those of which nothing is asked for.
func (s *joinedSet) readFound(r *sourceReader) error {
	for _, m := range s.found {
		if !s.wants(m) {
			continue
		}
		m, err := r.chunk(m)
		if err != nil {
			return err
		}
		s.metas = append(s.metas, m)
	}
	return nil
}

// readLabels reads the labels of a part of a block.
func (s *joinedSet) readLabels(p part) error {
	r := &s.readers[p.source]
	if r.entries == nil {
		return nil
	}
	return r.source.guard(func() error {
		if err := r.index.Series(p.ref, &s.builder, nil); err != nil {
			return fmt.Errorf("get labels of series %d: %w", p.ref, err)
		}
		s.labels, s.labeled = s.builder.Labels(), true
		return nil
	})
}

// mergeParts merges chunks of several sources that overlap.
func (s *joinedSet) mergeParts() {
	copies, begin := make([]promstorage.ChunkSeries, 0, len(s.ends)), 0
	for _, end := range s.ends {
		metas := s.metas[begin:end]
		begin = end
		copies = append(copies, &promstorage.ChunkSeriesEntry{Lset: s.labels, ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
			return &chunkList{left: metas}
		}})
	}
	s.merged = s.merge(copies...)
}

// At implements storage.ChunkSeriesSet.
func (s *joinedSet) At() promstorage.ChunkSeries { return s }

// Err implements storage.ChunkSeriesSet.
func (s *joinedSet) Err() error { return s.err }

// Warnings implements storage.ChunkSeriesSet.
func (s *joinedSet) Warnings() annotations.Annotations { return nil }

// Labels implements storage.ChunkSeries.
func (s *joinedSet) Labels() labels.Labels { return s.labels }

// Loaded implements damage.Loaded: what is merged is read when it is asked for.
func (s *joinedSet) Loaded() bool { return s.merged == nil }

// Iterator implements storage.ChunkSeries.
func (s *joinedSet) Iterator(reuse chunks.Iterator) chunks.Iterator {
	if s.merged != nil {
		return s.merged.Iterator(reuse)
	}
	it, ok := reuse.(*chunkList)
	if !ok {
		it = new(chunkList)
	}
	*it = chunkList{left: s.metas}
	return it
}

// chunkList iterates over chunks that are there.
type chunkList struct {
	left []chunks.Meta
	at   chunks.Meta
}

// Next implements chunks.Iterator.
func (it *chunkList) Next() bool {
	if len(it.left) == 0 {
		return false
	}
	it.at, it.left = it.left[0], it.left[1:]
	return true
}

// At implements chunks.Iterator.
func (it *chunkList) At() chunks.Meta { return it.at }

// Err implements chunks.Iterator.
func (it *chunkList) Err() error { return nil }
