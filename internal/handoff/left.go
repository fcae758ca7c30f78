package handoff

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/proof"
)

// bytesPerSample is about what a sample takes in a chunk, until one has been given.
const bytesPerSample = 1.5

var (
	leftSamplesDesc = prometheus.NewDesc("starling_handoff_left_samples",
		"About how many samples a peer may still lack, counted since this process started.", []string{"peer"}, nil)
	leftBytesDesc = prometheus.NewDesc("starling_handoff_left_bytes",
		"About how many bytes of chunks a peer may still lack, counted since this process started.", []string{"peer"}, nil)
)

// Left is about how much a peer may still lack.
type Left struct {
	Samples, Bytes float64
}

// Left estimates what the hand-off of a gap will have to move.
func (g *Giver) Left(gap proof.Gap) Left {
	samples := g.opts.Flow.Since(gap.Since) * g.opts.Fraction()
	perSample := bytesPerSample
	if n := g.given.samples.Load(); n > 0 {
		perSample = float64(g.given.bytes.Load()) / float64(n)
	}
	return Left{Samples: samples, Bytes: samples * perSample}
}

// given counts what was given to all peers.
type given struct{ samples, bytes atomic.Int64 }

// leftCollector implements prometheus.Collector.
type leftCollector struct{ giver *Giver }

// Describe implements prometheus.Collector.
func (leftCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- leftSamplesDesc
	ch <- leftBytesDesc
}

// Collect implements prometheus.Collector.
func (c leftCollector) Collect(ch chan<- prometheus.Metric) {
	for _, gap := range c.giver.opts.Book.Open() {
		left := c.giver.Left(gap)
		ch <- prometheus.MustNewConstMetric(leftSamplesDesc, prometheus.GaugeValue, left.Samples, string(gap.Peer))
		ch <- prometheus.MustNewConstMetric(leftBytesDesc, prometheus.GaugeValue, left.Bytes, string(gap.Peer))
	}
}
