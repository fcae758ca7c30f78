package node

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/starling-tsdb/starling/internal/series"
)

// dataset is random series of one or two hours, whose labels have so few values that grouping
// and matching come to something.
type dataset struct {
	rng        *rand.Rand
	start, end int64 // in milliseconds
	series     []*randomSeries
}

type randomSeries struct {
	labels labels.Labels
	// samples are in the order of time; those at the times in late are written last.
	samples []series.Sample
	late    map[int64]bool
}

// A generator makes the next sample of a series, without its time.
type generator func() series.Sample

// newDataset makes samples that end at a time.
func newDataset(rng *rand.Rand, end time.Time) *dataset {
	d := &dataset{rng: rng, end: end.UnixMilli()}
	d.start = d.end - time.Hour.Milliseconds() - rng.Int64N(time.Hour.Milliseconds())
	for _, job := range []string{"api", "db", "web"} {
		for _, instance := range []string{"i1", "i2", "i3"} {
			d.addInstance(job, instance)
		}
		for _, x := range []string{"1", "2"} {
			// The same labels but for the name.
			d.add(d.gauge(10), "dup_a", "job", job, "x", x)
			d.add(d.gauge(10), "dup_b", "job", job, "x", x)
		}
		d.add(d.custom([]float64{0.1, 1, 5}), "custom_seconds", "job", job, "instance", "i1")
		d.add(d.custom([][]float64{{0.1, 1, 5}, {0.5, 1, 7, 9}}[rng.IntN(2)]), "custom_seconds", "job", job, "instance", "i2")
		d.add(d.odd(math.NaN(), 1, 2), "odd", "job", job, "kind", "nan")
		d.add(d.odd(math.Inf(1), 1, 2, 3), "odd", "job", job, "kind", "inf")
		d.add(d.odd(math.Inf(-1), math.Inf(1), 0, 5), "odd", "job", job, "kind", "mixed")
		d.add(d.odd(1e17, -1e17, 3e15, 1), "odd", "job", job, "kind", "huge")
		d.add(d.odd(1e-300, -4e-12, 5e-324, 0, math.Copysign(0, -1)), "odd", "job", job, "kind", "tiny")
	}
	d.add(d.odd(1.7e308, 1.1e308, 3), "extreme", "job", "api")
	d.add(d.odd(1.7e308, -1.2e308, 3), "extreme", "job", "web")
	d.add(d.counter(3), "typed_total", "__type__", "counter", "__unit__", "seconds", "job", "api")
	d.add(d.counter(3), "typed_total", "__type__", "gauge", "job", "api")
	d.add(d.counter(3), "typed_total", "job", "web", "path", "/")
	return d
}

// addInstance adds what each target has.
func (d *dataset) addInstance(job, instance string) {
	target := []string{"job", job, "instance", instance}
	for _, path := range []string{"/", "/a"} {
		d.add(d.counter(20), "requests_total", append(target, "path", path)...)
	}
	d.add(d.counter(0.3), "errors_total", target...)
	d.add(d.gauge(20), "temperature", target...)
	d.add(d.gauge(3e9), "memory_bytes", append(target, "pod", []string{"p1", "p2"}[d.rng.IntN(2)])...)
	d.add(d.odd(1), "up", target...)
	if job != "db" {
		d.addClassic(target)
	}
	if job == "api" {
		d.add(d.mixed(), "mixed", target...)
	} else {
		d.add(d.native(false), "native_seconds", target...)
		d.add(d.native(true), "native_float", target...)
	}
}

// addClassic adds a histogram of one series for each bucket, scraped at the same times.
func (d *dataset) addClassic(target []string) {
	bounds := []float64{0.1, 0.5, 2, math.Inf(1)}
	seen := make([]float64, len(bounds)+1) // the last is the sum
	var buckets []*randomSeries
	times := d.times()
	for _, at := range times {
		if d.rng.IntN(200) == 0 {
			clear(seen)
		}
		for range d.rng.IntN(12) {
			v := d.rng.ExpFloat64() * 0.6
			seen[len(bounds)] += v
			for i, le := range bounds {
				if v <= le {
					seen[i]++
				}
			}
		}
		for i, v := range append(slices.Clone(seen), seen[len(bounds)-1]) {
			if len(buckets) <= i {
				name := "latency_seconds_bucket"
				extra := []string{}
				switch {
				case i < len(bounds):
					extra = []string{"le", strconv.FormatFloat(bounds[i], 'g', -1, 64)}
				case i == len(bounds):
					name = "latency_seconds_sum"
				default:
					name = "latency_seconds_count"
				}
				buckets = append(buckets, &randomSeries{labels: namedLabels(name, append(extra, target...)...)})
			}
			buckets[i].samples = append(buckets[i].samples, series.Sample{T: at, V: v})
		}
	}
	d.series = append(d.series, buckets...)
}

