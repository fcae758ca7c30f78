package evaluate

import (
	"encoding/binary"
	"io"
	"math"
	"math/bits"
	"slices"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
)

const (
	// xorHeader is how many bytes of an XOR chunk count its samples.
	xorHeader = 2
	// wordBits is how many bits of a word that begins within a byte are of the chunk.
	wordBits = 57
	// xorBeyond is how many bytes are read at most from where a sample begins: 4+64 bits of its time, 13+64 of
	// its value, and what is read of a word and not used.
	xorBeyond = (4+64+13+64)/8 + 1 + 9
)

// appendXOR appends the samples of an XOR chunk, given by its bytes, that lie between mint and
// maxt, both inclusive, in milliseconds; without markers of staleness if they are to be
// dropped. It takes less than half of what the chunk's iterator does, that keeps its state in memory
// and is called for each sample. The error is io.EOF if bytes are missing.
//
// The format is that of https://github.com/prometheus/prometheus/blob/main/tsdb/docs/format/chunks.md.
//
//nolint:funlen // calls within the loop would take most of what it spares
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
	v := binary.BigEndian.Uint64(b[n:])
	b = b[n+8:]
	var (
		delta             uint64
		leading, trailing uint
		// at is the next bit of b, and end the one after the last of the chunk: b becomes a copy of its
		// last bytes with zeros behind, so that whole words can be read.
		at   uint
		end  = 8 * uint(len(b))
		tail [2 * xorBeyond]byte
	)
	for i := 1; ; i++ {
		if t > maxt {
			return points, nil
		}
		if t >= mint && !(dropStale && v == value.StaleNaN) {
			points = append(points, promql.FPoint{T: t, F: math.Float64frombits(v)})
		}
		if i == samples {
			return points, nil
		}

		if i == 1 {
			if delta, n = binary.Uvarint(b); n <= 0 {
				return points, io.EOF
			}
			at = 8 * uint(n)
		}
		if at/8+xorBeyond > uint(len(b)) {
			first := at / 8
			tail = [2 * xorBeyond]byte{}
			copy(tail[:], b[first:])
			b, at, end = tail[:], at-8*first, end-8*first
		}
		word := bitsAt(b, at)
		if i > 1 {
			switch {
			case word>>62 == 0:
				// For so many samples neither the delta nor the value changes.
				same := min(bits.LeadingZeros64(word|1<<(64-wordBits))/2, samples-i)
				if at += 2 * uint(same); at > end {
					return points, io.EOF
				}
				for i += same - 1; same > 1; same-- {
					if t += int64(delta); t > maxt {
						return points, nil
					}
					if t >= mint && !(dropStale && v == value.StaleNaN) {
						points = append(points, promql.FPoint{T: t, F: math.Float64frombits(v)})
					}
				}
				t += int64(delta)
				continue
			case word>>63 == 0:
				at++
				word <<= 1
			case word>>62 == 0b10:
				delta += signed(word<<2>>50, 14)
				at += 2 + 14
				word = bitsAt(b, at)
			case word>>61 == 0b110:
				delta += signed(word<<3>>47, 17)
				at += 3 + 17
				word = bitsAt(b, at)
			case word>>60 == 0b1110:
				delta += signed(word<<4>>44, 20)
				at += 4 + 20
				word = bitsAt(b, at)
			default:
				delta += wordAt(b, at+4)
				at += 4 + 64
				word = bitsAt(b, at)
			}
		}
		t += int64(delta)

		switch {
		case word>>63 == 0:
			at++
		case word>>62 == 0b10:
			at += 2
			width := 64 - leading - trailing
			if word <<= 2; width > wordBits-1-2 {
				word = wordAt(b, at)
			}
			v ^= word >> ((64 - width) & 63) << (trailing & 63)
			at += width
		default:
			at += 13
			leading = uint(word << 2 >> 59)
			// 64 does not fit into six bits, and is encoded as 0.
			width := (uint(word<<7>>58)-1)&63 + 1
			if leading+width > 64 {
				return points, io.EOF
			}
			trailing = 64 - leading - width
			if word <<= 13; width > wordBits-1-13 {
				word = wordAt(b, at)
			}
			v ^= word >> ((64 - width) & 63) << (trailing & 63)
			at += width
		}
		if at > end {
			return points, io.EOF
		}
	}
}

// signed returns the number that so many bits encode: those greater than half of all are
// negative.
func signed(v uint64, bits uint) uint64 {
	if v > 1<<(bits-1) {
		v -= 1 << bits
	}
	return v
}

// bitsAt returns the bits from one on, wordBits of them and zeros.
func bitsAt(b []byte, at uint) uint64 {
	return binary.BigEndian.Uint64(b[at/8:]) << (at % 8)
}

// wordAt returns the 64 bits from one on.
func wordAt(b []byte, at uint) uint64 {
	return bitsAt(b, at) | uint64(b[at/8+8])>>(8-at%8)
}
