package evaluate

import (
	"encoding/binary"
	"io"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
)

// xorHeader is how many bytes of an XOR chunk count its samples.
const xorHeader = 2

// appendXOR appends the samples of an XOR chunk, given by its bytes, that lie between mint and
// maxt, both inclusive, in milliseconds; without markers of staleness if they are to be
// dropped. It is several times as fast as the chunk's iterator, that keeps its state in memory
// and is called for each sample. The error is io.EOF if bytes are missing.
//
// The format is that of https://github.com/prometheus/prometheus/blob/main/tsdb/docs/format/chunks.md.
func appendXOR(points []promql.FPoint, chunk []byte, mint, maxt int64, dropStale bool) ([]promql.FPoint, error) {
	if len(chunk) < xorHeader {
		return points, io.EOF
	}
	samples := int(binary.BigEndian.Uint16(chunk))
	if samples == 0 {
		return points, nil
	}
	points = slices.Grow(points, samples)
	b := chunk[xorHeader:]
	t, n := binary.Varint(b)
	if n <= 0 || len(b) < n+8 {
		return points, io.EOF
	}
	bits := binary.BigEndian.Uint64(b[n:])
	b = b[n+8:]
	var delta uint64
	in := bitReader{}
	x := xorValue{}
	for i := range samples {
		switch i {
		case 0:
		case 1:
			if delta, n = binary.Uvarint(b); n <= 0 {
				return points, io.EOF
			}
			in.b = b[n:]
		default:
			delta += in.deltaOfDelta()
		}
		if i > 0 {
			t += int64(delta)
			bits ^= x.next(&in)
			if in.missing {
				return points, io.EOF
			}
		}
		if t > maxt {
			break
		}
		if t >= mint && !(dropStale && bits == value.StaleNaN) {
			points = append(points, promql.FPoint{T: t, F: math.Float64frombits(bits)})
		}
	}
	return points, nil
}

// xorValue is where the bits lie that changed from one value to the next.
type xorValue struct{ leading, trailing uint }

// next returns the difference to the next value.
func (x *xorValue) next(in *bitReader) uint64 {
	in.fill(13)
	switch {
	case in.top>>63 == 0:
		in.skip(1)
		return 0
	case in.top>>62 == 0b10:
		in.skip(2)
	default:
		x.leading = uint(in.top>>57) & (1<<5 - 1)
		width := uint(in.top>>51) & (1<<6 - 1)
		in.skip(13)
		if width == 0 {
			// It has six bits only.
			width = 64
		}
		if x.leading+width > 64 {
			in.missing = true
			return 0
		}
		x.trailing = 64 - x.leading - width
	}
	return in.read(64-x.leading-x.trailing) << x.trailing
}

// bitReader reads bits, the most significant of a byte first.
type bitReader struct {
	b []byte
	// top has the next bits on top. Of these, valid are counted as taken from b; those below
	// are the next ones of b, or 0.
	top   uint64
	valid uint
	// missing says that more bits were read than there were.
	missing bool
}

// fill sees to it that so many bits, 56 at most, are valid if there are so many.
func (r *bitReader) fill(bits uint) {
	if r.valid < bits {
		r.refill()
	}
}

func (r *bitReader) refill() {
	if len(r.b) >= 8 {
		r.top |= binary.BigEndian.Uint64(r.b) >> r.valid
		whole := (64 - r.valid) / 8
		r.b = r.b[whole:]
		r.valid += whole * 8
		return
	}
	for ; len(r.b) > 0 && r.valid <= 56; r.b = r.b[1:] {
		r.top |= uint64(r.b[0]) << (56 - r.valid)
		r.valid += 8
	}
}

// skip moves on by so many bits.
func (r *bitReader) skip(bits uint) {
	if bits > r.valid {
		r.missing = true
		return
	}
	r.top <<= bits
	r.valid -= bits
}

// read reads up to 64 bits.
func (r *bitReader) read(bits uint) uint64 {
	var high uint64
	if bits > 32 {
		high = r.read32(bits-32) << 32
		bits = 32
	}
	return high | r.read32(bits)
}

func (r *bitReader) read32(bits uint) uint64 {
	r.fill(bits)
	v := r.top >> (64 - bits)
	r.skip(bits)
	return v
}

// deltaOfDelta reads how the time between samples changes.
func (r *bitReader) deltaOfDelta() uint64 {
	r.fill(24)
	var bits uint
	switch {
	case r.top>>63 == 0:
		r.skip(1)
		return 0
	case r.top>>62 == 0b10:
		r.skip(2)
		bits = 14
	case r.top>>61 == 0b110:
		r.skip(3)
		bits = 17
	case r.top>>60 == 0b1110:
		r.skip(4)
		bits = 20
	default:
		r.skip(4)
		return r.read(64)
	}
	v := r.read32(bits)
	if v > 1<<(bits-1) {
		v -= 1 << bits
	}
	return v
}
