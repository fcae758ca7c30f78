package frame

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/series"
)

// shortEntry is more than an ordinary entry takes, but for a histogram.
const shortEntry = 1 + 4*binary.MaxVarintLen64

// Encoder is the sender's end of one stream. The zero value is that of a new one. It is not
// for concurrent use.
type Encoder struct {
	// known holds, by number, one more than the serial of the handle that the receiver knows;
	// 0 for none. Pages are made when they are needed.
	known   [][]uint64
	entries int

	// What follows is of the frame under way.

	// next is the number that follows the previous one; time and start are those of the
	// previous sample that had one.
	next        int64
	time, start int64
	memory      int
	// texts numbers those of the frame, from 1.
	texts map[string]uint64
	// defined is what is taken back if the frame comes to nothing.
	defined []definition
}

// definition is what stood in the dictionary at a number.
type definition struct {
	index uint32
	old   uint64
}

// pageSize is how many numbers a page of the encoder has.
const pageSize = 4096

// keptTexts bounds how many texts a frame may have had for its map to be used again.
const keptTexts = 1 << 14

// Append appends a frame with items of the batch to dst, from number first on: its series,
// then its metadata. It returns which item the next frame begins with; there is none if that
// is Items(b). After an error dst is as it was, and so is the dictionary.
//
// A frame holds one item at least, if there is one.
func (e *Encoder) Append(dst []byte, b *series.Batch, first int) (out []byte, next int, err error) {
	e.begin()
	start := len(dst)
	out = append(dst, make([]byte, headerBytes)...)
	samples := 0
	i := first
	for ; i < len(b.Series); i++ {
		if i > first && e.full(len(out)-start) {
			break
		}
		s := &b.Series[i]
		if out, err = e.series(out, s); err != nil {
			e.takeBack()
			return dst, first, fmt.Errorf("encoding series %s: %w", s.Labels, err)
		}
		samples += len(s.Samples)
	}
	seriesEnd := i
	for ; i >= len(b.Series) && i < Items(b); i++ {
		if i > first && e.full(len(out)-start) {
			break
		}
		out = e.metadata(out, &b.Metadata[i-len(b.Series)])
	}
	if e.memory > maxMemory || len(out)-start > MaxBytes {
		e.takeBack()
		return dst, first, fmt.Errorf("item %d of the batch is too large: %d bytes, %d decoded", first, len(out)-start, e.memory)
	}
	header := out[start:]
	binary.LittleEndian.PutUint32(header, uint32(seriesEnd-first))
	binary.LittleEndian.PutUint32(header[4:], uint32(samples))
	binary.LittleEndian.PutUint32(header[8:], uint32(i-seriesEnd))
	return out, i, nil
}

func (e *Encoder) begin() {
	e.next, e.time, e.start, e.memory = 0, 0, 0, 0
	e.defined = e.defined[:0]
	if len(e.texts) > keptTexts {
		e.texts = nil
	}
	clear(e.texts)
}

func (e *Encoder) full(size int) bool { return size > cutBytes || e.memory > cutMemory }

func (e *Encoder) takeBack() {
	for _, d := range slices.Backward(e.defined) {
		if d.old == 0 {
			e.entries--
		}
		*e.at(d.index) = d.old
	}
}

// at is the place of a number in the dictionary.
func (e *Encoder) at(index uint32) *uint64 {
	page := int(index / pageSize)
	if page >= len(e.known) {
		e.known = append(e.known, make([][]uint64, page+1-len(e.known))...)
	}
	if e.known[page] == nil {
		e.known[page] = make([]uint64, pageSize)
	}
	return &e.known[page][index%pageSize]
}

// name decides how a series is named, and defines its number if need be.
func (e *Encoder) name(h *series.Handle) byte {
	if h == nil || h.Index >= maxIndex || h.Serial == math.MaxUint64 {
		return byLabels
	}
	at := e.at(h.Index)
	if *at == h.Serial+1 {
		return byNumber
	}
	if *at == 0 {
		if e.entries >= maxEntries {
			return byLabels
		}
		e.entries++
	}
	e.defined = append(e.defined, definition{h.Index, *at})
	*at = h.Serial + 1
	return byDefinition
}

// jumpTo returns how far the series is from the one that was expected.
func (e *Encoder) jumpTo(h *series.Handle) int64 {
	d := int64(h.Index) - e.next
	e.next = int64(h.Index) + 1
	return d
}

