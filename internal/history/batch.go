package history

import (
	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

const (
	// fullSamples is what a stock Prometheus sends at once, and fullBytes about how large a batch
	// gets of histograms with many buckets or of long labels. The last series is added as a whole:
	// batches overtake each other, and what is behind would be late.
	fullSamples = 2000
	fullBytes   = 2 << 20
	// maxSamples and maxBytes are where a series is divided all the same, far below what a node
	// takes.
	maxSamples = 20_000
	maxBytes   = 8 << 20
)

// batch is one request that is being put together.
type batch struct {
	symbols writev2.SymbolsTable
	series  []writev2.TimeSeries
	samples int
	bytes   int
}

func newBatch() *batch { return &batch{symbols: writev2.NewSymbolTable()} }

func (b *batch) full() bool { return b.samples >= fullSamples || b.bytes >= fullBytes }

func (b *batch) tooLarge() bool { return b.samples >= maxSamples || b.bytes >= maxBytes }

// begin adds a series without samples.
func (b *batch) begin(ls labels.Labels) {
	refs := b.symbols.SymbolizeLabels(ls, nil)
	b.series = append(b.series, writev2.TimeSeries{LabelsRefs: refs})
	ls.Range(func(l labels.Label) { b.bytes += len(l.Name) + len(l.Value) })
}

// add adds the sample at which an iterator stands to the series that was begun last. A message has
// either floats or histograms of one series: a change begins it anew.
func (b *batch) add(it chunkenc.Iterator, kind chunkenc.ValueType) {
	at := &b.series[len(b.series)-1]
	if isFloat := kind == chunkenc.ValFloat; isFloat && len(at.Histograms) > 0 || !isFloat && len(at.Samples) > 0 {
		b.series = append(b.series, writev2.TimeSeries{LabelsRefs: at.LabelsRefs})
		at = &b.series[len(b.series)-1]
	}
	before := 0
	switch kind {
	case chunkenc.ValHistogram:
		t, h := it.AtHistogram(nil)
		at.Histograms = append(at.Histograms, writev2.FromIntHistogram(it.AtST(), t, h))
		before = at.Histograms[len(at.Histograms)-1].Size()
	case chunkenc.ValFloatHistogram:
		t, fh := it.AtFloatHistogram(nil)
		at.Histograms = append(at.Histograms, writev2.FromFloatHistogram(it.AtST(), t, fh))
		before = at.Histograms[len(at.Histograms)-1].Size()
	default:
		t, v := it.At()
		at.Samples = append(at.Samples, writev2.Sample{Timestamp: t, Value: v, StartTimestamp: it.AtST()})
	}
	b.samples++
	b.bytes += before + 16
}

// encode returns the body of the request.
func (b *batch) encode() ([]byte, error) {
	request := writev2.Request{Symbols: b.symbols.Symbols(), Timeseries: b.series}
	raw, err := request.Marshal()
	if err != nil {
		return nil, err
	}
	return snappy.Encode(nil, raw), nil
}

// batches cuts the series of a window into batches and hands them on. Samples outside of the
// window are left out; extra labels are added to each series.
type batches struct {
	mint, maxt int64
	extra      labels.Labels
	send       func(*batch) error
	// seen is called for each series with samples in the window.
	seen func(labels.Labels)

	now     *batch
	builder labels.Builder
}

func (b *batches) add(s storage.Series, it chunkenc.Iterator) (chunkenc.Iterator, error) {
	it = s.Iterator(it)
	var ls labels.Labels
	begun := false
	for kind := it.Seek(b.mint); kind != chunkenc.ValNone; kind = it.Next() {
		if t := it.AtT(); t < b.mint {
			continue
		} else if t > b.maxt {
			break
		}
		if ls.IsEmpty() {
			ls = b.labels(s)
			b.seen(ls)
		}
		if b.now == nil {
			b.now, begun = newBatch(), false
		}
		if !begun {
			b.now.begin(ls)
			begun = true
		}
		b.now.add(it, kind)
		if b.now.tooLarge() {
			if err := b.flush(); err != nil {
				return it, err
			}
		}
	}
	if err := it.Err(); err != nil {
		return it, err
	}
	if b.now != nil && b.now.full() {
		return it, b.flush()
	}
	return it, nil
}

// labels are those of a series and the extra ones, which win.
func (b *batches) labels(s storage.Series) labels.Labels {
	b.builder.Reset(s.Labels())
	b.extra.Range(func(l labels.Label) { b.builder.Set(l.Name, l.Value) })
	return b.builder.Labels()
}

// flush hands on what has been put together.
func (b *batches) flush() error {
	full := b.now
	if full == nil {
		return nil
	}
	b.now = nil
	return b.send(full)
}
