package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

// enough is more than any test's labels take.
const enough = 1 << 30

func listed(t *testing.T, s *Store, q series.LabelQuery) (all []string) {
	t.Helper()
	if err := s.Labels(t.Context(), q, enough, func(v string) error {
		all = append(all, strings.Clone(v))
		return nil
	}); err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return all
}

// ofTSDB is what Prometheus's queriers answer.
func ofTSDB(t *testing.T, s *Store, q series.LabelQuery) (all []string) {
	t.Helper()
	querier, err := s.Querier(q.Mint, q.Maxt)
	if err != nil {
		t.Fatal(err)
	}
	defer querier.Close()
	var found []string
	if q.Name == "" {
		found, _, err = querier.LabelNames(t.Context(), nil, slices.Clone(q.Matchers)...)
	} else {
		found, _, err = querier.LabelValues(t.Context(), q.Name, nil, slices.Clone(q.Matchers)...)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		all = append(all, strings.Clone(v))
	}
	return all
}

// labelStore has blocks, a head, and late samples of series of their own.
func labelStore(t *testing.T, rng *rand.Rand) *Store {
	t.Helper()
	o := testOptions(t.TempDir())
	o.OutOfOrderWindow = 3 * time.Hour
	s := mustOpen(t, o, hooks{})
	for hour := range 9 {
		b := &series.Batch{}
		for i := range 40 {
			ls := []string{"__name__", fmt.Sprintf("m%d", rng.IntN(4)), "i", fmt.Sprintf("%02d", i), "hour", fmt.Sprint(hour)}
			if rng.IntN(2) == 0 {
				ls = append(ls, "zone", fmt.Sprint("z", rng.IntN(3)))
			}
			b.Series = append(b.Series, floats(labels.FromStrings(ls...), float64(at(time.Duration(hour-8)*time.Hour)), 1))
		}
		mustAppend(t, s, b)
	}
	if err := s.db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, batch(floats(labels.FromStrings("__name__", "m0", "late", "yes", "i", "late"), float64(at(-170*time.Minute)), 1)))
	if len(s.db.Blocks()) == 0 || s.db.Head().MinOOOTime() >= s.db.Head().MinTime() {
		t.Fatalf("%d blocks, late samples from %d, others from %d", len(s.db.Blocks()), s.db.Head().MinOOOTime(), s.db.Head().MinTime())
	}
	return s
}

// Labels are those that the TSDB answers, and those of late samples; with a limit the first ones.
func TestLabelsAreThoseOfTheTSDB(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	s := labelStore(t, rng)
	matcher := func(types labels.MatchType, name, value string) *labels.Matcher {
		return labels.MustNewMatcher(types, name, value)
	}
	some := []*labels.Matcher{
		matcher(labels.MatchEqual, "__name__", "m0"), matcher(labels.MatchRegexp, "__name__", "m[12]"), matcher(labels.MatchNotEqual, "zone", "z1"),
		matcher(labels.MatchEqual, "zone", ""), matcher(labels.MatchRegexp, "zone", ".+"), matcher(labels.MatchNotRegexp, "i", "0.|late"),
		matcher(labels.MatchRegexp, "i", ".*"), matcher(labels.MatchEqual, "hour", "3"), matcher(labels.MatchEqual, "none", "x"),
	}
	late, fewer := 0, 0
	for range 2000 {
		q := series.LabelQuery{Name: []string{"", "i", "zone", "__name__", "hour", "late", "none"}[rng.IntN(7)], Mint: math.MinInt64, Maxt: math.MaxInt64}
		for range rng.IntN(3) {
			q.Matchers = append(q.Matchers, some[rng.IntN(len(some))])
		}
		whole := ofTSDB(t, s, q)
		if rng.IntN(3) > 0 {
			q.Mint = at(-time.Duration(rng.IntN(600)) * time.Minute)
			q.Maxt = q.Mint + int64(rng.IntN(400))*time.Minute.Milliseconds()
		}
		want, got := ofTSDB(t, s, q), listed(t, s, q)
		h := s.db.Head()
		if overlaps(q.Mint, q.Maxt, h.MinTime(), h.MaxTime()) || !overlaps(q.Mint, q.Maxt, h.MinOOOTime(), h.MaxOOOTime()) {
			if !slices.Equal(got, want) {
				t.Fatalf("%+v: got %q, want %q", q, got, want)
			}
		} else {
			late++
			for _, v := range want {
				if !slices.Contains(got, v) {
					t.Fatalf("%+v: %q lack %q", q, got, v)
				}
			}
		}
		for _, v := range got {
			if !slices.Contains(whole, v) {
				t.Fatalf("%+v: %q are not among %q", q, got, whole)
			}
		}
		if len(got) < len(whole) {
			fewer++
		}
		q.Limit = 1 + rng.IntN(20)
		if first := listed(t, s, q); !slices.Equal(first, got[:min(q.Limit, len(got))]) {
			t.Fatalf("%+v: %q are not the first of %q", q, first, got)
		}
	}
	if late < 20 || fewer < 100 {
		t.Errorf("%d of late samples, %d of less than all", late, fewer)
	}
	q := series.LabelQuery{Name: "late", Mint: at(-175 * time.Minute), Maxt: at(-165 * time.Minute)}
	if got := listed(t, s, q); !slices.Equal(got, []string{"yes"}) {
		t.Errorf("of late samples: %q", got)
	}
}

