// Package receive turns the bodies of write requests into batches: Remote Write 1.0
// and 2.0, and OTLP metrics. It knows nothing of HTTP beyond the names of encodings,
// and nothing of where a batch goes.
//
// Two promises matter to its callers. Whatever is in a batch is canonical, so that the
// same series always has the same labels and hence the same owners. And memory is
// bounded before it is allocated: a body may say that it holds sixteen million empty
// messages in 32 MiB, but nobody allocates three gigabytes to find out.
//
// What is wrong with one series costs that series only. It is listed as Invalid, with a
// message that names it, and its neighbours go on.
package receive

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"

	"github.com/starling-tsdb/starling/internal/handles"
	"github.com/starling-tsdb/starling/internal/series"
)

// Kind tells why a whole body was refused.
type Kind uint8

const (
	// Malformed bodies will never be understood (400).
	Malformed Kind = iota + 1
	// TooLarge bodies exceed a limit that protects this node (413).
	TooLarge
	// Unsupported bodies have an encoding or type that is not spoken here (415).
	Unsupported
	// Overloaded says nothing of the body: this node has no memory for it now (503).
	Overloaded
)

// Error says why a whole body was refused. Nothing of it is in any batch.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns why a body was refused, or 0 if err is not an *Error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

func errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Limits bound one request. Zero values stand for the defaults.
type Limits struct {
	// MaxBodyBytes bounds the body, as sent and as decompressed. Default 32 MiB, which
	// is what Prometheus's receivers take.
	MaxBodyBytes int64
	// MaxBatchBytes bounds the memory of what a body is decoded into, by estimate.
	// Default 256 MiB: eight times the body, where dense real requests come to six.
	MaxBatchBytes int64
	// MaxLabels bounds the labels of a series, its name included. Default 128.
	MaxLabels int
	// MaxLabelNameLength is in bytes. Default 1024.
	MaxLabelNameLength int
	// MaxLabelValueLength is in bytes, and bounds help texts and units too.
	// Default 32 KiB.
	MaxLabelValueLength int
	// MaxSeriesLabelBytes bounds all names and values of a series together.
	// Default 64 KiB.
	MaxSeriesLabelBytes int
	// MaxInvalid bounds the invalid items that are listed, not those counted.
	// Default 16.
	MaxInvalid int
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.MaxBodyBytes, 32<<20)
	setDefault(&l.MaxBatchBytes, 256<<20)
	setDefault(&l.MaxLabels, 128)
	setDefault(&l.MaxLabelNameLength, 1024)
	setDefault(&l.MaxLabelValueLength, 32<<10)
	setDefault(&l.MaxSeriesLabelBytes, 64<<10)
	setDefault(&l.MaxInvalid, 16)
	return l
}

