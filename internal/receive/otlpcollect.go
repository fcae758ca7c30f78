package receive

import (
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// collector is the appender that Prometheus's OTLP converter appends to. An error would
// make the converter give up what follows, so a bad point is recorded and answered with
// success; only a request that outgrew its memory is ended.
type collector struct {
	limits   *Limits
	budget   budget
	out      *Decoded
	families families
	labels   labelSet
	// index finds the series of a label set by its hash.
	index map[uint64]int
	// err ended the request; cancel tells the converter.
	err    error
	cancel context.CancelFunc
}

func newCollector(l *Limits, s *sieve, cancel context.CancelFunc, reserve Reserve) *collector {
	out := s.found()
	c := &collector{
		limits: l,
		budget: budget{limit: l.MaxBatchBytes, reserve: reserve},
		out:    out,
		index:  make(map[uint64]int),
		cancel: cancel,
	}
	c.families = families{limits: l, out: out, budget: &c.budget}
	return c
}

// Append implements storage.AppenderV2.
func (c *collector) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) (storage.SeriesRef, error) {
	if c.err == nil {
		c.err = c.append(ls, series.Sample{ST: st, T: t, V: v, H: h, FH: fh}, opts)
	}
	if c.err != nil {
		c.cancel()
	}
	return 0, c.err
}

// Commit implements storage.AppenderV2. The converter does not call it.
func (c *collector) Commit() error { return nil }

// Rollback implements storage.AppenderV2. The converter does not call it.
func (c *collector) Rollback() error { return nil }

func (c *collector) append(ls labels.Labels, sample series.Sample, opts storage.AOptions) error {
	// An invalid point is charged too: resource attributes are part of every point's
	// labels, so that a small body can make the converter build large ones.
	if err := c.budget.take(int64(ls.ByteSize()) + sampleBytes + histogramBytes(&sample)); err != nil {
		return err
	}
	lost := series.Written{Samples: 1, Exemplars: len(opts.Exemplars)}
	if sample.IsHistogram() {
		lost.Samples, lost.Histograms = 0, 1
	}
	c.labels.fromLabels(ls, c.limits.MaxLabels)
	flaw := c.labels.seriesFlaw(c.limits)
	if err := normalizeHistogram(&sample); flaw == "" && err != nil {
		flaw = err.Error()
	}
	if flaw != "" {
		c.reject(lost, flaw, opts.MetricFamilyName == targetInfo && opts.Metadata.Help == targetInfoHelp)
		return nil
	}
	s, err := c.series(ls)
	if err != nil {
		return err
	}
	s.Samples = append(s.Samples, sample)
	for _, e := range opts.Exemplars {
		if err := c.exemplar(s, e); err != nil {
			return err
		}
	}
	m := &opts.Metadata
	return c.families.addOnce(bytesOf(opts.MetricFamilyName), m.Type, bytesOf(m.Help), bytesOf(m.Unit))
}

// reject records an invalid point. target_info, which nobody sent as such, describes
// others and is no reason to call the request invalid.
func (c *collector) reject(lost series.Written, flaw string, derived bool) {
	item := SeriesItem
	if derived {
		item, lost = MetadataItem, series.Written{}
	}
	c.out.reject(c.limits.MaxInvalid, item, lost, func() string {
		return "series " + c.labels.String() + ": " + flaw
	})
}

// series returns the entry for a label set. The converter goes by metric and point, so
// one series' points do not come in a row.
func (c *collector) series(ls labels.Labels) (*series.Series, error) {
	hash := ls.Hash()
	if i, ok := c.index[hash]; ok && labels.Equal(c.out.Batch.Series[i].Labels, ls) {
		return &c.out.Batch.Series[i], nil
	}
	if err := c.budget.take(seriesBytes); err != nil {
		return nil, err
	}
	c.index[hash] = len(c.out.Batch.Series)
	c.out.Batch.Series = append(c.out.Batch.Series, series.Series{Labels: ls})
	return &c.out.Batch.Series[len(c.out.Batch.Series)-1], nil
}

func (c *collector) exemplar(s *series.Series, e exemplar.Exemplar) error {
	c.labels.fromLabels(e.Labels, c.limits.MaxLabels)
	if flaw := c.labels.exemplarFlaw(c.limits); flaw != "" {
		c.out.reject(c.limits.MaxInvalid, ExemplarItem, series.Written{Exemplars: 1}, func() string {
			c.labels.fromLabels(s.Labels, c.limits.MaxLabels)
			return "exemplar of series " + c.labels.String() + ": " + flaw
		})
		return nil
	}
	if err := c.budget.take(exemplarBytes + int64(c.labels.size())); err != nil {
		return err
	}
	// Built anew, because an empty value makes labels other than the canonical ones.
	e.Labels = c.labels.build()
	s.Exemplars = append(s.Exemplars, e)
	return nil
}

// histogramBytes is what a sample's histogram takes.
func histogramBytes(s *series.Sample) int64 {
	if s.H == nil {
		return 0
	}
	n := 16 + len(s.H.PositiveSpans) + len(s.H.NegativeSpans) +
		len(s.H.PositiveBuckets) + len(s.H.NegativeBuckets) + len(s.H.CustomValues)
	return 8 * int64(n)
}

// found returns a fresh result that holds what the sieve took out.
func (s *sieve) found() *Decoded {
	return &Decoded{
		Invalid:          slices.Clone(s.out.Invalid),
		InvalidSeries:    s.out.InvalidSeries,
		InvalidExemplars: s.out.InvalidExemplars,
		InvalidMetadata:  s.out.InvalidMetadata,
		Lost:             s.out.Lost,
		Warnings:         s.out.Warnings,
	}
}
