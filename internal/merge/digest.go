package merge

import (
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

// Digest sums up a series: two copies have the same digest if they have the same samples, and
// another one if they do not, as far as 64 bits can tell. Samples are the same where Compare
// says so, however chunks encode them; and stale markers are, of whatever type: a store gives
// them that of the sample before. Everything is fed in order: Reset, then Add.
type Digest struct {
	hash    xxhash.Digest
	buffer  []byte
	samples int
}

// flushAt is how many bytes are hashed together: each call of the hash costs.
const flushAt = 512

// Reset begins another series.
func (d *Digest) Reset(ls labels.Labels) {
	d.hash.Reset()
	d.samples = 0
	d.buffer = ls.Bytes(d.buffer[:0])
}

// Add takes the next sample.
func (d *Digest) Add(s *series.Sample) {
	d.samples++
	d.number(uint64(s.T))
	if Stale(s) {
		d.buffer = append(d.buffer, classStaleFloat)
		return
	}
	class := classOf(s)
	d.buffer = append(d.buffer, byte(class))
	d.number(uint64(s.ST))
	switch class {
	case classNaN, classFloat:
		d.float(s.V)
	case classHistogram:
		d.histogram(s.H)
	case classFloatHistogram:
		d.floatHistogram(s.FH)
	}
	if len(d.buffer) >= flushAt {
		d.flush()
	}
}

// Sum returns the digest, 0 for a series without samples.
func (d *Digest) Sum() uint64 {
	if d.samples == 0 {
		return 0
	}
	d.flush()
	return d.hash.Sum64()
}

func (d *Digest) flush() {
	_, _ = d.hash.Write(d.buffer) // never fails
	d.buffer = d.buffer[:0]
}

func (d *Digest) number(n uint64) { d.buffer = binary.LittleEndian.AppendUint64(d.buffer, n) }

func (d *Digest) float(v float64) { d.number(math.Float64bits(v)) }

func (d *Digest) histogram(h *histogram.Histogram) {
	d.shape(h.CounterResetHint, h.Schema, h.ZeroThreshold, h.Sum, h.CustomValues)
	d.number(h.ZeroCount)
	d.number(h.Count)
	for _, b := range []buckets[int64]{deltas(h.PositiveSpans, h.PositiveBuckets), deltas(h.NegativeSpans, h.NegativeBuckets)} {
		addBuckets(d, b, func(n int64) uint64 { return uint64(n) })
	}
}

func (d *Digest) floatHistogram(h *histogram.FloatHistogram) {
	d.shape(h.CounterResetHint, h.Schema, h.ZeroThreshold, h.Sum, h.CustomValues)
	d.float(h.ZeroCount)
	d.float(h.Count)
	for _, b := range []buckets[float64]{counts(h.PositiveSpans, h.PositiveBuckets), counts(h.NegativeSpans, h.NegativeBuckets)} {
		addBuckets(d, b, math.Float64bits)
	}
}

// shape adds what both kinds of histograms have.
func (d *Digest) shape(hint histogram.CounterResetHint, schema int32, zeroThreshold, sum float64, custom []float64) {
	gauge := uint64(0)
	if hint == histogram.GaugeType {
		gauge = 1
	}
	d.number(gauge)
	d.number(uint64(schema))
	d.float(zeroThreshold)
	d.float(sum)
	d.number(uint64(len(custom)))
	for _, v := range custom {
		d.float(v)
	}
}

// addBuckets adds the buckets that are not empty, and how many there were.
func addBuckets[N int64 | float64](d *Digest, b buckets[N], bits func(N) uint64) {
	n := uint64(0)
	for index, count, ok := b.next(); ok; index, count, ok = b.next() {
		d.number(uint64(index))
		d.number(bits(count))
		n++
	}
	d.number(n)
}