func setDefault[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Options configure a Decoder.
type Options struct {
	Limits Limits
	// TypeAndUnitLabels adds the labels __type__ and __unit__ from a series' metadata
	// (Remote Write 2.0 and OTLP), like Prometheus's feature of that name.
	TypeAndUnitLabels bool
	// OTLP says how OTLP names and attributes become labels. The zero value is not
	// useful; start from config.DefaultOTLPConfig.
	OTLP config.OTLPConfig
	// NativeDelta stores OTLP's delta points as they are; otherwise they are invalid.
	NativeDelta bool
	// Handles remembers the series of Remote Write; nil remembers none.
	Handles *handles.Cache
	// LookbackDelta is that of queries: target_info is repeated at half of it. Zero
	// stands for 5 minutes.
	LookbackDelta time.Duration
}

// Reserve is asked before bytes more of memory are allocated for a request, see Gate. An
// error ends the decoding and is returned wrapped. A nil Reserve grants everything. Giving
// back what was reserved, when the batch is no longer used, is up to the caller.
type Reserve func(bytes int64) error

// Decoder decodes bodies. It may be used by many goroutines.
type Decoder struct {
	opts     Options
	limits   Limits
	settings prometheusremotewrite.Settings
	// otlp is the shape of OTLP's request.
	otlp *message

	buffers    sync.Pool // *[]byte
	decoded    sync.Pool // *Decoded
	scratches  sync.Pool // *scratch
	converters sync.Pool // *prometheusremotewrite.PrometheusConverter
}

// New returns a Decoder.
func New(opts Options) *Decoder {
	if opts.LookbackDelta <= 0 {
		opts.LookbackDelta = 5 * time.Minute
	}
	d := &Decoder{
		opts:     opts,
		limits:   opts.Limits.withDefaults(),
		settings: otlpSettings(opts),
		otlp:     otlpMessages(),
		buffers:  sync.Pool{New: func() any { return new([]byte) }},
		scratches: sync.Pool{New: func() any {
			return new(scratch)
		}},
		converters: sync.Pool{New: func() any {
			return prometheusremotewrite.NewPrometheusConverter(nil)
		}},
	}
	d.decoded.New = func() any {
		out := new(Decoded)
		out.Batch.OnFree(func() {
			out.reset()
			d.decoded.Put(out)
		})
		return out
	}
	return d
}

// Limits returns the limits in force, defaults filled in.
func (d *Decoder) Limits() Limits { return d.limits }

// Item says what an Invalid is about.
type Item uint8

const (
	// SeriesItem is a series or some of its samples. It makes a request invalid.
	SeriesItem Item = iota + 1
	// ExemplarItem is an exemplar; the samples beside it are in the batch.
	ExemplarItem
	// MetadataItem is the description of a metric family, or target_info.
	MetadataItem
)

// Invalid is something in a body that can never be stored.
type Invalid struct {
	Item Item
	// Message names the series, shortened and quoted, and says what is wrong with it.
	Message string
	// Lost counts what is not in the batch because of it.
	Lost series.Written
}

// Decoded is what a body held. When its Batch is released, all of it is used again.
type Decoded struct {
	// Batch owns its memory: nothing of it points into the body.
	Batch series.Batch
	// Invalid lists the first invalid items, as many as Limits.MaxInvalid.
	Invalid []Invalid
	// InvalidSeries, InvalidExemplars and InvalidMetadata count all invalid items.
	InvalidSeries, InvalidExemplars, InvalidMetadata int
	// Lost counts what all of them lost.
	Lost series.Written
	// Warnings tell of translations that lost nothing but deserve a look.
	Warnings []string

	// slab is memory for the samples of small series. It is used again with that of
	// Batch.Series when the batch is released.
	slab []series.Sample
}

// grow makes room for n more series, most of which have one sample.
func (d *Decoded) grow(n int) {
	const maxSlab = 16 << 10 // nobody has been asked for its memory yet
	b := &d.Batch
	b.Series = append(make([]series.Series, 0, len(b.Series)+n), b.Series...)
	// What has been given of the old slab stays with the series that have it.
	d.slab = make([]series.Sample, min(n, maxSlab))
}

// reset forgets all but the memory that can be used again, unless that is much.
func (d *Decoded) reset() {
	b := &d.Batch
	clear(b.Series)
	clear(d.slab)
	b.Series, b.Metadata = b.Series[:0], nil
	if int64(cap(b.Series))*seriesBytes+int64(len(d.slab))*sampleBytes > maxPooledBuffer {
		b.Series, d.slab = nil, nil
	}
	d.Invalid, d.Warnings = nil, nil
	d.InvalidSeries, d.InvalidExemplars, d.InvalidMetadata, d.Lost = 0, 0, 0, series.Written{}
}

// reject counts an invalid item, and lists it while the list has room. The message is a
// function because most of a flood of invalid items is never printed.
func (d *Decoded) reject(max int, item Item, lost series.Written, message func() string) {
	switch item {
	case SeriesItem:
		d.InvalidSeries++
	case ExemplarItem:
		d.InvalidExemplars++
	case MetadataItem:
		d.InvalidMetadata++
	}
	d.Lost.Samples += lost.Samples
	d.Lost.Histograms += lost.Histograms
	d.Lost.Exemplars += lost.Exemplars
	if len(d.Invalid) < max {
		d.Invalid = append(d.Invalid, Invalid{Item: item, Message: message(), Lost: lost})
	}
}
