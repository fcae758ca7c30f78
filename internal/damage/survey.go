package damage

import (
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/record"
)

// span is a range of time, both ends inclusive; it is empty if min is above max.
type span struct{ min, max int64 }

func noTime() span { return span{math.MaxInt64, math.MinInt64} }

func (s *span) extend(t int64) { s.min, s.max = min(s.min, t), max(s.max, t) }

func (s *span) empty() bool { return s.min > s.max }

// survey reads everything that is still to be read in damaged logs, to find out what the
// rest may have been.
type survey struct {
	dec    record.Decoder
	known  map[chunks.HeadSeriesRef]bool // series whose record was read
	maxRef chunks.HeadSeriesRef          // of anything that was read
	times  span                          // of all samples, in both logs
	// orphans are samples of series whose record is not there: the TSDB drops them.
	orphans span
	// firstSample is the time of the first sample in the write-ahead log.
	firstSample int64
	samples     bool

	series      []record.RefSeries
	floats      []record.RefSample
	histograms  []record.RefHistogramSample
	fhistograms []record.RefFloatHistogramSample
}

func newSurvey(logger *slog.Logger) *survey {
	return &survey{
		dec:     record.NewDecoder(labels.NewSymbolTable(), logger),
		known:   make(map[chunks.HeadSeriesRef]bool),
		times:   noTime(),
		orphans: noTime(),
	}
}

// log reads a log and returns, for each flaw, the newest sample time that came before it,
// and the span of all times in the log. Records that cannot be decoded become flaws.
func (v *survey) log(l *segmentLog) (before []int64, all span, err error) {
	all = noTime()
	newest := int64(math.MinInt64)
	if l.noCheckpoint >= 0 {
		before = append(before, newest)
	}
	for _, s := range l.segments {
		if s.missing {
			before = append(before, newest)
			continue
		}
		n, flaws := 0, s.flaws
		_, err := s.scan(func(rec []byte) error {
			for len(flaws) > 0 && flaws[0].records <= n {
				before, flaws = append(before, newest), flaws[1:]
			}
			times, ok := v.record(rec)
			if !ok {
				before = append(before, newest)
				if s.undecodable == nil {
					s.undecodable = make(map[int]bool)
				}
				s.undecodable[n] = true
			}
			n++
			if !times.empty() {
				newest = max(newest, times.max)
				all.extend(times.min)
				all.extend(times.max)
			}
			return nil
		})
		if err != nil {
			return nil, all, err
		}
		for range flaws {
			before = append(before, newest)
		}
	}
	return before, all, nil
}

// record takes in one record; ok is false if it cannot be decoded.
func (v *survey) record(rec []byte) (times span, ok bool) {
	times = noTime()
	var err error
	switch v.dec.Type(rec) {
	case record.Series:
		v.series, err = v.dec.Series(rec, v.series[:0])
		for _, s := range v.series {
			v.known[s.Ref] = true
			v.maxRef = max(v.maxRef, s.Ref)
		}
	case record.Samples, record.SamplesV2:
		v.floats, err = v.dec.Samples(rec, v.floats[:0])
		for _, s := range v.floats {
			v.sample(s.Ref, s.T, &times)
		}
	case record.HistogramSamples, record.CustomBucketsHistogramSamples, record.HistogramSamplesV2:
		v.histograms, err = v.dec.HistogramSamples(rec, v.histograms[:0])
		for _, s := range v.histograms {
			v.sample(s.Ref, s.T, &times)
		}
	case record.FloatHistogramSamples, record.CustomBucketsFloatHistogramSamples, record.FloatHistogramSamplesV2:
		v.fhistograms, err = v.dec.FloatHistogramSamples(rec, v.fhistograms[:0])
		for _, s := range v.fhistograms {
			v.sample(s.Ref, s.T, &times)
		}
	case record.Tombstones:
		_, err = v.dec.Tombstones(rec, nil)
	case record.Exemplars:
		_, err = v.dec.Exemplars(rec, nil)
	case record.Metadata:
		_, err = v.dec.Metadata(rec, nil)
	case record.MmapMarkers:
		_, err = v.dec.MmapMarkers(rec, nil)
	}
	return times, err == nil
}

func (v *survey) sample(ref chunks.HeadSeriesRef, t int64, times *span) {
	if !v.samples {
		v.samples, v.firstSample = true, t
	}
	v.maxRef = max(v.maxRef, ref)
	times.extend(t)
	v.times.extend(t)
	if !v.known[ref] {
		v.orphans.extend(t)
	}
}

// limits are what is known about the samples that a store takes.
type limits struct {
	// outOfOrder is how far behind the newest sample an accepted one can be.
	outOfOrder time.Duration
	// block is the time range of a block cut from the head.
	block time.Duration
	// future is how far ahead of the clock a sample can be.
	future time.Duration
	// blocksEnd is the end of the in-order blocks, math.MinInt64 without one. The
	// TSDB replays nothing older from the write-ahead log.
	blocksEnd int64
}

// slack allows for writes that were judged by an older state of the head than that of the
// records before them.
const slack = 10 * time.Minute

// lost returns the time range of what the flaws of a log may have taken, and of what the
// TSDB cannot use for it. before and all are what survey.log returned for that log.
func (v *survey) lost(l *segmentLog, before []int64, all span, lim limits) (mint, maxt int64) {
	back := (max(lim.outOfOrder, lim.block) + slack).Milliseconds()
	mint = math.MaxInt64
	for _, newest := range before {
		if newest == math.MinInt64 {
			newest = v.startOf(l, all, lim)
		}
		mint = min(mint, sub(newest, back))
	}
	if l.kind == WAL {
		mint = max(mint, lim.blocksEnd)
	}
	maxt = v.times.max
	for _, s := range l.segments {
		if s.flawed() && !s.missing {
			maxt = max(maxt, s.written.UnixMilli())
		}
	}
	for i, s := range l.segments { // what is missing was written before what is behind it
		if s.missing && i+1 < len(l.segments) {
			maxt = max(maxt, l.segments[i+1].written.UnixMilli())
		} else if s.missing {
			maxt = math.MaxInt64
		}
	}
	if l.noCheckpoint >= 0 {
		maxt = max(maxt, l.segments[0].written.UnixMilli())
	}
	maxt = add(maxt, lim.future.Milliseconds())
	if l.kind == WAL && !v.orphans.empty() {
		mint, maxt = min(mint, v.orphans.min), max(maxt, v.orphans.max)
	}
	return mint, maxt
}

// startOf estimates how new the head's newest sample was at least when a log began whose
// first record is lost. The out-of-order log begins at a compaction: a block or two before
// the end of the blocks, or with the write-ahead log where there is none. Of the latter
// nothing is known, but what is older than the blocks' end is in the blocks.
func (v *survey) startOf(l *segmentLog, all span, lim limits) int64 {
	if l.kind == WAL {
		return math.MinInt64
	}
	begin := int64(math.MaxInt64)
	if lim.blocksEnd != math.MinInt64 {
		begin = sub(lim.blocksEnd, 2*lim.block.Milliseconds())
	} else if v.samples {
		begin = v.firstSample
	}
	if !all.empty() {
		begin = min(begin, all.min)
	}
	if begin == math.MaxInt64 {
		return math.MinInt64
	}
	return begin
}
