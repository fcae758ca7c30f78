package query

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/series"
)

// sample makes a series.Sample a chunks.Sample.
type sample struct{ s series.Sample }

func (s sample) T() int64                      { return s.s.T }
func (s sample) ST() int64                     { return s.s.ST }
func (s sample) F() float64                    { return s.s.V }
func (s sample) H() *histogram.Histogram       { return s.s.H }
func (s sample) FH() *histogram.FloatHistogram { return s.s.FH }
func (s sample) Copy() chunks.Sample           { return s }

func (s sample) Type() chunkenc.ValueType {
	switch {
	case s.s.FH != nil:
		return chunkenc.ValFloatHistogram
	case s.s.H != nil:
		return chunkenc.ValHistogram
	default:
		return chunkenc.ValFloat
	}
}

// encode cuts samples into chunks of at most the given length.
func encode(tb testing.TB, samples []series.Sample, length func() int) []chunk {
	tb.Helper()
	var out []chunk
	for len(samples) > 0 {
		n := min(length(), len(samples))
		list := make([]chunks.Sample, n)
		for i, s := range samples[:n] {
			list[i] = sample{s}
		}
		samples = samples[n:]
		it := storage.NewSeriesToChunkEncoder(storage.NewListSeries(labels.EmptyLabels(), list)).Iterator(nil)
		for it.Next() {
			m := it.At()
			out = append(out, chunk{m.MinTime, m.MaxTime, m.Chunk.Encoding(), slices.Clone(m.Chunk.Bytes())})
		}
		if err := it.Err(); err != nil {
			tb.Fatal(err)
		}
	}
	return out
}

// someValue makes a value that does not depend on which node is asked.
func someValue(r *rand.Rand, kind int, t int64, i int64) series.Sample {
	s := series.Sample{T: t}
	if r.IntN(4) == 0 {
		s.ST = t - 100
	}
	switch kind {
	case 0:
		s.V = float64(i % 50)
	case 1:
		s.H = tsdbutil.GenerateTestHistogram(i % 40) // resets every 40
	case 2:
		s.FH = tsdbutil.GenerateTestFloatHistogram(i % 40)
	case 3:
		s.H = tsdbutil.GenerateTestCustomBucketsHistogram(i % 40)
	case 4:
		s.FH = tsdbutil.GenerateTestGaugeFloatHistogram(i % 40)
	case 5:
		s.V = math.Float64frombits(value.StaleNaN)
	case 6:
		s.V = math.NaN()
	}
	return s
}

// scatter makes the copies of a series on several nodes, and what reading them all has
// to give. Every sample is on one node at least; some differ from node to node.
func scatter(r *rand.Rand, nodes, n int) (copies [][]series.Sample, want []series.Sample) {
	copies = make([][]series.Sample, nodes)
	kind, missing := r.IntN(5), r.Float64()*0.5
	t := int64(r.IntN(1000))
	for i := range int64(n) {
		t += 1 + int64(r.IntN(30))
		if r.IntN(60) == 0 {
			kind = r.IntN(7)
		}
		common := someValue(r, kind, t, i)
		owner := r.IntN(nodes)
		var greatest *series.Sample
		for node := range nodes {
			if node != owner && r.Float64() < missing {
				continue
			}
			s := common
			if r.IntN(40) == 0 {
				s = someValue(r, r.IntN(7), t, i+int64(r.IntN(3)))
			}
			copies[node] = append(copies[node], s)
			if greatest == nil || merge.Compare(&s, greatest) > 0 {
				greatest = &s
			}
		}
		want = append(want, *greatest)
	}
	return copies, want
}

