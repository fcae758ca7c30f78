package pushdown

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"
)

// sample is one of a group at a step.
type sample struct {
	group, step int
	v           float64
}

const (
	groups = 5
	steps  = 4
)

// partial adds samples up.
func partial(op parser.ItemType, samples []sample) (*Partial, error) {
	byGroup := map[int]*Values{}
	p := &Partial{Samples: int64(len(samples)), Found: len(samples) > 0}
	for _, s := range samples {
		if byGroup[s.group] == nil {
			v := NewValues(op, labels.FromStrings("group", fmt.Sprint(s.group)), steps)
			byGroup[s.group] = &v
		}
		if err := byGroup[s.group].Add(op, s.step, s.v); err != nil {
			return nil, err
		}
	}
	for _, v := range byGroup {
		p.Values = append(p.Values, *v)
	}
	return p, nil
}

// random returns a value: whole numbers that are added up exactly in any order, and now and
// then one that is none.
func random(r *rand.Rand) float64 {
	odd := []float64{math.NaN(), math.Inf(1), math.Inf(-1)}
	if i := r.IntN(200); i < len(odd) {
		return odd[i]
	}
	return float64(r.IntN(2000) - 1000)
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

// always has a merge go on.
func always() error { return nil }

// TestMergingAnySplitIsAddingAll splits samples between parts at random.
func TestMergingAnySplitIsAddingAll(t *testing.T) {
	g := Grid{Start: 0, End: steps - 1, Step: 1}
	for seed := range 500 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		for _, op := range aggregations {
			split := make([][]sample, 1+r.IntN(5))
			var all []sample
			for range r.IntN(100) {
				s := sample{r.IntN(groups), r.IntN(steps), random(r)}
				all = append(all, s)
				i := r.IntN(len(split))
				split[i] = append(split[i], s)
			}
			parts := make([]*Partial, len(split))
			for i, samples := range split {
				var err error
				if parts[i], err = partial(op, samples); err != nil {
					t.Fatal(err)
				}
			}
			f := &Fragment{Op: op}
			whole, err := f.Merge(g, parts, always)
			if err != nil {
				t.Fatal(err)
			}
			want, err := partial(op, all)
			if err != nil {
				t.Fatal(err)
			}
			if want, err = f.Merge(g, []*Partial{want}, always); err != nil {
				t.Fatal(err)
			}
			if whole.Samples != want.Samples || whole.Found != want.Found || len(whole.Values) != len(want.Values) {
				t.Fatalf("seed %d, %s: have %v, want %v", seed, op, whole, want)
			}
			for i, v := range whole.Values {
				for step := range steps {
					got, _, ok := v.At(op, step)
					w, _, wantOK := want.Values[i].At(op, step)
					if !labels.Equal(v.Labels, want.Values[i].Labels) || ok != wantOK || !same(got, w) {
						t.Fatalf("seed %d, %s, %v at %d: have %v %v, want %v %v", seed, op, v.Labels, step, got, ok, w, wantOK)
					}
				}
			}
		}
	}
}

