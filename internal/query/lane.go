package query

import (
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// lane iterates over chunks that do not overlap, clipped to a range of time. It
// implements chunkenc.Iterator and can be reset to another series.
type lane struct {
	rest       []chunk // not opened yet
	mint, maxt int64

	it     chunkenc.Iterator // over the open chunk; kept for re-use
	holder chunkenc.Chunk    // of the open chunk; kept for re-use
	open   bool
	clip   bool // the open chunk reaches out of the range
	typ    chunkenc.ValueType
	err    error
}

func (l *lane) reset(chunks []chunk, mint, maxt int64) {
	*l = lane{rest: chunks, mint: mint, maxt: maxt, it: l.it, holder: l.holder}
	for len(l.rest) > 0 && l.rest[0].maxt < mint {
		l.rest = l.rest[1:]
	}
}

// Next implements chunkenc.Iterator.
func (l *lane) Next() chunkenc.ValueType {
	for l.open || l.openNext() {
		if l.typ = l.it.Next(); l.typ == chunkenc.ValNone {
			l.endChunk()
			continue
		}
		if !l.clip {
			return l.typ
		}
		switch t := l.it.AtT(); {
		case t > l.maxt:
			return l.end(nil)
		case t >= l.mint:
			return l.typ
		}
	}
	return chunkenc.ValNone
}

// Seek implements chunkenc.Iterator.
func (l *lane) Seek(t milliseconds) chunkenc.ValueType {
	if l.open && l.typ != chunkenc.ValNone && l.it.AtT() >= t {
		return l.typ
	}
	t = max(t, l.mint)
	for {
		if l.open {
			if l.typ = l.it.Seek(t); l.typ == chunkenc.ValNone {
				l.endChunk()
			} else if l.clip && l.it.AtT() > l.maxt {
				return l.end(nil)
			} else {
				return l.typ
			}
		}
		for len(l.rest) > 0 && l.rest[0].maxt < t {
			l.rest = l.rest[1:]
		}
		if !l.openNext() {
			return chunkenc.ValNone
		}
	}
}

func (l *lane) openNext() bool {
	l.typ = chunkenc.ValNone
	if len(l.rest) == 0 || l.rest[0].mint > l.maxt {
		return false
	}
	c := l.rest[0]
	l.rest = l.rest[1:]
	if l.holder != nil && l.holder.Encoding() == c.enc {
		l.holder.Reset(c.data)
	} else {
		holder, err := chunkenc.FromData(c.enc, c.data)
		if err != nil {
			l.end(fmt.Errorf("chunk [%d, %d]: %w", c.mint, c.maxt, err))
			return false
		}
		l.holder = holder
	}
	l.it = l.holder.Iterator(l.it)
	l.clip = c.mint < l.mint || c.maxt > l.maxt
	l.open = true
	return true
}

// endChunk leaves the open chunk, which has no more samples or is broken.
func (l *lane) endChunk() {
	if err := l.it.Err(); err != nil {
		l.end(err)
		return
	}
	l.open = false
}

// end exhausts the lane.
func (l *lane) end(err error) chunkenc.ValueType {
	l.rest, l.open, l.typ, l.err = nil, false, chunkenc.ValNone, err
	return chunkenc.ValNone
}

// At implements chunkenc.Iterator.
func (l *lane) At() (int64, float64) { return l.it.At() }

// AtHistogram implements chunkenc.Iterator.
func (l *lane) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	return l.it.AtHistogram(h)
}

// AtFloatHistogram implements chunkenc.Iterator.
func (l *lane) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return l.it.AtFloatHistogram(fh)
}

// AtT implements chunkenc.Iterator.
func (l *lane) AtT() int64 { return l.it.AtT() }

// AtST implements chunkenc.Iterator.
func (l *lane) AtST() int64 { return l.it.AtST() }

// Err implements chunkenc.Iterator.
func (l *lane) Err() error { return l.err }