// What would take too much, and what nobody waits for, ends; the block was not to blame.
func TestLabelsEndEarly(t *testing.T) {
	s := labelStore(t, rand.New(rand.NewPCG(1, 1)))
	all := series.LabelQuery{Name: "i", Mint: math.MinInt64, Maxt: math.MaxInt64}
	others := all
	others.Matchers = []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "zone", "z.")}
	names := all
	names.Name = ""
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for i, q := range []series.LabelQuery{all, others, names} {
		var tooMany *series.TooManyLabelsError
		// The head alone has fewer, of the values.
		err := s.Labels(t.Context(), q, []int64{700, 5000, 60}[i], func(string) error { return nil })
		if !errors.As(err, &tooMany) || !strings.Contains(err.Error(), "--query.max-samples") {
			t.Errorf("%+v: too many: %v", q, err)
		}
		if err := s.Labels(canceled, q, enough, func(string) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v: canceled: %v", q, err)
		}
	}
	full := errors.New("full")
	n := 0
	if err := s.Labels(t.Context(), all, enough, func(string) error { n++; return full }); !errors.Is(err, full) || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
	if d := s.Damage(); len(d) > 0 {
		t.Errorf("damage is noted: %v", d)
	}
	if got := listed(t, s, all); len(got) != 41 {
		t.Errorf("%d values", len(got))
	}
}

// The end of what nobody waits for is noticed between steps of all that takes long.
func TestLabelsNoticeThatNobodyWaits(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	b := &series.Batch{}
	for i := range 20_000 {
		b.Series = append(b.Series, floats(labels.FromStrings("__name__", "m", "i", fmt.Sprint(i), "x", fmt.Sprint(i%2)), float64(at(0)), 1))
	}
	mustAppend(t, s, b)
	q := series.LabelQuery{Name: "i", Mint: math.MinInt64, Maxt: math.MaxInt64, Matchers: []*labels.Matcher{
		labels.MustNewMatcher(labels.MatchRegexp, "i", ".*1"), labels.MustNewMatcher(labels.MatchEqual, "x", "1"),
	}}
	looks := &countedContext{Context: t.Context()}
	if err := s.Labels(looks, q, enough, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if looks.n < 20 {
		t.Fatalf("the context is looked at %d times", looks.n)
	}
	for after := 1; after < looks.n; after++ {
		ended := &countedContext{Context: t.Context(), end: after}
		if err := s.Labels(ended, q, enough, func(string) error { return nil }); !errors.Is(err, context.Canceled) || ended.n > after+1 {
			t.Errorf("ended at look %d: %v at look %d", after, err, ended.n)
		}
	}
}

// countedContext counts how often it is looked at, and is done from some look on.
type countedContext struct {
	context.Context
	n, end int
}

func (c *countedContext) Err() error {
	if c.n++; c.end > 0 && c.n >= c.end {
		return context.Canceled
	}
	return nil
}