func namedLabels(name string, pairs ...string) labels.Labels {
	return labels.FromStrings(append([]string{labels.MetricName, name}, pairs...)...)
}

// add adds a series, as a rule.
func (d *dataset) add(next generator, name string, pairs ...string) {
	if d.rng.IntN(10) == 0 {
		return
	}
	s := &randomSeries{labels: namedLabels(name, pairs...), late: map[int64]bool{}}
	times := d.times()
	gaps := d.gaps()
	lateFrom, lateTo := int64(0), int64(0)
	if d.rng.IntN(5) == 0 {
		lateFrom = d.start + d.rng.Int64N(d.end-d.start)
		lateTo = lateFrom + d.minutes(8)
	}
	// Not of floats alone: a series may well end with a histogram.
	stale := false
	for _, at := range times {
		sample := next()
		if slices.ContainsFunc(gaps, func(g [2]int64) bool { return g[0] <= at && at < g[1] }) {
			if stale || d.rng.IntN(3) == 0 {
				continue
			}
			stale = true
			makeStale(&sample)
		} else {
			stale = false
		}
		sample.T = at
		s.late[at] = lateFrom <= at && at < lateTo
		s.samples = append(s.samples, sample)
	}
	if len(s.samples) > 0 {
		d.series = append(d.series, s)
	}
}

func makeStale(s *series.Sample) {
	switch nan := math.Float64frombits(value.StaleNaN); {
	case s.H != nil:
		s.H = &histogram.Histogram{Sum: nan}
	case s.FH != nil:
		s.FH = &histogram.FloatHistogram{Sum: nan}
	default:
		s.V = nan
	}
}

func (d *dataset) minutes(n int64) int64 { return d.rng.Int64N(n * time.Minute.Milliseconds()) }

// times are those of a scrape: regular or not, and for some targets only a part of the time.
func (d *dataset) times() []int64 {
	step := []int64{10_000, 15_000, 15_000, 30_000}[d.rng.IntN(4)]
	jitter := []int64{1, 1, 40, step / 2}[d.rng.IntN(4)]
	from, to := d.start+d.rng.Int64N(step), d.end
	if d.rng.IntN(2) == 0 {
		from += step - from%step // when queries are asked for, too
	}
	switch d.rng.IntN(8) {
	case 0:
		from += d.minutes(50)
	case 1:
		to -= d.minutes(50)
	}
	var times []int64
	for at := from; at < to; at += step {
		times = append(times, at+d.rng.Int64N(jitter))
	}
	return times
}

func (d *dataset) gaps() (gaps [][2]int64) {
	if d.rng.IntN(3) > 0 {
		return nil
	}
	for range 1 + d.rng.IntN(3) {
		from := d.start + d.rng.Int64N(d.end-d.start)
		gaps = append(gaps, [2]int64{from, from + d.minutes(10)})
	}
	return gaps
}

func (d *dataset) counter(rate float64) generator {
	v, whole := 0.0, d.rng.IntN(2) == 0
	return func() series.Sample {
		switch d.rng.IntN(150) {
		case 0:
			v = 0
		case 1:
			v += 1000 * rate
		}
		add := d.rng.ExpFloat64() * rate
		if whole {
			add = math.Round(add)
		}
		v += add
		return series.Sample{V: v}
	}
}

func (d *dataset) gauge(scale float64) generator {
	v := d.rng.NormFloat64() * scale
	return func() series.Sample {
		if d.rng.IntN(4) > 0 {
			v += d.rng.NormFloat64() * scale / 20
		}
		return series.Sample{V: v}
	}
}

// odd goes from one of a few values to another.
func (d *dataset) odd(values ...float64) generator {
	return func() series.Sample { return series.Sample{V: values[d.rng.IntN(len(values))]} }
}

