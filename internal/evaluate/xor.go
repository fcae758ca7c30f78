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
// dropped. It is about twice as fast as the chunk's iterator, that keeps its state in memory
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
		// top has the next bits on top. Of these, valid are no longer in b; those below
		// are the next ones of b, or 0. It is negative if more bits were read than there
		// were. All are variables of their own, for the compiler to keep in registers.
		top   uint64
		valid int
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
			b = b[n:]
		} else {
			// That is no change of delta, and the longest prefix of a value.
			if valid < 1+13 {
				top, valid, b = refill(top, valid, b)
			}
			if top>>63 != 0 && valid < 4+20 {
				top, valid, b = refill(top, valid, b)
			}
			switch {
			case top>>63 == 0:
				top, valid = top<<1, valid-1
			case top>>62 == 0b10:
				delta += signed(top<<2>>50, 14)
				top, valid = top<<(2+14), valid-(2+14)
			case top>>61 == 0b110:
				delta += signed(top<<3>>47, 17)
				top, valid = top<<(3+17), valid-(3+17)
			case top>>60 == 0b1110:
				delta += signed(top<<4>>44, 20)
				top, valid = top<<(4+20), valid-(4+20)
			default:
				var change uint64
				change, top, valid, b = readAcross(top<<4, valid-4, b, 64)
				delta += change
			}
		}
		t += int64(delta)

		if valid < 13 {
			top, valid, b = refill(top, valid, b)
		}
		if top>>63 == 0 {
			top, valid = top<<1, valid-1
		} else {
			if top>>62 == 0b10 {
				top, valid = top<<2, valid-2
			} else {
				leading = uint(top << 2 >> 59)
				// 64 does not fit into six bits, and is encoded as 0.
				width := (uint(top<<7>>58)-1)&63 + 1
				if leading+width > 64 {
					return points, io.EOF
				}
				trailing = 64 - leading - width
				top, valid = top<<13, valid-13
			}
			width := 64 - leading - trailing
			var change uint64
			if int(width) <= valid {
				change, top, valid = top>>(64-width), top<<width, valid-int(width)
			} else {
				change, top, valid, b = readAcross(top, valid, b, width)
			}
			v ^= change << trailing
		}
		if valid < 0 {
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

// refill makes more than 56 bits valid, unless b ends before.
func refill(top uint64, valid int, b []byte) (uint64, int, []byte) {
	if len(b) >= 8 {
		top |= binary.BigEndian.Uint64(b) >> uint(valid)
		whole := (64 - valid) / 8
		return top, valid + whole*8, b[whole:]
	}
	for ; len(b) > 0 && valid <= 56; b = b[1:] {
		top |= uint64(b[0]) << uint(56-valid)
		valid += 8
	}
	return top, valid, b
}

// readAcross reads from 1 to 64 bits, more than are valid.
func readAcross(top uint64, valid int, b []byte, bits uint) (uint64, uint64, int, []byte) {
	top, valid, b = refill(top, valid, b)
	v := top >> (64 - bits)
	rest := int(bits) - valid
	if rest <= 0 || len(b) == 0 {
		return v, top << bits, -rest, b
	}
	// Seven bits at most did not fit below what was left of a byte.
	v |= uint64(b[0]) >> uint(8-rest)
	return v, uint64(b[0]) << uint(56+rest), 8 - rest, b[1:]
}
