package ledger

import (
	"cmp"
	"fmt"
	"math"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
)

// Shape is what a series is made of.
type Shape string

// The shapes of series, which are also their metric names.
const (
	// Gauge has values that look random, in order.
	Gauge Shape = "faults_gauge"
	// Counter grows, in order.
	Counter Shape = "faults_counter_total"
	// Late is a gauge whose samples come out of order.
	Late Shape = "faults_late"
	// Native has native histograms, in order.
	Native Shape = "faults_native"
	// Probe is what tells whether a node takes writes.
	Probe Shape = "faults_probe"
)

// Series is one series of one sender.
type Series struct {
	Shape  Shape
	Sender int
	Number int
}

const (
	senderLabel = "sender"
	numberLabel = "number"
)

// Labels returns the labels under which the series is sent.
func (s Series) Labels() labels.Labels {
	return labels.FromStrings(
		labels.MetricName, string(s.Shape), numberLabel, strconv.Itoa(s.Number), senderLabel, strconv.Itoa(s.Sender),
	)
}

// SeriesOf finds the series that was sent under some labels; get returns one by its name.
func SeriesOf(get func(name string) string) (Series, error) {
	s := Series{Shape: Shape(get(labels.MetricName))}
	var err error
	if s.Sender, err = strconv.Atoi(get(senderLabel)); err != nil {
		return s, fmt.Errorf("label %s: %w", senderLabel, err)
	}
	if s.Number, err = strconv.Atoi(get(numberLabel)); err != nil {
		return s, fmt.Errorf("label %s: %w", numberLabel, err)
	}
	return s, nil
}

// String is a PromQL selector of the series.
func (s Series) String() string {
	return fmt.Sprintf(`%s{%s="%d",%s="%d"}`, s.Shape, senderLabel, s.Sender, numberLabel, s.Number)
}

func (s Series) compare(o Series) int {
	return cmp.Or(cmp.Compare(s.Shape, o.Shape), cmp.Compare(s.Sender, o.Sender), cmp.Compare(s.Number, o.Number))
}

// PointAt returns the point that the series has at a time, in milliseconds.
func (s Series) PointAt(t int64) Point {
	switch s.Shape {
	case Counter:
		return Point{T: t, V: float64(t%1_000_000_000*8192 + int64(s.Sender*1000+s.Number))}
	case Native:
		return Point{T: t, V: s.noise(t), Count: s.count(t)}
	default:
		return Point{T: t, V: s.noise(t)}
	}
}

// count is that of a native histogram. It grows.
func (s Series) count(t int64) uint64 { return uint64(t%1_000_000_000)*2 + uint64(s.Number) + 1 }

// noise is a positive number below 1<<33 that says which series and time it is of.
func (s Series) noise(t int64) float64 {
	x := uint64(t) ^ uint64(s.Sender)<<48 ^ uint64(s.Number)<<32
	for _, c := range s.Shape {
		x = mix(x ^ uint64(c))
	}
	return float64(mix(x)>>11) / (1 << 20)
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (p Point) same(q Point) bool {
	return p.T == q.T && p.Count == q.Count && math.Float64bits(p.V) == math.Float64bits(q.V)
}