// buckets are what a native histogram has counted, by the index of the bucket.
type buckets map[int]int64

// layout returns buckets as histograms have them: spans, and counts as differences.
func (b buckets) layout() (spans []histogram.Span, deltas []int64) {
	last, count := 0, int64(0)
	for i, index := range slices.Sorted(maps.Keys(b)) {
		if i > 0 && index == last+1 {
			spans[len(spans)-1].Length++
		} else {
			offset := index
			if i > 0 {
				offset = index - last - 1
			}
			spans = append(spans, histogram.Span{Offset: int32(offset), Length: 1})
		}
		deltas = append(deltas, b[index]-count)
		last, count = index, b[index]
	}
	return spans, deltas
}

// native counts observations in exponential buckets; some are gauges.
func (d *dataset) native(float bool) generator {
	positive, negative := buckets{}, buckets{}
	zero, sum := uint64(0), 0.0
	schema := int32(d.rng.IntN(3))
	gauge := d.rng.IntN(8) == 0
	return func() series.Sample {
		if d.rng.IntN(120) == 0 || gauge {
			clear(positive)
			clear(negative)
			zero, sum = 0, 0
		}
		for range d.rng.IntN(8) {
			v := d.rng.NormFloat64() + 1
			index := int(math.Ceil(math.Log2(math.Abs(v)) * float64(int(1)<<schema)))
			sum += v
			switch {
			case math.Abs(v) < 0.01:
				zero++
			case v < 0:
				negative[index]++
			default:
				positive[index]++
			}
		}
		h := &histogram.Histogram{Schema: schema, ZeroThreshold: 0.01, ZeroCount: zero, Count: zero, Sum: sum}
		if gauge {
			h.CounterResetHint = histogram.GaugeType
		}
		h.PositiveSpans, h.PositiveBuckets = positive.layout()
		h.NegativeSpans, h.NegativeBuckets = negative.layout()
		for _, b := range []buckets{positive, negative} {
			for _, n := range b {
				h.Count += uint64(n)
			}
		}
		if float {
			return series.Sample{FH: h.ToFloat(nil).Mul(1.5)}
		}
		return series.Sample{H: h}
	}
}

// custom counts observations in buckets of given bounds.
func (d *dataset) custom(bounds []float64) generator {
	counts, sum := buckets{}, 0.0
	return func() series.Sample {
		if d.rng.IntN(100) == 0 {
			clear(counts)
			sum = 0
		}
		for range d.rng.IntN(5) {
			v := d.rng.ExpFloat64() * 2
			index, _ := slices.BinarySearch(bounds, v)
			counts[index]++
			sum += v
		}
		h := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Sum: sum, CustomValues: bounds}
		h.PositiveSpans, h.PositiveBuckets = counts.layout()
		for _, n := range counts {
			h.Count += uint64(n)
		}
		return series.Sample{H: h}
	}
}

// mixed is of floats for a while, and of histograms for a while.
func (d *dataset) mixed() generator {
	kinds := []generator{d.gauge(5), d.native(false), d.native(true)}
	now := d.rng.IntN(3)
	return func() series.Sample {
		if d.rng.IntN(40) == 0 {
			now = d.rng.IntN(3)
		}
		return kinds[now]()
	}
}

// batches are the samples in the order in which they are written: by time, and then those that
// are late.
func (d *dataset) batches() (all []*series.Batch) {
	const parts = 8
	length := (d.end - d.start) / parts
	for i := range int64(parts + 1) {
		b := &series.Batch{}
		for _, s := range d.series {
			part := series.Series{Labels: s.labels}
			for _, sample := range s.samples {
				of := min((sample.T-d.start)/length, parts-1)
				if s.late[sample.T] {
					of = parts
				}
				if of == i {
					part.Samples = append(part.Samples, sample)
				}
			}
			if len(part.Samples) > 0 {
				b.Series = append(b.Series, part)
			}
		}
		all = append(all, b)
	}
	return all
}

func (d *dataset) String() string {
	n := 0
	for _, s := range d.series {
		n += len(s.samples)
	}
	return fmt.Sprintf("%d series with %d samples from %d to %d", len(d.series), n, d.start, d.end)
}
