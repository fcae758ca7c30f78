// Package workload says what the ingest benchmark sends. Everything is a pure function of
// the number of a series and of a scrape, so that every sample can be told again afterwards,
// and be compared with what a server answers.
//
// A position is a place in a scrape, as a target has it: there are as many as series that
// are active at one time. Which series is at a position changes with churn; its generation
// counts that, and position and generation are the ID of the series.
package workload

import (
	"fmt"
	"time"
)

// Shape is a load. The zero value of each share is none.
type Shape struct {
	// Series is how many are active at a time.
	Series int
	// Scrapes is how many samples a position has.
	Scrapes int
	// Batch is how many positions go into a request.
	Batch int
	// Step is the time from one scrape to the next.
	Step time.Duration
	// Start is the time of scrape 0, in ms.
	Start int64
	// Churn is the share of series that is replaced within an hour.
	Churn float64
	// ReplaceEvery is after how many scrapes all series are replaced; 0 is never.
	ReplaceEvery int
	// OutOfOrder is the share of samples that come late.
	OutOfOrder float64
	// Names is how many metrics the series belong to; 0 is a hundred.
	Names int
	// Histograms is the share of series that are native histograms.
	Histograms float64
}

// Late is by how many scrapes a sample that comes late does so.
const Late = 4

// Sample is one sample. What it holds beside follows from these; see Value and Histogram.
type Sample struct {
	ID     int // of the series
	Scrape int
	T      int64 // ms
}

// Check returns an error for what cannot be.
func (s Shape) Check() error {
	switch {
	case s.Series < 1:
		return fmt.Errorf("-series %d: at least one", s.Series)
	case s.Scrapes < 2:
		return fmt.Errorf("-scrapes %d: at least two, as the first is measured on its own", s.Scrapes)
	case s.Batch < 1:
		return fmt.Errorf("-batch %d: at least one series", s.Batch)
	case s.Step < time.Millisecond:
		return fmt.Errorf("-step %s: at least a millisecond", s.Step)
	case s.Names < 0:
		return fmt.Errorf("-names %d: a number of metrics, or 0 for a hundred", s.Names)
	case s.ReplaceEvery < 0:
		return fmt.Errorf("-replace-all %d: a number of scrapes, or 0 for never", s.ReplaceEvery)
	case !(s.Churn >= 0):
		return fmt.Errorf("-churn %v: a share of the series, 0 or more", s.Churn)
	case !isShare(s.OutOfOrder):
		return fmt.Errorf("-out-of-order %v: a share from 0 to 1", s.OutOfOrder)
	case !isShare(s.Histograms):
		return fmt.Errorf("-histograms %v: a share from 0 to 1", s.Histograms)
	}
	return nil
}

func isShare(v float64) bool { return v >= 0 && v <= 1 }

// EndingAt returns the shape with a start so that the last scrape is at t.
func (s Shape) EndingAt(t time.Time) Shape {
	s.Start = t.Add(-time.Duration(s.Scrapes-1) * s.Step).UnixMilli()
	return s
}

// Time is when a scrape was made, in ms.
func (s Shape) Time(scrape int) int64 { return s.Start + int64(scrape)*s.Step.Milliseconds() }

// ID is the series that is at a position in a scrape.
func (s Shape) ID(position, scrape int) int {
	generation := s.churned(position, scrape)
	if s.ReplaceEvery > 0 {
		generation += scrape / s.ReplaceEvery
	}
	return position + generation*s.Series
}

// churned is how often churn has replaced the series at a position. It goes through the
// positions in turn, as the restart of a target replaces series that are neighbours.
func (s Shape) churned(position, scrape int) int {
	replaced := int(s.Churn * float64(s.Series) * float64(scrape) * s.Step.Hours())
	if replaced <= position {
		return 0
	}
	return (replaced-position-1)/s.Series + 1
}

// Position is where a series is.
func (s Shape) Position(id int) int { return id % s.Series }

// Created is how many series there are in all after the last scrape.
func (s Shape) Created() int {
	sum := 0
	for p := range s.Series {
		sum += s.ID(p, s.Scrapes-1)/s.Series + 1
	}
	return sum
}

// Batches is how many requests a scrape has.
func (s Shape) Batches() int { return (s.Series + s.Batch - 1) / s.Batch }

// Samples are what the request of a batch holds that is sent in a scrape, in order of series:
// those of the scrape that are not late, and those of an earlier one that were. They are
// appended to dst.
func (s Shape) Samples(dst []Sample, batch, scrape int) []Sample {
	for p := batch * s.Batch; p < min((batch+1)*s.Batch, s.Series); p++ {
		if early := scrape - Late; early >= 0 && s.late(p, early) {
			dst = append(dst, Sample{ID: s.ID(p, early), Scrape: early, T: s.Time(early)})
		}
		if !s.late(p, scrape) {
			dst = append(dst, Sample{ID: s.ID(p, scrape), Scrape: scrape, T: s.Time(scrape)})
		}
	}
	return dst
}

// SentIn is the scrape in which the sample of a position and a scrape is sent.
func (s Shape) SentIn(position, scrape int) int {
	if s.late(position, scrape) {
		return scrape + Late
	}
	return scrape
}

// late tells whether a sample comes late: neither the first of a series, since series are
// created by scrape 0, nor one that the load would end before, nor one whose series is
// replaced by then.
func (s Shape) late(position, scrape int) bool {
	if s.OutOfOrder == 0 || scrape == 0 || scrape+Late >= s.Scrapes {
		return false
	}
	id := s.ID(position, scrape)
	if id != s.ID(position, scrape+Late) {
		return false
	}
	return unit(mix(id, scrape, saltLate)) < s.OutOfOrder
}
