package query

import (
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/series"
)

// mergeIterator merges lanes sample by sample: one value for each timestamp, the
// greatest in the order of CompareSamples. It stays on one lane as long as that has the
// value, because a histogram's counter reset hint speaks of the sample before it in the
// same lane; after a change of lane the hint of a counter is UnknownCounterReset.
//
// It implements chunkenc.Iterator and can be reset to another series.
type mergeIterator struct {
	lanes []cursor
	cur   int // the lane of the current sample, -1 before the first and after the last
	t     int64
	// consecutive is set if the sample before the current one in its lane was the last
	// one returned.
	consecutive bool
	started     bool
	err         error

	// a and b are scratch space for comparing.
	a, b scratch
}

// cursor is a lane and the time at which it stands, unless it is exhausted.
type cursor struct {
	lane
	at int64
}

type scratch struct {
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

func (m *mergeIterator) reset(lanes [][]chunk, mint, maxt int64) {
	if cap(m.lanes) < len(lanes) {
		m.lanes = append(m.lanes[:cap(m.lanes)], make([]cursor, len(lanes)-cap(m.lanes))...)
	}
	m.lanes = m.lanes[:len(lanes)]
	for i, chunks := range lanes {
		m.lanes[i].reset(chunks, mint, maxt)
	}
	m.cur, m.started, m.consecutive, m.err = -1, false, false, nil
}

// Next implements chunkenc.Iterator.
func (m *mergeIterator) Next() chunkenc.ValueType {
	if m.err != nil || m.started && m.cur < 0 {
		return chunkenc.ValNone
	}
	last := m.cur
	for i := range m.lanes {
		c := &m.lanes[i]
		if !m.started || c.typ != chunkenc.ValNone && c.at == m.t {
			if !m.moved(c, c.Next()) {
				return m.fail(c.Err())
			}
		}
	}
	m.started = true
	typ := m.choose()
	m.consecutive = m.cur == last
	return typ
}

// Seek implements chunkenc.Iterator.
func (m *mergeIterator) Seek(t milliseconds) chunkenc.ValueType {
	if m.err != nil || m.started && m.cur < 0 {
		return chunkenc.ValNone
	}
	if m.cur >= 0 && m.t >= t {
		return m.lanes[m.cur].typ
	}
	for i := range m.lanes {
		c := &m.lanes[i]
		if !m.started || c.typ != chunkenc.ValNone && c.at < t {
			if !m.moved(c, c.Seek(t)) {
				return m.fail(c.Err())
			}
		}
	}
	m.started = true
	typ := m.choose()
	m.consecutive = false
	return typ
}

// moved takes note of where a lane stands now. It returns false if the lane is broken.
func (m *mergeIterator) moved(c *cursor, typ chunkenc.ValueType) bool {
	if typ == chunkenc.ValNone {
		return c.Err() == nil
	}
	t := c.AtT()
	if m.started && t <= m.t {
		// The chunk's samples are not where it says they are: a value might be left
		// out or returned twice.
		c.end(fmt.Errorf("sample at %d after %d: chunks overlap against their time ranges", t, m.t))
		return false
	}
	c.at = t
	return true
}

func (m *mergeIterator) fail(err error) chunkenc.ValueType {
	m.err, m.cur = err, -1
	return chunkenc.ValNone
}

// choose makes the greatest sample of the earliest timestamp the current one. Of equal
// ones it prefers that of the current lane, then that of the first.
func (m *mergeIterator) choose() chunkenc.ValueType {
	best := -1
	if m.cur >= 0 && m.lanes[m.cur].typ != chunkenc.ValNone {
		best = m.cur
	}
	for i := range m.lanes {
		c := &m.lanes[i]
		switch {
		case c.typ == chunkenc.ValNone || i == best:
		case best < 0, c.at < m.lanes[best].at:
			best = i
		case c.at == m.lanes[best].at && m.greater(c, &m.lanes[best]):
			best = i
		}
	}
	if m.cur = best; best < 0 {
		return chunkenc.ValNone
	}
	m.t = m.lanes[best].at
	return m.lanes[best].typ
}

// greater tells whether the sample at c is greater than that at d.
func (m *mergeIterator) greater(c, d *cursor) bool {
	x, y := c.sample(&m.a), d.sample(&m.b)
	return CompareSamples(&x, &y) > 0
}

// sample decodes the sample that the cursor is at, into the scratch space if it is a
// histogram.
func (c *cursor) sample(s *scratch) series.Sample {
	out := series.Sample{T: c.at, ST: c.AtST()}
	switch c.typ {
	case chunkenc.ValHistogram:
		if s.h == nil {
			s.h = &histogram.Histogram{}
		}
		_, out.H = c.AtHistogram(s.h)
	case chunkenc.ValFloatHistogram:
		if s.fh == nil {
			s.fh = &histogram.FloatHistogram{}
		}
		_, out.FH = c.AtFloatHistogram(s.fh)
	default:
		_, out.V = c.At()
	}
	return out
}

// At implements chunkenc.Iterator.
func (m *mergeIterator) At() (int64, float64) { return m.lanes[m.cur].At() }

// AtHistogram implements chunkenc.Iterator.
func (m *mergeIterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	t, h := m.lanes[m.cur].AtHistogram(h)
	if !m.consecutive && h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, h
}

// AtFloatHistogram implements chunkenc.Iterator.
func (m *mergeIterator) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	t, fh := m.lanes[m.cur].AtFloatHistogram(fh)
	if !m.consecutive && fh.CounterResetHint != histogram.GaugeType {
		fh.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, fh
}

// AtT implements chunkenc.Iterator.
func (m *mergeIterator) AtT() int64 { return m.t }

// AtST implements chunkenc.Iterator.
func (m *mergeIterator) AtST() int64 { return m.lanes[m.cur].AtST() }

// Err implements chunkenc.Iterator.
func (m *mergeIterator) Err() error { return m.err }
