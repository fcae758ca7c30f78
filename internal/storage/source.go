package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// source is the head, or a block.
type source struct {
	*keyedQuerier
	// guard runs what reads.
	guard func(read func() error) error
	// dir is that of a block.
	dir string
	// late is set instead of all else for a head with late samples.
	late *keptHead
}

// sourceReader reads the series of a source, and their chunks.
type sourceReader struct {
	blockReader
	source *source
	// entries is nil for the head, and for a block in which nothing was found.
	entries *indexEntries
	// late is set instead of all else for a head with late samples.
	late *lateSeries
}

func (s *source) reader(hints *promstorage.SelectHints) (sourceReader, error) {
	if s.late != nil {
		return sourceReader{source: s, late: &lateSeries{}}, nil
	}
	r, err := s.open(hints)
	if err != nil {
		return sourceReader{}, err
	}
	return sourceReader{blockReader: r, source: s}, nil
}

// ofHead tells whether it reads the head, for one goroutine alone.
func (r *sourceReader) ofHead() bool { return r.source.dir == "" && r.late == nil }

// find returns the series that are kept, and who they are if that is asked for.
func (r *sourceReader) find(ctx context.Context, hints *promstorage.SelectHints, ms []*labels.Matcher, identified bool) ([]promstorage.SeriesRef, []identity, error) {
	if r.late != nil {
		return r.late.find(r.source.late.Select(ctx, false, hints, ms...), r.source.late.key, identified)
	}
	p, err := tsdb.PostingsForMatchers(ctx, r.index, ms...)
	if err != nil {
		return nil, nil, err
	}
	return r.source.filter(ctx, r.index, p, identified)
}

// joinable tells whether nothing is deleted.
func (r *sourceReader) joinable() bool { return r.late != nil || r.deleted.Total() == 0 }

// prepare prepares reading what was found, and tells whether chunks can be read as they are: each has
// bytes.
func (r *sourceReader) prepare() bool {
	if r.late != nil {
		return true
	}
	if r.ofHead() {
		_, copies := r.chunks.(tsdb.ChunkReaderWithCopy)
		return copies
	}
	entries, err := openEntries(r.source.dir)
	if err != nil {
		// As without a file descriptor to spare, which is no damage. The TSDB has the index open.
		return false
	}
	r.source.opened = append(r.source.opened, entries)
	r.entries = entries
	return entries.aligned()
}

// lateSeries are series of a head with late samples, as the TSDB reads them: one reader at a time.
type lateSeries struct {
	mu  sync.Mutex
	all []promstorage.ChunkSeries
}

// find reads a set; references are indices.
func (l *lateSeries) find(set promstorage.ChunkSeriesSet, key func(labels.Labels) uint64, identified bool) (refs []promstorage.SeriesRef, ids []identity, err error) {
	var scratch []byte
	for set.Next() {
		at := set.At()
		if identified {
			var id identity
			id, scratch = identify(at.Labels(), key, scratch)
			ids = append(ids, id)
		}
		refs, l.all = append(refs, promstorage.SeriesRef(len(l.all))), append(l.all, at)
	}
	return refs, ids, set.Err()
}

// chunk reads a chunk: a copy of one that is still appended to.
func (r *sourceReader) chunk(m chunks.Meta) (chunks.Meta, error) {
	var err error
	if c, ok := r.chunks.(tsdb.ChunkReaderWithCopy); ok {
		// What is appended to has no end yet by the index.
		m.Chunk, _, m.MaxTime, err = c.ChunkOrIterableWithCopy(m)
	} else {
		m.Chunk, _, err = r.chunks.ChunkOrIterable(m)
	}
	if err == nil && m.Chunk == nil {
		err = errors.New("it is no single chunk")
	}
	if err != nil {
		return m, fmt.Errorf("read chunk %d: %w", m.Ref, err)
	}
	return m, nil
}