func (e *Encoder) series(out []byte, s *series.Series) ([]byte, error) {
	e.memory += perSeries + perSample*len(s.Samples)
	name := e.name(s.Handle)
	if name == byNumber && len(s.Samples) == 1 && len(s.Exemplars) == 0 {
		return e.sample(out, e.jumpTo(s.Handle), &s.Samples[0])
	}
	control := general | name
	if len(s.Exemplars) > 0 {
		control |= exemplars
	}
	out = append(out, control)
	if name != byLabels {
		out = binary.AppendVarint(out, e.jumpTo(s.Handle))
	}
	if name != byNumber {
		out = e.labels(out, s.Labels)
	}
	out = binary.AppendUvarint(out, uint64(len(s.Samples)))
	var err error
	for i := range s.Samples {
		if out, err = e.sample(out, 0, &s.Samples[i]); err != nil {
			return nil, err
		}
	}
	if len(s.Exemplars) > 0 {
		out = binary.AppendUvarint(out, uint64(len(s.Exemplars)))
		for i := range s.Exemplars {
			out = e.exemplar(out, &s.Exemplars[i])
		}
	}
	return out, nil
}

// sample appends a sample, and between its control byte and itself how far its series is
// from the expected one.
func (e *Encoder) sample(out []byte, distance int64, s *series.Sample) ([]byte, error) {
	out = slices.Grow(out, shortEntry)
	at := len(out)
	out = append(out, 0)
	var control byte
	if distance != 0 {
		control |= jump
		out = binary.AppendVarint(out, distance)
	}
	if s.T != e.time {
		control |= moved
		out = binary.AppendVarint(out, s.T-e.time)
		e.time = s.T
	}
	if s.ST != 0 {
		control |= started
		out = binary.AppendVarint(out, s.ST-e.start)
		e.start = s.ST
	}
	if s.IsHistogram() {
		out[at] = control | native
		return e.histogram(out, s)
	}
	kind, n := split(s.V)
	out[at] = control | kind<<kindShift
	if kind == raw {
		return binary.LittleEndian.AppendUint64(out, math.Float64bits(s.V)), nil
	}
	return binary.AppendVarint(out, n), nil
}

func (e *Encoder) histogram(out []byte, s *series.Sample) ([]byte, error) {
	var h writev2.Histogram
	if s.FH != nil {
		h = writev2.FromFloatHistogram(s.ST, s.T, s.FH)
	} else {
		h = writev2.FromIntHistogram(s.ST, s.T, s.H)
	}
	encoded, err := h.Marshal()
	if err != nil {
		return nil, err
	}
	e.memory += perHistogramByte * len(encoded)
	out = binary.AppendUvarint(out, uint64(len(encoded)))
	return append(out, encoded...), nil
}

func (e *Encoder) exemplar(out []byte, x *exemplar.Exemplar) []byte {
	e.memory += perExemplar
	var timed byte
	if x.HasTs {
		timed = 1
	}
	out = append(out, timed)
	out = binary.AppendVarint(out, x.Ts)
	out = binary.LittleEndian.AppendUint64(out, math.Float64bits(x.Value))
	return e.labels(out, x.Labels)
}

func (e *Encoder) labels(out []byte, ls labels.Labels) []byte {
	out = binary.AppendUvarint(out, uint64(ls.Len()))
	ls.Range(func(l labels.Label) {
		e.memory += perLabel
		out = e.text(e.text(out, l.Name), l.Value)
	})
	return out
}

func (e *Encoder) metadata(out []byte, m *series.Metadata) []byte {
	e.memory += perFamily
	for _, s := range [...]string{m.Family, string(m.Type), m.Unit, m.Help} {
		out = e.text(out, s)
	}
	return out
}

// text appends the number of a text, or 0 and the text the first time.
func (e *Encoder) text(out []byte, s string) []byte {
	e.memory += len(s)
	if n, ok := e.texts[s]; ok {
		return binary.AppendUvarint(out, n)
	}
	if e.texts == nil {
		e.texts = map[string]uint64{}
	}
	e.texts[s] = uint64(len(e.texts) + 1)
	out = append(out, 0)
	out = binary.AppendUvarint(out, uint64(len(s)))
	return append(out, s...)
}
