package merge

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/series"
)

// milliseconds since the epoch. It is int64 under another name because vet takes every
// Seek that begins with an int64 for a failed io.Seeker.
type milliseconds = int64

// Iterator merges lanes, which are copies of one series or parts of it, sample by sample:
// one value for each timestamp, the greatest in the order of [Compare]. It stays on one lane
// as long as that has the value, because a histogram's counter reset hint speaks of the
// sample before it in the same lane; after a change of lane the hint of a counter is
// UnknownCounterReset. Lanes that do not overlap cost one comparison of timestamps a sample.
//
// It implements chunkenc.Iterator.
type Iterator struct {
	lanes []cursor
	cur   int // the lane of the current sample, -1 before the first and after the last
	t     int64
	// bound is where the next of the other lanes stands, which may be at t.
	bound int64
	// consecutive is set if the sample before the current one in its lane was the last
	// one returned.
	consecutive bool
	started     bool
	err         error

	// a and b are scratch space for comparing.
	a, b scratch
}

// cursor is a lane and where it stands; typ is ValNone if it is exhausted.
type cursor struct {
	chunkenc.Iterator
	typ chunkenc.ValueType
	at  int64
}

type scratch struct {
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

// New returns an iterator over n lanes, which is reuse if that is an Iterator. open returns
// the iterator over the lane of that number, which has not been moved yet; it may be the one
// that open is given, which is that of another lane or series, or nil.
func New(reuse chunkenc.Iterator, n int, open func(lane int, reuse chunkenc.Iterator) chunkenc.Iterator) *Iterator {
	m, ok := reuse.(*Iterator)
	if !ok {
		m = &Iterator{}
	}
	if cap(m.lanes) < n {
		m.lanes = append(m.lanes[:cap(m.lanes)], make([]cursor, n-cap(m.lanes))...)
	}
	m.lanes = m.lanes[:n]
	for i := range m.lanes {
		m.lanes[i] = cursor{Iterator: open(i, m.lanes[i].Iterator)}
	}
	m.cur, m.started, m.consecutive, m.err = -1, false, false, nil
	return m
}

// Next implements chunkenc.Iterator.
func (m *Iterator) Next() chunkenc.ValueType {
	if m.err != nil || m.started && m.cur < 0 {
		return chunkenc.ValNone
	}
	last := m.cur
	if last >= 0 {
		c := &m.lanes[last]
		if !m.moved(c, c.Next()) {
			return chunkenc.ValNone
		}
		if c.typ != chunkenc.ValNone && c.at < m.bound {
			m.t, m.consecutive = c.at, true
			return c.typ
		}
	}
	for i := range m.lanes {
		c := &m.lanes[i]
		if !m.started || i != last && c.typ != chunkenc.ValNone && c.at == m.t {
			if !m.moved(c, c.Next()) {
				return chunkenc.ValNone
			}
		}
	}
	typ := m.choose()
	m.consecutive = m.cur == last
	return typ
}

// Seek implements chunkenc.Iterator.
func (m *Iterator) Seek(t milliseconds) chunkenc.ValueType {
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
				return chunkenc.ValNone
			}
		}
	}
	typ := m.choose()
	m.consecutive = false
	return typ
}

// moved takes note of where a lane stands now. It returns false, and the iterator has ended,
// if the lane is broken.
func (m *Iterator) moved(c *cursor, typ chunkenc.ValueType) bool {
	if c.typ = typ; typ == chunkenc.ValNone {
		m.err = c.Err()
	} else if c.at = c.AtT(); m.started && c.at <= m.t {
		// The chunk's samples are not where it says they are: a value might be left
		// out or returned twice.
		m.err = fmt.Errorf("sample at %d after %d: chunks overlap against their time ranges", c.at, m.t)
	}
	if m.err != nil {
		m.cur = -1
	}
	return m.err == nil
}

// choose makes the greatest sample of the earliest timestamp the current one. Of equal
// ones it prefers that of the current lane, then that of the first.
func (m *Iterator) choose() chunkenc.ValueType {
	best := -1
	if m.cur >= 0 && m.lanes[m.cur].typ != chunkenc.ValNone {
		best = m.cur
	}
	m.bound = math.MaxInt64
	for i := range m.lanes {
		c := &m.lanes[i]
		if c.typ == chunkenc.ValNone || i == best {
			continue
		}
		loser := i
		if best < 0 || c.at < m.lanes[best].at || c.at == m.lanes[best].at && m.greater(c, &m.lanes[best]) {
			best, loser = i, best
		}
		if loser >= 0 {
			m.bound = min(m.bound, m.lanes[loser].at)
		}
	}
	m.started = true
	if m.cur = best; best < 0 {
		return chunkenc.ValNone
	}
	m.t = m.lanes[best].at
	return m.lanes[best].typ
}

// greater tells whether the sample at c is greater than that at d.
func (m *Iterator) greater(c, d *cursor) bool {
	x, y := c.sample(&m.a), d.sample(&m.b)
	return Compare(&x, &y) > 0
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
func (m *Iterator) At() (int64, float64) { return m.lanes[m.cur].At() }

// AtHistogram implements chunkenc.Iterator.
func (m *Iterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	t, h := m.lanes[m.cur].AtHistogram(h)
	if !m.consecutive && h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, h
}

// AtFloatHistogram implements chunkenc.Iterator.
func (m *Iterator) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	t, fh := m.lanes[m.cur].AtFloatHistogram(fh)
	if !m.consecutive && fh.CounterResetHint != histogram.GaugeType {
		fh.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, fh
}

// AtT implements chunkenc.Iterator.
func (m *Iterator) AtT() int64 { return m.t }

// AtST implements chunkenc.Iterator.
func (m *Iterator) AtST() int64 { return m.lanes[m.cur].AtST() }

// Err implements chunkenc.Iterator.
func (m *Iterator) Err() error { return m.err }
