package node

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// differs tells how an answer differs from the one that is wanted, "" if it does not.
func (a *queryAnswer) differs(want *queryAnswer, ordered bool) string {
	if a.errKind != want.errKind || a.err != want.err {
		return fmt.Sprintf("error %s %q, want %s %q", a.errKind, a.err, want.errKind, want.err)
	}
	if a.kind != want.kind {
		return fmt.Sprintf("a %s, want a %s", a.kind, want.kind)
	}
	if ordered && !slices.Equal(a.sequence, want.sequence) {
		return fmt.Sprintf("in the order %v, want %v", a.sequence, want.sequence)
	}
	if s := notesDiffer(a.notes, want.notes, want.notes); s != "" {
		return s
	}
	for _, ls := range keysOf(a.points, want.points) {
		for _, t := range keysOf(a.points[ls], want.points[ls]) {
			if got, want := a.points[ls][t], want.points[ls][t]; !got.near(want) {
				return fmt.Sprintf("%s is %v at %d, want %v", ls, got, t, want)
			}
		}
	}
	return ""
}

func keysOf[K int64 | string, V any](all ...map[K]V) []K {
	keys := map[K]bool{}
	for _, m := range all {
		for k := range m {
			keys[k] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// maxNotes is how many warnings, and infos, the API answers; it leaves open which.
const maxNotes = 10

// notesDiffer compares annotations with those that have to be there and those that may be.
func notesDiffer(got, must, may []string) string {
	for _, note := range got {
		if !slices.Contains(may, note) && !strings.HasSuffix(note, " annotations omitted") {
			return fmt.Sprintf("a note %q, want some of %q", note, may)
		}
	}
	if len(may) > maxNotes {
		return ""
	}
	for _, note := range must {
		if !slices.Contains(got, note) {
			return fmt.Sprintf("no note %q, only %q", note, got)
		}
	}
	return ""
}

// differsFromAll is differs for answers that Prometheus itself gives with its series in one
// order or another. Where those differ the answer is open: which of equal values is among the
// first, what two infinite sums cancel to, how much of a difference is rounding. It is open,
// too, where Prometheus cannot print a histogram.
func (a *queryAnswer) differsFromAll(wants []*queryAnswer, ordered bool) string {
	if slices.ContainsFunc(wants, (*queryAnswer).unprintable) {
		return ""
	}
	a = a.rounded()
	for i, want := range wants {
		wants[i] = want.rounded()
	}
	first := wants[0]
	for _, want := range wants {
		s := a.differs(want, ordered)
		if s == "" {
			return ""
		}
		if a.errKind != "" && a.errKind == want.errKind && errorStem(a.err) == errorStem(want.err) {
			return "" // which series it names depends on the order
		}
	}
	if a.errKind != "" || first.errKind != "" || a.kind != first.kind {
		return a.differs(first, ordered)
	}
	if s := a.notesDifferFromAll(wants); s != "" {
		return s
	}
	if s := a.pointsDiffer(wants); s != "" {
		return s
	}
	if ordered && !slices.Equal(a.sequence, first.sequence) && !a.reordered(wants) {
		return fmt.Sprintf("in the order %v, want %v", a.sequence, first.sequence)
	}
	return ""
}

// unprintable tells whether count_values had to print a histogram of custom buckets that was
// multiplied with infinity: its zero count, which it has not got and which is nowhere sent, is NaN
// then, and printing panics.
func (a *queryAnswer) unprintable() bool {
	return a.err == "histograms with custom buckets have no zero bucket"
}

// fraction matches a number with a point in it.
var fraction = regexp.MustCompile(`\d+\.\d+`)

// rounded is the answer with the numbers in its labels, which count_values made of values, rounded
// as values are when they are compared. Series that are equal then are one.
func (a *queryAnswer) rounded() *queryAnswer {
	round := func(text string) string {
		v, err := strconv.ParseFloat(text, 64)
		if err == nil {
			v, err = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 9, 64), 64)
		}
		if err != nil {
			return text
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	r := *a
	r.points, r.sequence = map[string]map[int64]point{}, nil
	for ls, points := range a.points {
		ls = fraction.ReplaceAllStringFunc(ls, round)
		for t, p := range points {
			if had, ok := r.points[ls][t]; ok && len(had) == 1 && len(p) == 1 {
				p = point{had[0] + p[0]}
			}
			r.add(ls, t, p)
		}
	}
	for _, ls := range a.sequence {
		r.sequence = append(r.sequence, fraction.ReplaceAllStringFunc(ls, round))
	}
	return &r
}

// notesDifferFromAll wants the annotations that all have, and none that nobody has.
func (a *queryAnswer) notesDifferFromAll(wants []*queryAnswer) string {
	must, may := slices.Clone(wants[0].notes), []string{}
	for _, want := range wants {
		must = slices.DeleteFunc(must, func(note string) bool { return !slices.Contains(want.notes, note) })
		may = append(may, want.notes...)
	}
	got := a.notes
	if slices.ContainsFunc(may, mixes) {
		must, may, got = mixed(must), mixed(may), mixed(got)
	}
	return notesDiffer(got, must, may)
}

// mixes tells whether an annotation is on different kinds of histograms, or floats, together.
func mixes(note string) bool { return strings.Contains(note, "a mix of histograms") }

// mixed has all of those say the same, and leaves out others on the same aggregation: it tells
// of the first two samples that it cannot put together, and goes no further.
func mixed(notes []string) (all []string) {
	for _, note := range notes {
		switch {
		case mixes(note):
			_, position, _ := strings.Cut(note, " (")
			all = append(all, "a mix ("+position)
		case !strings.Contains(note, "aggregation"):
			all = append(all, note)
		}
	}
	return all
}

// errorStem is what an error says before it comes to single series.
func errorStem(s string) string {
	s, _, _ = strings.Cut(s, "{")
	return s
}

// reordered tells whether the order of the answer is open.
func (a *queryAnswer) reordered(wants []*queryAnswer) bool {
	return slices.ContainsFunc(wants, func(w *queryAnswer) bool { return !slices.Equal(w.sequence, wants[0].sequence) })
}

func (a *queryAnswer) pointsDiffer(wants []*queryAnswer) string {
	var all []map[int64]map[string]point
	for _, want := range wants {
		all = append(all, want.byTime())
	}
	own := a.byTime()
	for _, t := range keysOf(append(all, own)...) {
		var steps []map[string]point
		for _, want := range all {
			steps = append(steps, want[t])
		}
		if s := stepDiffers(own[t], steps); s != "" {
			return fmt.Sprintf("at %d: %s", t, s)
		}
	}
	return ""
}

func (a *queryAnswer) byTime() map[int64]map[string]point {
	steps := map[int64]map[string]point{}
	for ls, points := range a.points {
		for t, p := range points {
			if steps[t] == nil {
				steps[t] = map[string]point{}
			}
			steps[t][ls] = p
		}
	}
	return steps
}

// stepDiffers compares the points of one step, by labels. If it is open which series there
// are, as they have equal values, it compares those.
func stepDiffers(got map[string]point, wants []map[string]point) string {
	first := wants[0]
	sameLabels := func(m map[string]point) bool {
		return maps.EqualFunc(m, first, func(point, point) bool { return true })
	}
	sameValues := func(m map[string]point) bool { return slices.EqualFunc(sorted(m), sorted(first), point.near) }
	if slices.ContainsFunc(wants, func(m map[string]point) bool { return !sameLabels(m) }) {
		open := slices.ContainsFunc(wants, func(m map[string]point) bool { return !sameValues(m) })
		if !open && !sameValues(got) {
			return fmt.Sprintf("%v, want the values of %v", got, first)
		}
		return ""
	}
	for _, ls := range keysOf(got, first) {
		var wanted []point
		for _, want := range wants {
			wanted = append(wanted, want[ls])
		}
		if p, ok := got[ls]; !ok || first[ls] == nil || !p.nearAll(wanted) {
			return fmt.Sprintf("%s is %v, want %v", ls, p, slices.CompactFunc(wanted, point.near))
		}
	}
	return ""
}

func sorted(m map[string]point) []point {
	return slices.SortedFunc(maps.Values(m), slices.Compare[point])
}

// nearAll tells whether a point is as near to others as they are to each other, or that is
// quite open.
func (p point) nearAll(others []point) bool {
	first := others[0]
	for _, o := range others {
		if len(o) != len(first) {
			return true
		}
	}
	if len(p) != len(first) {
		return false
	}
	for i := range first {
		least, most := first[i], first[i]
		for _, o := range others {
			if math.IsNaN(o[i]) != math.IsNaN(first[i]) || math.IsInf(o[i], 0) != math.IsInf(first[i], 0) {
				return true
			}
			least, most = min(least, o[i]), max(most, o[i])
		}
		spare := 0.0
		if !math.IsInf(most, 0) && !math.IsInf(least, 0) && !math.IsNaN(first[i]) {
			spare = 100 * (most - least)
		} else if least != most && !math.IsNaN(first[i]) {
			return true
		}
		if !near(p[i], first[i], spare) {
			return false
		}
	}
	return true
}

// shuffled is a storage that answers its series in some order.
type shuffled struct {
	storage.Queryable
	rng *rand.Rand
}

func (s shuffled) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.Queryable.Querier(mint, maxt)
	return shuffledQuerier{q, s.rng}, err
}

type shuffledQuerier struct {
	storage.Querier
	rng *rand.Rand
}

func (q shuffledQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	// The TSDB sorts the matchers of the engine, and what absent makes of them depends on that.
	set := q.Querier.Select(ctx, true, hints, slices.Clone(ms)...)
	var all []storage.Series
	for set.Next() {
		all = append(all, set.At())
	}
	if err := set.Err(); err != nil {
		return storage.ErrSeriesSet(err)
	}
	q.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return &listed{all: all, at: -1}
}

type listed struct {
	storage.SeriesSet
	all []storage.Series
	at  int
}

func (l *listed) Next() bool         { l.at++; return l.at < len(l.all) }
func (l *listed) At() storage.Series { return l.all[l.at] }
func (l *listed) Err() error         { return nil }

func (l *listed) Warnings() annotations.Annotations { return nil }

// ordered tells whether an instant query says in which order it wants its answer.
func ordered(expr parser.Expr) bool {
	switch e := expr.(type) {
	case *parser.Call:
		return strings.HasPrefix(e.Func.Name, "sort")
	case *parser.AggregateExpr:
		return (e.Op == parser.TOPK || e.Op == parser.BOTTOMK) && len(e.Grouping) == 0 && !e.Without
	}
	return false
}
