// Package frame is the encoding of batches on the stream of appends from one node to
// another: bytes only, without I/O, clocks or goroutines.
//
// A stream has an Encoder at its sender's end and a Decoder at its receiver's. Both keep a
// dictionary, which begins empty: a series that the sender remembers by a series.Handle
// travels with its labels once, and as a small number from then on. So all frames of a
// stream have to be decoded, in the order in which they were encoded; after an error of the
// decoder the stream is of no more use.
//
// The bytes are described in docs/formats.md.
package frame

import (
	"errors"
	"math"

	"github.com/starling-tsdb/starling/internal/series"
)

// MaxBytes bounds an encoded frame, of whatever kind of batch.
const MaxBytes = 120 << 20

const (
	// cutBytes and cutMemory are about how large a frame may grow, encoded and decoded, before
	// the rest of a batch goes into another one. A single series is never cut.
	cutBytes, cutMemory = 8 << 20, 64 << 20
	// maxMemory bounds what a decoded frame takes.
	maxMemory = 512 << 20
	// maxIndex bounds the numbers of series, maxEntries how many of them have a meaning at one
	// time. Whatever is beyond travels with its labels.
	maxIndex, maxEntries = 1 << 26, 1 << 24
	// maxText bounds names and values of labels, as labels.Labels does.
	maxText = 1<<24 - 1
)

var (
	errEnds    = errors.New("the frame ends too early")
	errRest    = errors.New("the frame goes on behind its end")
	errControl = errors.New("a control byte is not known")
	errText    = errors.New("a text is not in the frame")
	errLong    = errors.New("a label is too long")
	errUnknown = errors.New("a series is not known by its number")
	errIndex   = errors.New("the number of a series is out of range")
	errEntries = errors.New("too many series are known by numbers")
	errMemory  = errors.New("the frame takes too much memory")
	errCounts  = errors.New("the frame holds other than it says")
)

// headerBytes is how many bytes a frame begins with: the numbers of series, of their
// samples and of families of metadata.
const headerBytes = 12

// Control bytes. That of an ordinary entry, a known series with one sample, is that of the
// sample; the flag general tells all other entries.
const (
	general = 1 << 7

	// jump: the series is not the one that follows the previous one by number.
	jump = 1 << 0
	// moved: the sample has another time than the previous one in the frame.
	moved = 1 << 1
	// kindShift and kindMask are where the kind of the value stands.
	kindShift, kindMask = 2, 7
	// started: the sample has a start time.
	started = 1 << 5
	// native: the sample is a native histogram.
	native = 1 << 6

	// exemplars: the general entry has some. The lowest two bits say how it names its series.
	exemplars = 1 << 2
)

// How a general entry names its series.
const (
	byNumber = iota
	byDefinition
	byLabels

	nameMask = 3
)

// Kinds of values: eight bytes, an integer, or an integer divided by 10, 100, … 10⁶.
const (
	raw = iota
	integer
	tenths
	millionths = 7
)

// powers are what an integer is divided by, by kind.
var powers = [...]float64{integer: 1, tenths: 1e1, 3: 1e2, 4: 1e3, 5: 1e4, 6: 1e5, millionths: 1e6}

// split finds a kind and an integer from which join makes the same bits again. All integers
// and powers are exact, and a division is rounded correctly: so equal fractions give equal
// numbers, whatever their denominator.
func split(v float64) (kind byte, n int64) {
	bits := math.Float64bits(v)
	if !(math.Abs(v) < 1<<53) { // NaN, too
		return raw, 0
	}
	if n = int64(v); math.Float64bits(float64(n)) == bits {
		return integer, n
	}
	if math.Abs(v) >= (1<<53)/powers[millionths] {
		return raw, 0
	}
	n = int64(v*powers[millionths] + math.Copysign(0.5, v))
	if math.Float64bits(float64(n)/powers[millionths]) != bits {
		return raw, 0
	}
	kind = millionths
	for kind > tenths && n%10 == 0 {
		n /= 10
		kind--
	}
	return kind, n
}

func join(kind byte, n int64) float64 { return float64(n) / powers[kind] }

// What a frame takes decoded, by estimate. Both ends reckon alike, so that no frame is sent
// which the receiver refuses.
const (
	perSeries, perSample, perExemplar = 96, 48, 96
	perFamily                         = 64
	// perHistogramByte allows for numbers of eight bytes that take one encoded.
	perHistogramByte = 8
	perLabel         = 2
)

// Items is how many items of a batch are encoded: its series, then its metadata.
func Items(b *series.Batch) int { return len(b.Series) + len(b.Metadata) }
