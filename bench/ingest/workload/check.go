package workload

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
)

// Findings is what holding answers against what was sent has brought.
type Findings struct {
	// Compared is how many samples were sent, acknowledged, and asked for.
	Compared int
	// Missing of these were not in the answer.
	Missing int
	// Different had another value than was sent, or a series or a time that never was.
	Different int
	// Examples are the first few, as text.
	Examples []string
}

// Wrong is how many samples are not as they have to be.
func (f *Findings) Wrong() int { return f.Missing + f.Different }

// Add adds what another comparison has brought.
func (f *Findings) Add(o Findings) {
	f.Compared += o.Compared
	f.Missing += o.Missing
	f.Different += o.Different
	for _, e := range o.Examples {
		f.example("%s", e)
	}
}

func (f *Findings) example(format string, args ...any) {
	const most = 5
	if len(f.Examples) < most {
		f.Examples = append(f.Examples, fmt.Sprintf(format, args...))
	}
}

func (f *Findings) different(format string, args ...any) {
	f.Different++
	f.example(format, args...)
}

// Verify compares the answer to a question for all samples of the n-th metric, bit for bit.
// Of what was not acknowledged, named by batch and the scrape it was sent in, any part may
// be there.
func (s Shape) Verify(metric int, answer []*prompb.TimeSeries, acknowledged func(batch, scrape int) bool) *Findings {
	f := &Findings{}
	seen := map[Sample]bool{}
	for _, ts := range answer {
		id, err := s.identify(metric, ts.Labels)
		if err != nil {
			f.different("%v", err)
			continue
		}
		for _, p := range ts.Samples {
			s.verifySample(f, seen, id, p.Timestamp, func(scrape int) bool {
				return !s.Native(id) && math.Float64bits(p.Value) == math.Float64bits(Value(id, scrape))
			})
		}
		for _, p := range ts.Histograms {
			s.verifySample(f, seen, id, p.Timestamp, func(scrape int) bool {
				return s.Native(id) && !p.IsFloatHistogram() && p.ToIntHistogram().Equals(Histogram(id, scrape))
			})
		}
	}
	for p := metric; p < s.Series; p += s.Metrics() {
		for scrape := range s.Scrapes {
			if !acknowledged(p/s.Batch, s.SentIn(p, scrape)) {
				continue
			}
			f.Compared++
			key := Sample{ID: s.ID(p, scrape), Scrape: scrape}
			if !seen[key] {
				f.Missing++
				f.example("missing: series %d, scrape %d", key.ID, scrape)
			}
		}
	}
	return f
}

// verifySample notes a sample of an answer as seen if it is one that is sent.
func (s Shape) verifySample(f *Findings, seen map[Sample]bool, id int, t int64, equal func(scrape int) bool) {
	since := t - s.Start
	scrape := int(since / s.Step.Milliseconds())
	key := Sample{ID: id, Scrape: scrape}
	switch {
	case since < 0 || scrape >= s.Scrapes || s.Time(scrape) != t || s.ID(s.Position(id), scrape) != id:
		f.different("never sent: series %d at %d", id, t)
	case seen[key]:
		f.different("twice: series %d, scrape %d", id, scrape)
	case !equal(scrape):
		seen[key] = true // it is wrong, and not missing too
		f.different("another value: series %d, scrape %d", id, scrape)
	default:
		seen[key] = true
	}
}

// identify tells which series of a metric has these labels.
func (s Shape) identify(metric int, got []prompb.Label) (int, error) {
	b := labels.NewScratchBuilder(len(got))
	for _, l := range got {
		b.Add(l.Name, l.Value)
	}
	b.Sort()
	ls := b.Labels()
	digits, ok := strings.CutPrefix(ls.Get("pod"), PodPrefix)
	id, err := strconv.Atoi(digits)
	if !ok || err != nil || id < 0 || s.Position(id)%s.Metrics() != metric || !labels.Equal(ls, s.Labels(id)) {
		return 0, fmt.Errorf("never sent: a series %s", ls)
	}
	return id, nil
}
