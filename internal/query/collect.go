package query

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// Estimates of what buffering costs beside the bytes of labels and chunks.
const (
	seriesOverhead = 48
	chunkOverhead  = 48
)

// chunk is a chunk as stored. Its data is immutable.
type chunk struct {
	mint, maxt int64
	enc        chunkenc.Encoding
	data       []byte
}

// compare is a total order under which only identical chunks are equal.
func (c chunk) compare(d chunk) int {
	return cmp.Or(
		cmp.Compare(c.mint, d.mint),
		cmp.Compare(c.maxt, d.maxt),
		cmp.Compare(c.enc, d.enc),
		bytes.Compare(c.data, d.data),
	)
}

func compareChunks(a, b chunk) int { return a.compare(b) }

// stored is one copy of a series: its chunks, sorted.
type stored struct {
	labels labels.Labels
	chunks []chunk
}

// answer is all that one node answered to a select.
type answer struct {
	series   []stored // sorted by labels, without duplicates
	warnings annotations.Annotations
}

// collect buffers the answer of a source. It copies the chunks, since those of a local
// store are mapped files that may go away with its querier.
func collect(ctx context.Context, s Source, req SelectRequest, sh *share) (answer, error) {
	c := collector{share: sh, labelsOnly: req.Hints.Func == "series"}
	return c.read(ctx, s.Select(ctx, req))
}

type collector struct {
	share      *share
	labelsOnly bool
	slab       []byte  // what is kept of chunks' bytes lies at its end
	lists      []chunk // what is kept of lists of chunks lies at its end
	chunks     []chunk // of the present series
	it         chunks.Iterator
}

func (c *collector) read(ctx context.Context, set storage.ChunkSeriesSet) (a answer, err error) {
	if closer, ok := set.(io.Closer); ok {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	for set.Next() {
		if err := ctx.Err(); err != nil {
			return answer{}, err
		}
		cs := set.At()
		s := stored{labels: cs.Labels()}
		if n := len(a.series); n > 0 && labels.Compare(a.series[n-1].labels, s.labels) >= 0 {
			return answer{}, fmt.Errorf("series %s follows %s: out of order", s.labels, a.series[n-1].labels)
		}
		if err := c.share.take(int64(s.labels.ByteSize()) + seriesOverhead); err != nil {
			return answer{}, err
		}
		if !c.labelsOnly {
			if s.chunks, err = c.readChunks(cs); err != nil {
				return answer{}, fmt.Errorf("reading series %s: %w", s.labels, err)
			}
		}
		a.series = append(a.series, s)
	}
	a.warnings = set.Warnings()
	return a, set.Err()
}

func (c *collector) readChunks(cs storage.ChunkSeries) ([]chunk, error) {
	c.chunks = c.chunks[:0]
	for c.it = cs.Iterator(c.it); c.it.Next(); {
		meta := c.it.At()
		data, err := checkChunk(meta)
		if err != nil {
			return nil, err
		}
		if numSamples(data) == 0 {
			continue
		}
		if err := c.share.take(int64(len(data)) + chunkOverhead); err != nil {
			return nil, err
		}
		c.chunks = append(c.chunks, chunk{
			mint: meta.MinTime,
			maxt: meta.MaxTime,
			enc:  meta.Chunk.Encoding(),
			data: keep(&c.slab, data, minSlab, maxSlab),
		})
	}
	if err := c.it.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(c.chunks, compareChunks)
	return keep(&c.lists, c.chunks, minSlab/chunkOverhead, maxSlab/chunkOverhead), nil
}

// Slabs grow from minSlab to maxSlab bytes: a small answer wastes little, and a large one
// does not allocate for every chunk.
const (
	minSlab = 4 << 10
	maxSlab = 256 << 10
)

// keep appends a copy of list to the slab, or to a new one if there is no room, and
// returns the copy.
func keep[T any](slab *[]T, list []T, smallest, largest int) []T {
	if cap(*slab)-len(*slab) < len(list) {
		size := min(max(2*cap(*slab), smallest), largest)
		*slab = make([]T, 0, max(size, len(list)))
	}
	start := len(*slab)
	*slab = append(*slab, list...)
	return (*slab)[start:len(*slab):len(*slab)]
}

// checkChunk returns the bytes of a chunk that can be iterated without a panic.
func checkChunk(m chunks.Meta) ([]byte, error) {
	if m.Chunk == nil {
		return nil, fmt.Errorf("chunk [%d, %d] has no data", m.MinTime, m.MaxTime)
	}
	enc := m.Chunk.Encoding()
	if !chunkenc.IsValidEncoding(enc) {
		return nil, fmt.Errorf("chunk [%d, %d] has the unknown encoding %d", m.MinTime, m.MaxTime, enc)
	}
	// The count of samples, and in all encodings but the oldest a byte of flags.
	header := 3
	if enc == chunkenc.EncXOR {
		header = 2
	}
	data := m.Chunk.Bytes()
	if len(data) < header || m.MinTime > m.MaxTime {
		return nil, fmt.Errorf("chunk [%d, %d] of %d bytes in encoding %s is malformed", m.MinTime, m.MaxTime, len(data), enc)
	}
	return data, nil
}

// numSamples reads the header that all encodings share.
func numSamples(data []byte) int { return int(binary.BigEndian.Uint16(data)) }
