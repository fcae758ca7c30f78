package frame

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/series"
)

// Decoder is the receiver's end of one stream. It is not for concurrent use; its batches
// may be read and released by any goroutine.
type Decoder struct {
	// interner is opened by a frame that defines something, and closed behind it.
	interner series.LazyInterner
	known    []*page
	entries  int
	builder  labels.ScratchBuilder
	// free has the memory of batches that were released.
	free sync.Pool
	// texts are those of the frame under way.
	texts []text
}

// page is a part of the dictionary.
type page [1024]*series.Handle

// text is one of a frame: as it stands there, and, once that was needed, in memory of its own.
type text struct{ view, own string }

// memory is what series and samples of a batch lie in.
type memory struct {
	series  []series.Series
	samples []series.Sample
	release func()
}

// NewDecoder returns a decoder for a new stream. Unless interner is nil, it is asked for the
// labels to keep; each frame has its own.
func NewDecoder(interner func() series.Interner) *Decoder {
	return &Decoder{interner: series.LazyInterner{Open: interner}, builder: labels.NewScratchBuilder(16)}
}

// Decode returns the batch of a frame, which shares no memory with it. The caller is the
// one that made the batch: what it releases is used again, but for the labels and handles.
// An error is about what no encoder makes, and the end of the stream.
func (d *Decoder) Decode(frame []byte) (*series.Batch, error) {
	if len(frame) < headerBytes {
		return nil, errEnds
	}
	r := &reader{buf: frame, at: headerBytes}
	nSeries := int(binary.LittleEndian.Uint32(frame))
	nSamples := int(binary.LittleEndian.Uint32(frame[4:]))
	nFamilies := int(binary.LittleEndian.Uint32(frame[8:]))
	// Each takes two bytes or more, so that what is made is in proportion to what came.
	if most := r.left() / 2; nSeries > most || nSamples > most || nFamilies > most {
		return nil, errEnds
	}
	r.take(perSeries*nSeries + perSample*nSamples + perFamily*nFamilies)
	if r.err != nil {
		return nil, r.err
	}
	d.texts = d.texts[:0]
	defer d.interner.Close()
	m := d.memory(nSeries, nSamples)
	b := &series.Batch{Series: m.series}
	if err := d.decode(r, b, m.samples, nFamilies); err != nil {
		m.release()
		return nil, err
	}
	b.OnFree(m.release)
	return b, nil
}

func (d *Decoder) memory(nSeries, nSamples int) *memory {
	m, _ := d.free.Get().(*memory)
	if m == nil {
		m = &memory{}
		m.release = func() {
			// Nothing that was sent is kept alive by memory that waits to be used.
			clear(m.series)
			clear(m.samples)
			d.free.Put(m)
		}
	}
	if cap(m.series) < nSeries {
		m.series = make([]series.Series, nSeries)
	}
	if cap(m.samples) < nSamples {
		m.samples = make([]series.Sample, nSamples)
	}
	m.series, m.samples = m.series[:nSeries], m.samples[:nSamples]
	return m
}

// decode fills the batch, whose series and samples are all zero.
func (d *Decoder) decode(r *reader, b *series.Batch, samples []series.Sample, families int) error {
	for i := range b.Series {
		s := &b.Series[i]
		control := r.byte()
		if control&general == 0 {
			if len(samples) == 0 {
				return errCounts
			}
			s.Samples, samples = samples[:1:1], samples[1:]
			d.ordinary(r, control, s)
		} else {
			samples = d.general(r, control, s, samples)
		}
		if r.err != nil {
			return fmt.Errorf("series %d: %w", i, r.err)
		}
	}
	if len(samples) > 0 {
		return errCounts
	}
	if families > 0 {
		b.Metadata = make([]series.Metadata, families)
	}
	for i := range b.Metadata {
		m := &b.Metadata[i]
		m.Family, m.Type, m.Unit, m.Help = d.ownText(r), model.MetricType(d.ownText(r)), d.ownText(r), d.ownText(r)
	}
	if r.err == nil && r.left() > 0 {
		return errRest
	}
	return r.err
}

// ordinary decodes a known series with one sample.
func (d *Decoder) ordinary(r *reader, control byte, s *series.Series) {
	var distance int64
	if control&jump != 0 {
		distance = r.varint()
	}
	d.lookUp(r, r.jump(distance), s)
	d.sample(r, control, &s.Samples[0])
}

func (d *Decoder) lookUp(r *reader, index uint32, s *series.Series) {
	if n := int(index) / len(page{}); n < len(d.known) && d.known[n] != nil {
		if h := d.known[n][int(index)%len(page{})]; h != nil {
			s.Handle, s.Labels = h, h.Labels
			return
		}
	}
	r.fail(errUnknown)
}

