package workload

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// Metrics is how many names the series have.
func (s Shape) Metrics() int { return min(cmp.Or(s.Names, 100), s.Series) }

// Metric is the n-th name. Its series are at the positions n, n+Metrics(), and so on.
func Metric(n int) string { return fmt.Sprintf("http_request_duration_seconds_%03d", n) }

// Cluster is the value of a label that all series of a shape have, and those of one that starts
// at another time have not: servers may still hold what an earlier run has sent.
func (s Shape) Cluster() string { return "production-" + strconv.FormatInt(s.Start, 36) }

// Labels has ten labels and about 250 bytes.
func (s Shape) Labels(id int) labels.Labels {
	p := s.Position(id)
	return labels.FromStrings(
		labels.MetricName, Metric(p%s.Metrics()),
		ClusterLabel, s.Cluster(), "namespace", "payments", "job", fmt.Sprintf("service-%03d", p/s.Metrics()%50),
		"instance", fmt.Sprintf("10.4.%d.%d:9100", p/250%250, p%250), "pod", PodPrefix+fmt.Sprintf("%07d", id),
		"method", "GET", "handler", "/api/v1/orders", "code", "200", "replica", strconv.Itoa(p%3),
	)
}

// ClusterLabel is the name of the label that has Cluster as its value.
const ClusterLabel = "cluster"

// PodPrefix comes before the ID of a series.
const PodPrefix = "service-7f9c6d5b8-"

// Salts keep what is told from the same numbers apart.
const (
	saltLate = iota
	saltBase
	saltStep
	saltJitter
	saltBucket
)

// mix is a hash of a series and a scrape (splitmix64).
func mix(id, scrape, salt int) uint64 {
	x := uint64(id)<<24 ^ uint64(scrape)<<4 ^ uint64(salt)
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit is a number from 0 up to 1.
func unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// Native tells whether a series is a native histogram.
func (s Shape) Native(id int) bool {
	return s.Histograms > 0 && unit(mix(s.Position(id), 0, saltBucket)) < s.Histograms
}

// Value is that of a float series: half are counters with small increments, half are gauges
// of two decimals. It is never 0, which a protobuf message would leave out.
func Value(id, scrape int) float64 {
	base := mix(id, 0, saltBase)
	if id/2%2 == 0 {
		step := 1 + mix(id, 0, saltStep)%8
		return float64(1 + base%100_000 + uint64(scrape)*step + mix(id, scrape, saltJitter)%step)
	}
	return float64(1+base%5000+mix(id, scrape, saltJitter)%500) / 100
}

const nativeBuckets = 8

// Histogram is the sample of a native histogram: eight buckets, each of which grows by a few
// in each scrape.
func Histogram(id, scrape int) *histogram.Histogram {
	h := &histogram.Histogram{
		Schema: 3, ZeroThreshold: 1e-128, ZeroCount: uint64(scrape),
		PositiveSpans:   []histogram.Span{{Offset: 4, Length: 5}, {Offset: 2, Length: nativeBuckets - 5}},
		PositiveBuckets: make([]int64, nativeBuckets),
	}
	h.Count = h.ZeroCount
	last := int64(0)
	for i := range h.PositiveBuckets {
		step := mix(id, i, saltBucket) % 8
		n := int64(1 + step*uint64(scrape))
		h.PositiveBuckets[i], last = n-last, n
		h.Count += uint64(n)
	}
	h.Sum = float64(h.Count) / 4
	return h
}
