package frame

import (
	"encoding/binary"
	"math"
)

// reader reads a frame from its beginning. After the first error there is nothing left.
type reader struct {
	buf []byte
	at  int
	err error
	// memory is what is taken so far.
	memory int
	// next, time and start are as in Encoder.
	next, time, start int64
}

func (r *reader) left() int { return len(r.buf) - r.at }

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.at = len(r.buf)
}

// take reckons memory before it is used.
func (r *reader) take(n int) {
	if r.memory += n; r.memory > maxMemory {
		r.fail(errMemory)
	}
}

func (r *reader) byte() byte {
	if r.at >= len(r.buf) {
		r.fail(errEnds)
		return 0
	}
	r.at++
	return r.buf[r.at-1]
}

func (r *reader) uvarint() uint64 {
	if r.at < len(r.buf) && r.buf[r.at] < 0x80 {
		r.at++
		return uint64(r.buf[r.at-1])
	}
	return r.longUvarint()
}

func (r *reader) longUvarint() uint64 {
	n, size := binary.Uvarint(r.buf[r.at:])
	if size <= 0 {
		r.fail(errEnds)
		return 0
	}
	r.at += size
	return n
}

func (r *reader) varint() int64 {
	n := r.uvarint()
	return int64(n>>1) ^ -int64(n&1)
}

// count reads how many things of that size or more follow.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(r.left()/size) {
		r.fail(errEnds)
		return 0
	}
	return int(n)
}

// bytes returns the next n, which count has checked.
func (r *reader) bytes(n int) []byte {
	r.at += n
	return r.buf[r.at-n : r.at]
}

func (r *reader) float() float64 {
	if r.left() < 8 {
		r.fail(errEnds)
		return 0
	}
	r.at += 8
	return math.Float64frombits(binary.LittleEndian.Uint64(r.buf[r.at-8:]))
}

// jump returns the number of the series that is so far from the expected one.
func (r *reader) jump(distance int64) uint32 {
	index := r.next + distance
	if index < 0 || index >= maxIndex || distance >= maxIndex || distance <= -maxIndex {
		r.fail(errIndex)
		return 0
	}
	r.next = index + 1
	return uint32(index)
}
