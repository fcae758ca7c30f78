package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"google.golang.org/grpc"

	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Select streams the peer's series that are selected, sorted by labels, chunks as stored.
// The stream ends when the set is exhausted or ctx is done, whichever is first: a caller
// that stops early cancels ctx. The epoch is that of table t.
func (p *Peer) Select(ctx context.Context, t *table.Table, sel Selection) storage.ChunkSeriesSet {
	set := p.newSet(ctx, t, peerpb.Peer_Select_FullMethodName)
	stream, err := p.client.Select(ctx, p.selectionToProto(t, sel))
	if err != nil {
		set.end(err)
	}
	set.stream, set.spent = stream, sel.Spent
	return set
}

func (p *Peer) selectionToProto(t *table.Table, sel Selection) *peerpb.SelectRequest {
	return &peerpb.SelectRequest{
		Header: p.header(t), MinTimeMs: sel.Mint, MaxTimeMs: sel.Maxt,
		Matchers: matchersToProto(sel.Matchers), Hints: hintsToProto(sel.Hints), Proof: proofToProto(sel.Proof), Part: partToProto(sel.Part), Encoded: sel.Encoded,
		Measure: sel.Spent != nil,
	}
}

func (p *Peer) newSet(ctx context.Context, t *table.Table, method string) *StreamedSet {
	return &StreamedSet{ctx: ctx, peer: p, table: t, method: method, start: time.Now(), builder: labels.NewScratchBuilder(16)}
}

// StreamedSet is a storage.ChunkSeriesSet over the frames of one stream.
type StreamedSet struct {
	ctx     context.Context
	peer    *Peer
	table   *table.Table
	method  string
	start   time.Time
	stream  grpc.ServerStreamingClient[peerpb.SelectResponse]
	builder labels.ScratchBuilder

	// spent, if set, is where what comes is noted.
	spent *spent.Node

	frame    []*peerpb.ChunkedSeries
	current  *storage.ChunkSeriesEntry
	warnings annotations.Annotations
	err      error
	done     bool
}

// Next implements storage.ChunkSeriesSet.
func (s *StreamedSet) Next() bool {
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

// window reads the first message of a hand-off. It is nil if the stream ends instead.
func (s *StreamedSet) window() *peerpb.Window {
	resp, err := s.stream.Recv()
	if err != nil {
		s.end(err)
		return nil
	}
	if resp.Window == nil {
		s.done = true
		s.err = errors.New("the peer hands off without a window")
	}
	s.frame = resp.Series
	return resp.Window
}

// pop returns the next entry of the stream, or nil at its end.
func (s *StreamedSet) pop() *peerpb.ChunkedSeries {
	for !s.done && len(s.frame) == 0 {
		resp, err := s.stream.Recv()
		if err != nil {
			s.end(err)
			break
		}
		s.frame = resp.Series
		received(s.spent, resp)
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

func (s *StreamedSet) end(err error) {
	s.done = true
	if errors.Is(err, io.EOF) {
		s.peer.owner.observe(string(s.peer.id), s.method, s.start, nil)
		return
	}
	s.peer.owner.observe(string(s.peer.id), s.method, s.start, err)
	s.err = s.peer.fail(s.ctx, s.table, err)
}

func (s *StreamedSet) decode(p *peerpb.ChunkedSeries) (*storage.ChunkSeriesEntry, error) {
	ls, err := labelsFromPairs(&s.builder, p.Labels)
	if err != nil {
		return nil, err
	}
	metas := make([]chunks.Meta, len(p.Chunks))
	for i, c := range p.Chunks {
		chunk, err := chunkFromProto(c)
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

// chunkFromProto refuses what is no chunk. Iterators tell by an error where the data of a
// chunk end too early, but panic where they end within its header.
func chunkFromProto(c *peerpb.Chunk) (chunkenc.Chunk, error) {
	if c.Encoding > math.MaxUint8 {
		return nil, fmt.Errorf("encoding %d is not known", c.Encoding)
	}
	header := 3 // the number of samples, and flags
	if chunkenc.Encoding(c.Encoding) == chunkenc.EncXOR {
		header = 2
	}
	if len(c.Data) < header {
		return nil, fmt.Errorf("%d bytes of encoding %d, whose header has %d", len(c.Data), c.Encoding, header)
	}
	return chunkenc.FromData(chunkenc.Encoding(c.Encoding), c.Data)
}

// At implements storage.ChunkSeriesSet.
func (s *StreamedSet) At() storage.ChunkSeries { return s.current }

// Err implements storage.ChunkSeriesSet.
func (s *StreamedSet) Err() error { return s.err }

// Warnings implements storage.ChunkSeriesSet.
func (s *StreamedSet) Warnings() annotations.Annotations { return s.warnings }