// TestAddGivesWhatTheEngineGives aggregates series of a real storage.
func TestAddGivesWhatTheEngineGives(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	for _, values := range [][]float64{
		{1}, {math.Copysign(0, -1)}, {nan}, {inf}, {-inf},
		{1, 2, 3}, {nan, 1}, {1, nan}, {nan, nan}, {nan, 1, 2}, {2, nan, 1},
		{inf, 1}, {1, inf}, {inf, inf}, {inf, -inf}, {-inf, 1, inf}, {inf, nan}, {nan, -inf}, {1, inf, 2, -inf, 3}, {inf, 1, 2, inf},
		{1e100, 1, -1e100}, {1, 1e100, 1, -1e100}, {0.1, 0.2, 0.3, 0.4, 0.7}, {math.MaxFloat64}, {math.SmallestNonzeroFloat64, 1},
	} {
		store := teststorage.New(t)
		app := store.Appender(context.Background())
		for i, v := range values {
			if _, err := app.Append(0, labels.FromStrings(labels.MetricName, "m", "i", fmt.Sprint(100+i)), 0, v); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		for _, op := range aggregations {
			v := NewValues(op, labels.EmptyLabels(), 1)
			for _, x := range values {
				if err := v.Add(op, 0, x); err != nil {
					t.Fatal(err)
				}
			}
			got, _, ok := v.At(op, 0)
			if want := ask(t, engine, store, op.String()+"(m)"); !ok || !same(got, want) {
				t.Errorf("%s of %v: have %v %v, want %v", op, values, got, ok, want)
			}
		}
	}
}

func ask(t *testing.T, engine *promql.Engine, from storage.Queryable, text string) float64 {
	t.Helper()
	return askAny(t, engine, from, text).F
}

func askAny(t *testing.T, engine *promql.Engine, from storage.Queryable, text string) promql.Sample {
	t.Helper()
	q, err := engine.NewInstantQuery(context.Background(), from, nil, text, time.UnixMilli(0))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	v, err := q.Exec(context.Background()).Vector()
	if err != nil || len(v) != 1 {
		t.Fatal(text, v, err)
	}
	return v[0]
}

func TestAverageThatOverflowsIsNotProven(t *testing.T) {
	var unproven *UnprovenError
	one := NewValues(parser.AVG, labels.EmptyLabels(), 1)
	if err := one.Add(parser.AVG, 0, math.MaxFloat64); err != nil {
		t.Fatal(err)
	}
	other := NewValues(parser.AVG, labels.EmptyLabels(), 1)
	if err := other.Add(parser.AVG, 0, math.MaxFloat64); err != nil {
		t.Fatal(err)
	}
	f := &Fragment{Op: parser.AVG}
	if _, err := f.Merge(Grid{Step: 1}, []*Partial{{Values: []Values{one}}, {Values: []Values{other}}}, always); !errors.As(err, &unproven) {
		t.Errorf("merged with %v", err)
	}
	if err := other.Add(parser.AVG, 0, math.MaxFloat64); !errors.As(err, &unproven) {
		t.Errorf("added with %v", err)
	}
}

func TestMergeRefuses(t *testing.T) {
	g := Grid{Start: 0, End: 1, Step: 1}
	value := func(op parser.ItemType, steps int) []*Partial {
		v := NewValues(op, labels.FromStrings("a", "1"), steps)
		if steps > 0 {
			if err := v.Add(op, 0, 1); err != nil {
				t.Fatal(err)
			}
		}
		return []*Partial{{Values: []Values{v}}}
	}
	var unproven *UnprovenError
	for _, c := range []struct {
		name     string
		op       parser.ItemType
		parts    []*Partial
		unproven bool
	}{
		{"too few steps", parser.SUM, value(parser.SUM, 1), false},
		{"too many steps", parser.MAX, value(parser.MAX, 3), false},
		{"no values", parser.MAX, value(parser.COUNT, 2), false},
		{"values of no use", parser.COUNT, value(parser.MAX, 2), false},
		{"no compensation", parser.SUM, value(parser.MAX, 2), false},
		{"two samples of one series", 0, append(value(0, 2), value(0, 2)...), true},
	} {
		_, err := (&Fragment{Op: c.op}).Merge(g, c.parts, always)
		if err == nil || errors.As(err, &unproven) != c.unproven {
			t.Errorf("%s: have %v", c.name, err)
		}
	}
}

// TestMergePutsOneSeriesTogether whose steps several nodes have.
func TestMergePutsOneSeriesTogether(t *testing.T) {
	a, b := NewValues(0, labels.FromStrings("a", "1"), 2), NewValues(0, labels.FromStrings("a", "1"), 2)
	if err := errors.Join(a.Add(0, 0, 1), b.Add(0, 1, 2)); err != nil {
		t.Fatal(err)
	}
	whole, err := (&Fragment{}).Merge(Grid{End: 1, Step: 1}, []*Partial{{Values: []Values{a}}, {Values: []Values{b}}}, always)
	if err != nil || len(whole.Values) != 1 {
		t.Fatal(whole, err)
	}
	for step, want := range []float64{1, 2} {
		if got, _, ok := whole.Values[0].At(0, step); !ok || got != want {
			t.Errorf("step %d: have %v %v", step, got, ok)
		}
	}
}

// TestMergeOfManyValues merges values that come in any order, in one list that is sorted at once
// and in more, and ends soon after it is told to, at each stage.
func TestMergeOfManyValues(t *testing.T) {
	const each = 3*betweenChecks + 1
	g := Grid{Step: 1}
	parts := func(sorted bool) (all []*Partial) {
		for p := range 3 {
			part := &Partial{}
			for i := range each {
				v := NewValues(parser.SUM, labels.FromStrings("i", fmt.Sprintf("%06d", i)), 1)
				v.N[0], v.V[0] = 1, float64(p)
				part.Values = append(part.Values, v)
			}
			if !sorted {
				rand.New(rand.NewPCG(uint64(p), 1)).Shuffle(each, func(i, j int) {
					part.Values[i], part.Values[j] = part.Values[j], part.Values[i]
				})
			}
			all = append(all, part)
		}
		return all
	}
	for _, sorted := range []bool{true, false} {
		checks := 0
		whole, err := (&Fragment{Op: parser.SUM}).Merge(g, parts(sorted), func() error { checks++; return nil })
		if err != nil || len(whole.Values) != each {
			t.Fatal(len(whole.Values), err)
		}
		for i, v := range whole.Values {
			if got, _, _ := v.At(parser.SUM, 0); got != 3 || v.Labels.Get("i") != fmt.Sprintf("%06d", i) {
				t.Fatalf("value %d, of %s, is %v", i, v.Labels, got)
			}
		}
		if want := 3 * each / betweenChecks; checks < want {
			t.Errorf("it was asked %d times whether to go on, want %d at least", checks, want)
		}
		enough := errors.New("enough")
		for end := range checks {
			n := 0
			_, err := (&Fragment{Op: parser.SUM}).Merge(g, parts(sorted), func() error {
				if n++; n > end {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) || n != end+1 {
				t.Fatalf("told to end at check %d: %v after %d", end, err, n)
			}
		}
	}
}

// What an answer will take is known before it is there.
func TestBytes(t *testing.T) {
	for _, op := range []parser.ItemType{0, parser.SUM, parser.AVG, parser.COUNT, parser.GROUP, parser.MIN, parser.MAX} {
		p := Partial{Values: []Values{NewValues(op, labels.EmptyLabels(), 7)}}
		if got, want := Bytes(op, 7), p.Bytes(); got != want {
			t.Errorf("%v: %d bytes, want %d", op, got, want)
		}
	}
}
