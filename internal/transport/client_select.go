package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"google.golang.org/grpc"

	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Select streams the peer's series in [mint, maxt] that match, sorted by labels, chunks
// as stored. The stream ends when the set is exhausted or ctx is done, whichever is first:
// a caller that stops early cancels ctx.
func (p *Peer) Select(ctx context.Context, t *table.Table, mint, maxt int64, hints *storage.SelectHints, ms []*labels.Matcher) storage.ChunkSeriesSet {
	set := &streamedSet{ctx: ctx, peer: p, table: t, start: time.Now(), builder: labels.NewScratchBuilder(16)}
	set.stream, set.err = p.client.Select(ctx, &peerpb.SelectRequest{
		Header: p.header(t), MinTimeMs: mint, MaxTimeMs: maxt, Matchers: matchersToProto(ms), Hints: hintsToProto(hints),
	})
	if set.err != nil {
		set.end(set.err)
	}
	return set
}

// streamedSet is a storage.ChunkSeriesSet over the frames of one stream.
type streamedSet struct {
	ctx     context.Context
	peer    *Peer
	table   *table.Table
	start   time.Time
	stream  grpc.ServerStreamingClient[peerpb.SelectResponse]
	builder labels.ScratchBuilder

	frame    []*peerpb.ChunkedSeries
	current  *storage.ChunkSeriesEntry
	warnings annotations.Annotations
	err      error
	done     bool
}

// Next implements storage.ChunkSeriesSet.
func (s *streamedSet) Next() bool {
	next := s.pop()
	for next != nil && next.More {
		rest := s.pop()
		if rest == nil {
			if s.err == nil {
				s.err = errors.New("the stream ended in the middle of a series")
			}
			return false
		}
		next.Chunks = append(next.Chunks, rest.Chunks...)
		next.More = rest.More
	}
	if next == nil {
		return false
	}
	var err error
	if s.current, err = s.decode(next); err != nil {
		s.err = fmt.Errorf("decoding a frame: %w", err)
		s.done = true
		return false
	}
	return true
}

// pop returns the next entry of the stream, or nil at its end.
func (s *streamedSet) pop() *peerpb.ChunkedSeries {
	for !s.done && len(s.frame) == 0 {
		resp, err := s.stream.Recv()
		if err != nil {
			s.end(err)
			break
		}
		s.frame = resp.Series
		for _, w := range resp.Warnings {
			s.warnings.Add(errors.New(w))
		}
	}
	if s.done {
		return nil
	}
	next := s.frame[0]
	s.frame = s.frame[1:]
	return next
}

func (s *streamedSet) end(err error) {
	s.done = true
	if errors.Is(err, io.EOF) {
		s.peer.owner.observe(string(s.peer.id), peerpb.Peer_Select_FullMethodName, s.start, nil)
		return
	}
	s.peer.owner.observe(string(s.peer.id), peerpb.Peer_Select_FullMethodName, s.start, err)
	s.err = s.peer.fail(s.ctx, s.table, err)
}

func (s *streamedSet) decode(p *peerpb.ChunkedSeries) (*storage.ChunkSeriesEntry, error) {
	ls, err := labelsFromPairs(&s.builder, p.Labels)
	if err != nil {
		return nil, err
	}
	metas := make([]chunks.Meta, len(p.Chunks))
	for i, c := range p.Chunks {
		chunk, err := chunkenc.FromData(chunkenc.Encoding(c.Encoding), c.Data)
		if err != nil {
			return nil, fmt.Errorf("series %s: chunk %d: %w", ls, i, err)
		}
		metas[i] = chunks.Meta{MinTime: c.MinTimeMs, MaxTime: c.MaxTimeMs, Chunk: chunk}
	}
	return &storage.ChunkSeriesEntry{
		Lset:            ls,
		ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator { return storage.NewListChunkSeriesIterator(metas...) },
	}, nil
}

// At implements storage.ChunkSeriesSet.
func (s *streamedSet) At() storage.ChunkSeries { return s.current }

// Err implements storage.ChunkSeriesSet.
func (s *streamedSet) Err() error { return s.err }

// Warnings implements storage.ChunkSeriesSet.
func (s *streamedSet) Warnings() annotations.Annotations { return s.warnings }
