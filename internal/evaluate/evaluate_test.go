package evaluate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// entry returns a series with chunks.
func entry(ls labels.Labels, metas ...chunks.Meta) storage.ChunkSeries {
	return &storage.ChunkSeriesEntry{
		Lset:            ls,
		ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator { return storage.NewListChunkSeriesIterator(metas...) },
	}
}

// chunk returns a chunk of an encoding with samples that count from 0, one each interval.
func chunk(tb testing.TB, e chunkenc.Encoding, start int64, samples int, st int64) chunks.Meta {
	tb.Helper()
	c, err := chunkenc.NewEmptyChunk(e)
	if err != nil {
		tb.Fatal(err)
	}
	app, err := c.Appender()
	if err != nil {
		tb.Fatal(err)
	}
	m := chunks.Meta{Chunk: c, MinTime: start, MaxTime: start + int64(samples-1)*interval}
	for i := range samples {
		at := start + int64(i)*interval
		switch e {
		case chunkenc.EncHistogram, chunkenc.EncHistogramST:
			_, _, app, err = app.AppendHistogram(nil, st, at, tsdbutil.GenerateTestHistogram(int64(i)), false)
		case chunkenc.EncFloatHistogram:
			_, _, app, err = app.AppendFloatHistogram(nil, st, at, tsdbutil.GenerateTestFloatHistogram(int64(i)), false)
		default:
			app.Append(st, at, float64(i))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

// brokenChunk returns a chunk that lacks bytes.
func brokenChunk(tb testing.TB, start int64) chunks.Meta {
	tb.Helper()
	m := chunk(tb, chunkenc.EncXOR, start, 10, 0)
	cut := &chunkenc.XORChunk{}
	cut.Reset(m.Chunk.Bytes()[:12])
	m.Chunk = cut
	return m
}

func named(i int) labels.Labels {
	return labels.FromStrings(labels.MetricName, "m", "instance", fmt.Sprint(i), "job", fmt.Sprint(i%7))
}

// floats returns so many series of 100 floats each.
func floats(tb testing.TB, series int) []storage.ChunkSeries {
	tb.Helper()
	all := make([]storage.ChunkSeries, series)
	for i := range all {
		all[i] = entry(named(i), chunk(tb, chunkenc.EncXOR, first+int64(i), 60, 0), chunk(tb, chunkenc.EncXOR, first+int64(i)+60*interval, 40, 0))
	}
	return all
}

func TestSeriesRefusesWhatIsNotProven(t *testing.T) {
	xor := chunk(t, chunkenc.EncXOR, first, 10, 0)
	typed := labels.FromStrings(labels.MetricName, "m", "__type__", "counter")
	inUnits := labels.FromStrings(labels.MetricName, "m", "__unit__", "bytes")
	for _, c := range []struct {
		name, text, reason string
		series             storage.ChunkSeries
	}{
		{"histograms", "m", "", entry(named(0), chunk(t, chunkenc.EncHistogram, first, 10, 0))},
		{"histograms of integers and floats", "rate(m[5m])", "",
			entry(named(0), chunk(t, chunkenc.EncHistogram, first, 10, 0), chunk(t, chunkenc.EncFloatHistogram, first+10*interval, 10, 0))},
		{"histograms behind floats", "rate(m[5m])", "a mix of histograms and floats", entry(named(0), xor, chunk(t, chunkenc.EncFloatHistogram, first+10*interval, 10, 0))},
		{"floats behind histograms", "rate(m[5m])", "a mix of histograms and floats", entry(named(0), chunk(t, chunkenc.EncHistogram, first-10*interval, 10, 0), xor)},
		{"the last of floats and histograms", "sum(m)", "", entry(named(0), xor, chunk(t, chunkenc.EncHistogram, first+10*interval, 10, 0))},
		{"the greatest of histograms", "topk(3, m)", "no rank", entry(named(0), chunk(t, chunkenc.EncHistogram, first, 10, 0))},
		{"histograms that are warned of", "delta(m[5m])", "not a gauge", entry(named(0), chunk(t, chunkenc.EncHistogram, first, 10, 0))},
		{"histograms that are left out", "m > 1", "mapped to none", entry(named(0), chunk(t, chunkenc.EncHistogram, first, 10, 0))},
		{"the least of histograms", "min(m)", "leaves histograms out", entry(named(0), chunk(t, chunkenc.EncHistogram, first, 10, 0))},
		{"start timestamps of histograms", "rate(m[5m])", "start timestamps", entry(named(0), chunk(t, chunkenc.EncHistogramST, first, 10, first-1))},
		{"start timestamps of histograms that do not matter", "sum(m)", "", entry(named(0), chunk(t, chunkenc.EncHistogramST, first, 10, first-1))},
		{"histograms before all steps", "m", "", entry(named(0), chunk(t, chunkenc.EncHistogram, first-100*interval, 10, 0), xor)},
		{"chunks that overlap", "m", "overlap", entry(named(0), xor, chunk(t, chunkenc.EncXOR, first+9*interval, 10, 0))},
		{"chunks that follow", "m", "", entry(named(0), xor, chunk(t, chunkenc.EncXOR, first+10*interval, 10, 0))},
		{"a type that is dropped", "-m", "type or unit", entry(typed, xor)},
		{"a unit that is dropped", "sum(rate(m[5m]))", "type or unit", entry(inUnits, xor)},
		{"a type that stays", "sum by (__type__) (m > 5)", "", entry(typed, xor)},
		{"no start timestamps", "rate(m[5m])", "", entry(named(0), chunk(t, chunkenc.EncXOR2, first, 10, 0))},
		{"start timestamps of a counter", "rate(m[5m])", "start timestamps", entry(named(0), chunk(t, chunkenc.EncXOR2, first, 10, first-1))},
		{"start timestamps of resets", "resets(m[5m])", "start timestamps", entry(named(0), chunk(t, chunkenc.EncXOR2, first, 10, first-1))},
		{"start timestamps that do not matter", "delta(m[5m])", "", entry(named(0), chunk(t, chunkenc.EncXOR2, first, 10, first-1))},
		{"start timestamps of a selector", "sum(m)", "", entry(named(0), chunk(t, chunkenc.EncXOR2, first, 10, first-1))},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Series(t.Context(), &list{series: []storage.ChunkSeries{c.series}}, options(t, c.text))
			var unproven *pushdown.UnprovenError
			switch {
			case c.reason == "" && err != nil:
				t.Error(err)
			case c.reason != "" && (!errors.As(err, &unproven) || !strings.Contains(unproven.Reason, c.reason)):
				t.Errorf("have %v, want %s", err, c.reason)
			}
		})
	}
}

func TestSeriesLooksAtBothEndsOfItsSpan(t *testing.T) {
	for _, text := range []string{"m", "count_over_time(m[1m] offset 1h)"} {
		o := options(t, text)
		mint, maxt := o.Fragment.Span(o.Grid)
		for at, want := range map[int64]bool{mint - 1: false, mint: true, maxt: true, maxt + 1: false} {
			p, err := Series(t.Context(), &list{series: []storage.ChunkSeries{entry(named(0), chunk(t, chunkenc.EncXOR, at, 1, 0))}}, o)
			if err != nil {
				t.Fatal(err)
			}
			if (p.Samples == 1) != want {
				t.Errorf("%s: looked at %d samples at %d of %d to %d", text, p.Samples, at, mint, maxt)
			}
		}
	}
}

// TestSeriesDecodesNothingBetweenSteps has a chunk between two steps that cannot be decoded.
func TestSeriesDecodesNothingBetweenSteps(t *testing.T) {
	const hour = 3_600_000
	all := []storage.ChunkSeries{entry(named(0), chunk(t, chunkenc.EncXOR, first, 1, 0), brokenChunk(t, first+hour), chunk(t, chunkenc.EncXOR, first+2*hour, 1, 0))}
	for _, text := range []string{"m", "sum_over_time(m[5m])"} {
		o := options(t, text)
		o.Grid.End, o.Grid.Step = first+2*hour, 2*hour
		p, err := Series(t.Context(), &list{series: all}, o)
		if err != nil || p.Samples != 2 {
			t.Errorf("%s in steps of two hours: have %v, %v, want two samples", text, p, err)
		}
		o.Grid.Step = hour / 2
		if _, err := Series(t.Context(), &list{series: all}, o); !errors.Is(err, io.EOF) {
			t.Errorf("%s in steps of half an hour: have %v", text, err)
		}
	}
}

// TestXOR2GivesWhatXORGives, for the one is decoded by its iterator, the other from its bytes.
func TestXOR2GivesWhatXORGives(t *testing.T) {
	for _, text := range []string{"m", "rate(m[5m])", "sum_over_time(m[1m] offset 10m)"} {
		var want string
		for _, e := range []chunkenc.Encoding{chunkenc.EncXOR, chunkenc.EncXOR2} {
			set := &list{series: []storage.ChunkSeries{entry(named(0), chunk(t, e, first, 100, 0))}}
			p, err := Series(t.Context(), set, options(t, text))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(p); want == "" {
				want = got
			} else if got != want {
				t.Errorf("%s: have %s, want %s", text, got, want)
			}
		}
	}
}

func TestSeriesDoesNotDependOnTheNumberOfWorkers(t *testing.T) {
	all := floats(t, 1000)
	for _, text := range []string{"sum by (job) (rate(m[5m]))", "m > 50", "count(m)", "max without (instance) (m)", "avg_over_time(m[3m])"} {
		o := options(t, text)
		var want *pushdown.Partial
		for _, o.Workers = range []int{1, 2, 5} {
			for _, set := range []storage.ChunkSeriesSet{&list{series: all}, &divisible{list{series: all}}} {
				p, err := Series(t.Context(), set, o)
				if err != nil {
					t.Fatal(err)
				}
				if p, err = o.Fragment.Merge(o.Grid, []*pushdown.Partial{p}, always); err != nil {
					t.Fatal(err)
				}
				if want == nil {
					want = p
				}
				equalPartials(t, o, p, want)
			}
		}
	}
}

func equalPartials(t *testing.T, o Options, got, want *pushdown.Partial) {
	t.Helper()
	if got.Samples != want.Samples || got.Found != want.Found || len(got.Values) != len(want.Values) {
		t.Fatalf("%d workers: have %d samples, %v, %d values, want %d, %v, %d", o.Workers,
			got.Samples, got.Found, len(got.Values), want.Samples, want.Found, len(want.Values))
	}
	for i := range got.Values {
		for step := range o.Grid.Len() {
			g, _, ok := got.Values[i].At(o.Fragment.Op, step)
			w, _, wantOK := want.Values[i].At(o.Fragment.Op, step)
			if ok != wantOK || math.Abs(g-w) > 1e-12*math.Abs(w) || !labels.Equal(got.Values[i].Labels, want.Values[i].Labels) {
				t.Fatalf("%d workers: %v at step %d: have %v %v, want %v %v", o.Workers, got.Values[i].Labels, step, g, ok, w, wantOK)
			}
		}
	}
}

// endless is a set that never ends, and calls back for each series.
type endless struct {
	list
	each func(i int)
}

func (e *endless) Next() bool {
	e.next++
	e.each(e.next)
	return true
}
func (e *endless) At() storage.ChunkSeries { return e.series[e.next%len(e.series)] }

var errEnough = errors.New("enough")

func TestSeriesEndsWithItsContext(t *testing.T) {
	late := entry(named(0), chunk(t, chunkenc.EncXOR, last+100*interval, 10, 0))
	for name, all := range map[string][]storage.ChunkSeries{"series": floats(t, 100), "series that are not looked at": {late}} {
		for _, workers := range []int{1, 3} {
			ctx, cancel := context.WithCancelCause(t.Context())
			o := options(t, "sum(rate(m[5m]))")
			o.Workers = workers
			set := &endless{list: list{series: all}, each: func(i int) {
				if i == 500 {
					cancel(errEnough)
				}
				if i > 100_000 {
					panic("goes on")
				}
			}}
			if _, err := Series(ctx, set, o); !errors.Is(err, errEnough) {
				t.Errorf("%s, %d workers: have %v", name, workers, err)
			}
		}
	}
}

// soon is done when it has been looked at so often.
type soon struct {
	context.Context
	left int
}

func (s *soon) Err() error {
	if s.left--; s.left < 0 {
		return errEnough
	}
	return nil
}

// One series alone may take long: by its samples, or by windows that have many of them in common.
func TestOneSeriesEndsWithItsContext(t *testing.T) {
	var many []chunks.Meta
	for i := range 3 * checkEvery / 100 {
		many = append(many, chunk(t, chunkenc.EncXOR, first+int64(i)*100, 100, 0))
		many[i].MinTime, many[i].MaxTime = first+int64(i), first+int64(i)
	}
	few := chunk(t, chunkenc.EncXOR, first, 1000, 0)
	for name, c := range map[string]struct {
		text   string
		chunks []chunks.Meta
	}{
		"samples": {"m", many},
		"windows": {"sum_over_time(m[1d])", []chunks.Meta{few}},
	} {
		o := options(t, c.text)
		o.Workers, o.Grid.Step = 1, 1000
		set := &list{series: []storage.ChunkSeries{entry(named(0), c.chunks...)}}
		if _, err := Series(&soon{context.Background(), 2}, set, o); !errors.Is(err, errEnough) {
			t.Errorf("%s: have %v", name, err)
		}
	}
}

func TestSeriesReturnsErrors(t *testing.T) {
	for name, set := range map[string]*list{
		"of the set":     {series: floats(t, 300), err: errEnough},
		"of a chunk":     {series: append(floats(t, 300), entry(named(300), brokenChunk(t, first)))},
		"of a short set": {series: floats(t, 3), err: errEnough},
	} {
		for _, workers := range []int{1, 3} {
			o := options(t, "sum(m)")
			o.Workers = workers
			again := list{series: set.series, err: set.err}
			for _, set := range []storage.ChunkSeriesSet{&divisible{again}, &again} {
				if _, err := Series(t.Context(), set, o); err == nil || again.err != nil && !errors.Is(err, again.err) {
					t.Errorf("%s, %d workers, a %T: have %v", name, workers, set, err)
				}
			}
		}
	}
}

func TestSeriesHoldsNoMoreThanMaxSamples(t *testing.T) {
	all := floats(t, 1000)
	for _, c := range []struct {
		text string
		most int
	}{
		// One group, and the longest series.
		{"sum(rate(m[5m]))", 401 + 100},
		{"sum by (job) (m)", 7*401 + 100},
		{"rate(m[5m])", 1000*401 + 100},
	} {
		o := options(t, c.text)
		o.MaxSamples = c.most
		if _, err := Series(t.Context(), &list{series: all}, o); err != nil {
			t.Errorf("%s: have %v", c.text, err)
		}
		for _, o.Workers = range []int{1, 3} {
			o.MaxSamples = c.most - 1
			for _, set := range []storage.ChunkSeriesSet{&list{series: all}, &divisible{list{series: all}}} {
				var tooMany promql.ErrTooManySamples
				if _, err := Series(t.Context(), set, o); !errors.As(err, &tooMany) {
					t.Errorf("%s, %d workers, a %T: have %v", c.text, o.Workers, set, err)
				}
			}
		}
	}
}

// faulty is a chunk whose bytes are gone.
type faulty struct{ chunkenc.Chunk }

func (faulty) Bytes() []byte { panic("fault") }

func TestPanicOfAWorkerIsAnError(t *testing.T) {
	all := floats(t, 1000)
	m := chunk(t, chunkenc.EncXOR, first, 10, 0)
	m.Chunk = faulty{m.Chunk}
	all[500] = entry(named(500), m)
	o := options(t, "sum(m)")
	o.Workers = 3
	for _, set := range []storage.ChunkSeriesSet{&list{series: all}, &divisible{list{series: all}}} {
		if _, err := Series(t.Context(), set, o); err == nil || !strings.Contains(err.Error(), "fault") {
			t.Errorf("a %T: have %v", set, err)
		}
	}
}

// TestWorkersEndBeforeAPanicOfTheSet goes on to the caller.
func TestWorkersEndBeforeAPanicOfTheSet(t *testing.T) {
	o := options(t, "sum(m)")
	o.Workers = 3
	set := &endless{list: list{series: floats(t, 100)}, each: func(i int) {
		if i == 1000 {
			panic(errEnough)
		}
	}}
	defer func() {
		if err, ok := recover().(error); !ok || !errors.Is(err, errEnough) {
			t.Errorf("recovered %v", err)
		}
	}()
	_, err := Series(t.Context(), set, o)
	t.Errorf("returned %v", err)
}
