package workload

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/http"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// Encoder makes the bodies of one batch, scrape by scrape. What stays the same from one
// scrape to the next, which is the labels, is encoded once; so a body costs little more than
// its compression. One goroutine at a time may use it.
type Encoder struct {
	shape   Shape
	batch   int
	version int

	samples []Sample
	// series are the encoded labels, by ID, of those that the last body had.
	series map[int][]byte
	// symbols is the encoded table of a body of version 2, and is made anew, with all
	// references into it, when a body has a series that the last one had not.
	symbols []byte
	raw     []byte
	part    []byte
}

// NewEncoder returns an encoder of Remote Write 1 or 2.
func NewEncoder(s Shape, batch, version int) *Encoder {
	return &Encoder{shape: s, batch: batch, version: version, series: map[int][]byte{}}
}

// Header is what a request of this version has.
func Header(version int) http.Header {
	h := http.Header{"Content-Encoding": {"snappy"}, "User-Agent": {"starling-ingest-benchmark"}}
	if version == 2 {
		h.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		h.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
	} else {
		h.Set("Content-Type", "application/x-protobuf")
		h.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	}
	return h
}

// Body encodes and compresses what is sent in a scrape, and tells how many samples that is.
// The body is the caller's: buf is used for it if it is large enough.
func (e *Encoder) Body(buf []byte, scrape int) (body []byte, samples int, err error) {
	if err := e.encode(scrape); err != nil {
		return nil, 0, fmt.Errorf("encode batch %d of scrape %d: %w", e.batch, scrape, err)
	}
	return snappy.Encode(buf[:cap(buf)], e.raw), len(e.samples), nil
}

// encode fills e.raw.
func (e *Encoder) encode(scrape int) error {
	e.samples = e.shape.Samples(e.samples[:0], e.batch, scrape)
	e.label()
	e.raw = append(e.raw[:0], e.symbols...)
	for _, s := range e.samples {
		if err := e.sample(s); err != nil {
			return err
		}
		own := e.series[s.ID]
		e.raw = append(e.raw, e.tag(timeSeries))
		e.raw = binary.AppendUvarint(e.raw, uint64(len(own)+len(e.part)))
		e.raw = append(append(e.raw, own...), e.part...)
	}
	return nil
}

// Fields of the messages of both versions, which are numbered alike in part only.
type field int

const (
	timeSeries field = iota
	sample
	native
)

// tag is that of a field of length-delimited type.
func (e *Encoder) tag(f field) byte {
	number := map[bool][3]byte{false: {1, 2, 4}, true: {5, 2, 3}}[e.version == 2][f]
	return number<<3 | 2
}

// label makes sure that the labels of all samples are encoded, and no others.
func (e *Encoder) label() {
	changed := false
	for _, s := range e.samples {
		if _, known := e.series[s.ID]; !known {
			changed = true
		}
	}
	if !changed {
		return
	}
	if e.version == 2 {
		e.label2()
		return
	}
	old := e.series
	e.series = make(map[int][]byte, len(e.samples))
	for _, s := range e.samples {
		own, known := old[s.ID]
		if !known {
			own = labels1(e.shape.Labels(s.ID))
		}
		e.series[s.ID] = own
	}
}

// labels1 are the label fields of a TimeSeries of version 1.
func labels1(ls labels.Labels) (b []byte) {
	ls.Range(func(l labels.Label) {
		m := prompb.Label{Name: l.Name, Value: l.Value}
		b = append(b, 1<<3|2)
		b = binary.AppendUvarint(b, uint64(m.Size()))
		b = appendString(appendString(b, 1, l.Name), 2, l.Value)
	})
	return b
}

func appendString(b []byte, field byte, s string) []byte {
	b = append(b, field<<3|2)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// label2 makes a table of symbols, and the references of all series into it.
func (e *Encoder) label2() {
	table := writev2.NewSymbolTable()
	e.series = make(map[int][]byte, len(e.samples))
	var refs []uint32
	for _, s := range e.samples {
		if _, known := e.series[s.ID]; known {
			continue
		}
		refs = table.SymbolizeLabels(e.shape.Labels(s.ID), refs[:0])
		var packed []byte
		for _, r := range refs {
			packed = binary.AppendUvarint(packed, uint64(r))
		}
		own := binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(packed)))
		e.series[s.ID] = append(own, packed...)
	}
	const symbolsField = 4
	e.symbols = e.symbols[:0]
	for _, symbol := range table.Symbols() {
		e.symbols = appendString(e.symbols, symbolsField, symbol)
	}
}

// sample encodes what follows the labels into e.part.
func (e *Encoder) sample(s Sample) error {
	e.part = e.part[:0]
	if e.shape.Native(s.ID) {
		b, err := e.native(s)
		if err != nil {
			return err
		}
		e.part = append(e.part, e.tag(native))
		e.part = binary.AppendUvarint(e.part, uint64(len(b)))
		e.part = append(e.part, b...)
	} else {
		var own [1 + 8 + 1 + binary.MaxVarintLen64]byte
		b := append(own[:0], 1<<3|1)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(Value(s.ID, s.Scrape)))
		b = binary.AppendUvarint(append(b, 2<<3), uint64(s.T))
		e.part = append(e.part, e.tag(sample), byte(len(b)))
		e.part = append(e.part, b...)
	}
	if e.version == 2 {
		e.part = append(e.part, 5<<3|2, 0) // metadata, empty
	}
	return nil
}

func (e *Encoder) native(s Sample) ([]byte, error) {
	h := Histogram(s.ID, s.Scrape)
	if e.version == 2 {
		m := writev2.FromIntHistogram(0, s.T, h)
		return m.Marshal()
	}
	m := prompb.FromIntHistogram(s.T, h)
	return m.Marshal()
}