func TestMergeCopies(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		copies, want := scatter(r, 1+r.IntN(4), 1+r.IntN(300))
		lists := make([][]chunk, len(copies))
		for i := range copies {
			lists[i] = encode(t, copies[i], func() int { return 1 + r.IntN(100) })
		}
		if r.IntN(3) == 0 { // a node whose own chunks overlap, as one of all samples does
			all := slices.SortedFunc(slices.Values(slices.Concat(lists...)), compareChunks)
			lists = append(lists, slices.CompactFunc(all, chunk.equal))
		}
		if r.IntN(3) == 0 {
			lists = append(lists, lists[0])
		}
		what := fmt.Sprintf("seed %d", seed)

		lanes := lanesOf(slices.Clone(lists))
		s := &mergedSeries{lanes: lanes, mint: minTime, maxt: maxTime}
		got := drain(t, s.Iterator(nil))
		equalSamples(t, what, got, want)
		checkHints(t, what, got)

		// The order of the nodes makes no difference, down to the hints.
		r.Shuffle(len(lists), func(i, j int) { lists[i], lists[j] = lists[j], lists[i] })
		shuffled := &mergedSeries{lanes: lanesOf(slices.Clone(lists)), mint: minTime, maxt: maxTime}
		again := drain(t, shuffled.Iterator(nil))
		for i := range again {
			if show(again[i]) != show(got[i]) {
				t.Fatalf("%s: sample %d depends on the order of nodes: %s and %s", what, i, show(got[i]), show(again[i]))
			}
		}

		// Clipped, re-using an iterator that stands somewhere.
		it := s.Iterator(nil)
		it.Next()
		clipped := *s
		clipped.mint, clipped.maxt = want[0].T+int64(r.IntN(2000)), want[len(want)-1].T-int64(r.IntN(2000))
		inRange := slices.DeleteFunc(slices.Clone(want), func(s series.Sample) bool { return s.T < clipped.mint || s.T > clipped.maxt })
		equalSamples(t, what+" clipped", drain(t, clipped.Iterator(it)), inRange)

		checkSeek(t, what, r, &clipped, inRange)
		checkEncoded(t, what, s, want)
	}
}

// checkHints fails the test if a hint says what is not so of two samples in a row.
func checkHints(tb testing.TB, what string, samples []series.Sample) {
	tb.Helper()
	for i := 1; i < len(samples); i++ {
		prev, cur := floatHistogram(samples[i-1]), floatHistogram(samples[i])
		if prev == nil || cur == nil || value.IsStaleNaN(prev.Sum) || value.IsStaleNaN(cur.Sum) {
			continue
		}
		hint := cur.CounterResetHint
		cur.CounterResetHint = histogram.UnknownCounterReset
		reset := cur.DetectReset(prev)
		if hint == histogram.NotCounterReset && reset || hint == histogram.CounterReset && !reset {
			tb.Fatalf("%s: sample %d: the hint is %d, but reset is %v", what, i, hint, reset)
		}
	}
}

func floatHistogram(s series.Sample) *histogram.FloatHistogram {
	if s.H != nil {
		return s.H.ToFloat(nil)
	}
	return s.FH
}

// checkSeek mixes Seek and Next and compares with a list.
func checkSeek(tb testing.TB, what string, r *rand.Rand, s *mergedSeries, want []series.Sample) {
	tb.Helper()
	it, at := s.Iterator(nil), -1
	for at < len(want) {
		var typ chunkenc.ValueType
		if r.IntN(3) == 0 {
			typ = it.Next()
			at++
		} else {
			target := int64(r.IntN(9000))
			if len(want) > 0 && at >= 0 {
				target = want[at].T + int64(r.IntN(600)) - 100
			}
			typ = it.Seek(target)
			for at < 0 || at < len(want) && want[at].T < target {
				at++
			}
		}
		if at >= len(want) {
			if typ != chunkenc.ValNone {
				tb.Fatalf("%s: got a sample at %d after the end", what, it.AtT())
			}
			break
		}
		if typ == chunkenc.ValNone {
			tb.Fatalf("%s: end before sample %d of %d: %v", what, at, len(want), it.Err())
		}
		got := current(it, typ)
		equalSamples(tb, what+" seek", []series.Sample{got}, want[at:at+1])
		if at > 0 {
			checkHints(tb, what+" seek", []series.Sample{want[at-1], got})
		}
	}
	for range 2 {
		if it.Next() != chunkenc.ValNone || it.Seek(maxTime) != chunkenc.ValNone || it.Err() != nil {
			tb.Fatalf("%s: the end does not last: %v", what, it.Err())
		}
	}
}