// define gives a number a meaning.
func (d *Decoder) define(r *reader, index uint32, s *series.Series) {
	ls := d.labels(r)
	if r.err != nil {
		return
	}
	h := &series.Handle{Labels: ls}
	d.interner.Intern(h)
	n := int(index) / len(page{})
	if n >= len(d.known) {
		d.known = append(d.known, make([]*page, n+1-len(d.known))...)
	}
	if d.known[n] == nil {
		d.known[n] = new(page)
	}
	at := &d.known[n][int(index)%len(page{})]
	if *at == nil {
		if d.entries >= maxEntries {
			r.fail(errEntries)
			return
		}
		d.entries++
	}
	// What was defined before is still read by whoever has it.
	*at = h
	s.Handle, s.Labels = h, h.Labels
}

// general decodes every other entry, and returns the samples that it leaves.
func (d *Decoder) general(r *reader, control byte, s *series.Series, samples []series.Sample) []series.Sample {
	if control&^(general|exemplars|nameMask) != 0 {
		r.fail(errControl)
		return samples
	}
	switch control & nameMask {
	case byNumber:
		d.lookUp(r, r.jump(r.varint()), s)
	case byDefinition:
		d.define(r, r.jump(r.varint()), s)
	case byLabels:
		s.Labels = d.labels(r)
	default:
		r.fail(errControl)
	}
	n := r.count(2)
	if n > len(samples) {
		r.fail(errCounts)
		return samples
	}
	s.Samples = samples[:n:n]
	for i := range s.Samples {
		control := r.byte()
		if control&(general|jump) != 0 {
			r.fail(errControl)
		}
		if d.sample(r, control, &s.Samples[i]); r.err != nil {
			return samples
		}
	}
	if control&exemplars != 0 {
		n := r.count(11)
		if r.take(perExemplar * n); r.err == nil {
			s.Exemplars = make([]exemplar.Exemplar, n)
		}
		for i := range s.Exemplars {
			if d.exemplar(r, &s.Exemplars[i]); r.err != nil {
				break
			}
		}
	}
	return samples[len(s.Samples):]
}

func (d *Decoder) sample(r *reader, control byte, s *series.Sample) {
	if control&moved != 0 {
		r.time += r.varint()
	}
	s.T = r.time
	if control&started != 0 {
		r.start += r.varint()
		s.ST = r.start
	}
	kind := control >> kindShift & kindMask
	switch {
	case control&native != 0:
		if kind != raw {
			r.fail(errControl)
			return
		}
		d.histogram(r, s)
	case kind == raw:
		s.V = r.float()
	default:
		s.V = join(kind, r.varint())
	}
}

func (d *Decoder) histogram(r *reader, s *series.Sample) {
	encoded := r.bytes(r.count(1))
	r.take(perHistogramByte * len(encoded))
	if r.err != nil {
		return
	}
	var h writev2.Histogram
	if err := h.Unmarshal(encoded); err != nil {
		r.fail(err)
		return
	}
	if h.IsFloatHistogram() {
		s.FH = h.ToFloatHistogram()
	} else {
		s.H = h.ToIntHistogram()
	}
}

func (d *Decoder) exemplar(r *reader, x *exemplar.Exemplar) {
	timed := r.byte()
	if timed > 1 {
		r.fail(errControl)
	}
	x.HasTs = timed == 1
	x.Ts = r.varint()
	x.Value = r.float()
	x.Labels = d.labels(r)
}

// labels decodes a set of labels, in memory of its own.
func (d *Decoder) labels(r *reader) labels.Labels {
	d.builder.Reset()
	n := r.count(2)
	r.take(perLabel * n)
	for range n {
		name := d.text(r).view
		value := d.text(r).view
		if len(name) > maxText || len(value) > maxText {
			r.fail(errLong)
		}
		if r.err != nil {
			return labels.EmptyLabels()
		}
		d.builder.Add(name, value)
	}
	return d.builder.Labels()
}

// text returns one of the frame's texts, which stays valid until the next one is asked for.
func (d *Decoder) text(r *reader) *text {
	n := r.uvarint()
	if n == 0 {
		b := r.bytes(r.count(1))
		d.texts = append(d.texts, text{view: unsafe.String(unsafe.SliceData(b), len(b))})
		n = uint64(len(d.texts))
	}
	if n > uint64(len(d.texts)) {
		r.fail(errText)
		return &text{}
	}
	t := &d.texts[n-1]
	r.take(len(t.view))
	return t
}

// ownText returns a text that outlives the frame.
func (d *Decoder) ownText(r *reader) string {
	t := d.text(r)
	if r.err != nil {
		return ""
	}
	if t.own == "" {
		t.own = strings.Clone(t.view)
	}
	return t.own
}