// checkEncoded reads the series as chunks.
func checkEncoded(tb testing.TB, what string, s *mergedSeries, want []series.Sample) {
	tb.Helper()
	var got []series.Sample
	it := (&mergedChunkSeries{*s}).Iterator(nil)
	for it.Next() {
		m := it.At()
		samples := drain(tb, m.Chunk.Iterator(nil))
		if samples[0].T != m.MinTime || samples[len(samples)-1].T != m.MaxTime {
			tb.Fatalf("%s: chunk [%d, %d] reaches from %d to %d", what, m.MinTime, m.MaxTime, samples[0].T, samples[len(samples)-1].T)
		}
		got = append(got, samples...)
	}
	if err := it.Err(); err != nil {
		tb.Fatal(err)
	}
	equalSamples(tb, what+" as chunks", got, want)
}

func TestLanes(t *testing.T) {
	c := func(mint, maxt int64, data string) chunk {
		return chunk{mint, maxt, chunkenc.EncXOR, []byte("\x00\x0a" + data)} // ten samples
	}
	a, b, d := c(0, 9, "a"), c(10, 19, "b"), c(20, 29, "d")
	x, y := c(10, 18, "x"), c(5, 12, "y")
	for _, tc := range []struct {
		name   string
		copies [][]chunk
		want   [][]chunk
	}{
		{"one copy", [][]chunk{{a, b}}, [][]chunk{{a, b}}},
		{"no chunks", [][]chunk{nil, nil}, [][]chunk{}},
		{"equal copies", [][]chunk{{a, b}, {a, b}, {a, b}}, [][]chunk{{a, b}}},
		{"a copy lacks the end", [][]chunk{{a, b}, {a, b, d}}, [][]chunk{{a, b, d}}},
		{"copies lack different chunks", [][]chunk{{a, b}, {b, d}}, [][]chunk{{a, b}, {d}}},
		{"the last chunk differs", [][]chunk{{a, b}, {a, x}}, [][]chunk{{a, x}, {b}}},
		{"overlap within a copy", [][]chunk{{a, y, b, d}}, [][]chunk{{a, b, d}, {y}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := lanesOf(tc.copies)
			equal := slices.EqualFunc(got, tc.want, func(a, b []chunk) bool { return slices.EqualFunc(a, b, chunk.equal) })
			if !equal {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// The hints of one copy are kept while the iterator stays on it.
func TestHintsOfEqualCopies(t *testing.T) {
	var samples []series.Sample
	for i := range int64(50) {
		samples = append(samples, series.Sample{T: i, H: tsdbutil.GenerateTestHistogram(i)})
	}
	long, short := encode(t, samples, func() int { return 50 }), encode(t, samples[:20], func() int { return 20 })
	for name, lists := range map[string][][]chunk{"equal": {long, long}, "one is short": {short, long}} {
		s := &mergedSeries{lanes: lanesOf(lists), mint: minTime, maxt: maxTime}
		for i, got := range drain(t, s.Iterator(nil))[1:] {
			if got.H.CounterResetHint != histogram.NotCounterReset {
				t.Errorf("%s: sample %d lost its hint", name, i+1)
			}
		}
	}
}

// Chunks whose samples are not in the range they claim are an error, not a wrong answer.
func TestMergeOfMisplacedChunks(t *testing.T) {
	samples := func(from int64) (out []series.Sample) {
		for i := range int64(10) {
			out = append(out, series.Sample{T: from + i, V: 1})
		}
		return out
	}
	whole := func() int { return 100 }
	a, b := encode(t, samples(0), whole)[0], encode(t, samples(5), whole)[0]
	b.mint = 10 // hides that it overlaps a
	other := encode(t, samples(100), whole)
	s := &mergedSeries{lanes: lanesOf([][]chunk{{a, b}, other}), mint: minTime, maxt: maxTime}
	it := s.Iterator(nil)
	for it.Next() != chunkenc.ValNone {
	}
	if it.Err() == nil {
		t.Error("got no error")
	}
}
