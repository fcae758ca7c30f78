package ledger

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

var gauge = Series{Shape: Gauge, Sender: 1, Number: 2}

func at(ts ...int64) []Sample {
	var samples []Sample
	for _, t := range ts {
		samples = append(samples, Sample{Series: gauge, T: t})
	}
	return samples
}

func points(s Series, ts ...int64) []Point {
	var out []Point
	for _, t := range ts {
		out = append(out, s.PointAt(t))
	}
	return out
}

// Each way in which an answer can be wrong, and those in which it only looks like it.
func TestCheck(t *testing.T) {
	all := Question{Series: []Series{gauge}, Mint: 0, Maxt: 100}
	other := Series{Shape: Gauge, Sender: 1, Number: 3}
	for _, tc := range []struct {
		name                       string
		question                   Question
		answer                     Answer
		lost, duplicated, invented int
	}{
		{name: "complete", question: all, answer: Answer{gauge: points(gauge, 10, 20)}},
		{name: "with what is not acknowledged", question: all, answer: Answer{gauge: points(gauge, 10, 20, 30, 40, 50)}},
		{name: "one is missing", question: all, answer: Answer{gauge: points(gauge, 10)}, lost: 1},
		{name: "empty", question: all, answer: Answer{}, lost: 2},
		{name: "missing outside of the range", question: Question{Series: all.Series, Mint: 11, Maxt: 100}, answer: Answer{gauge: points(gauge, 20)}},
		{name: "missing at the edges of the range", question: Question{Series: all.Series, Mint: 10, Maxt: 20}, lost: 2},
		{name: "twice", question: all, answer: Answer{gauge: points(gauge, 10, 10, 20)}, duplicated: 1},
		{name: "never sent", question: all, answer: Answer{gauge: points(gauge, 10, 20, 60)}, invented: 1},
		{name: "value of another series", question: all, answer: Answer{gauge: {gauge.PointAt(10), {T: 20, V: other.PointAt(20).V}}}, invented: 1},
		{name: "value of another time", question: all, answer: Answer{gauge: {gauge.PointAt(10), {T: 20, V: gauge.PointAt(10).V}}}, invented: 1},
		{name: "a histogram for a float", question: all, answer: Answer{gauge: {gauge.PointAt(10), {T: 20, V: gauge.PointAt(20).V, Count: 1}}}, invented: 1},
		{name: "series that was not asked for", question: all, answer: Answer{gauge: points(gauge, 10, 20), other: points(other, 10)}, invented: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := New()
			l.Send(at(10, 20, 30, 40, 50))
			l.Acknowledge(at(10))
			l.Acknowledge(at(20))
			l.Refuse(at(50))
			mark := l.Mark()
			l.Acknowledge(at(30)) // after the question, before the answer
			l.Check("node", mark, tc.question, tc.answer)
			l.Check("node", mark, tc.question, tc.answer) // counts once
			wantFound(t, l, map[Kind]int{Lost: tc.lost, Duplicated: tc.duplicated, Invented: tc.invented})
		})
	}
}

func wantFound(t *testing.T, l *Ledger, want map[Kind]int) {
	t.Helper()
	for _, k := range Kinds {
		if got := l.Found(k); got != want[k] {
			t.Errorf("%d are %s, want %d: %s", got, k, want[k], strings.Join(l.Examples(k, 3), "; "))
		}
	}
}

func TestCheckCopies(t *testing.T) {
	l := New()
	l.Send(at(10, 20, 30, 40, 50))
	l.Acknowledge(at(10, 20, 30, 40))
	l.CheckCopies(map[string]Answer{
		"a":     {gauge: points(gauge, 10, 20, 20, 30)},
		"b":     {gauge: points(gauge, 10, 20)},
		"c":     {gauge: points(gauge, 10)},
		"other": {gauge: points(gauge, 10, 20, 30, 40)},
	}, func(Series) []string { return []string{"a", "b", "c"} }, 2, 3)
	// 10 is on all, 20 on two of them, 30 on one, 40 on no owner, 50 need not be anywhere.
	wantFound(t, l, map[Kind]int{Lost: 2, Thin: 1, Duplicated: 1})
}

func TestCheckStrays(t *testing.T) {
	l := New()
	l.Send(at(10, 20, 30))
	l.Acknowledge(at(10, 20))
	l.CheckStrays(map[string]Answer{
		"a":     {gauge: points(gauge, 10, 20)},
		"other": {gauge: points(gauge, 10, 30)},
		"empty": {gauge: nil},
	}, func(Series) []string { return []string{"a", "b"} })
	wantFound(t, l, map[Kind]int{Stray: 2})
	if got := l.Sizes(); len(got) != 1 || got[gauge] != 2 {
		t.Errorf("acknowledged are %v, want 2 of %s", got, gauge)
	}
}

func TestCounts(t *testing.T) {
	l := New()
	l.Send(at(10, 20, 30))
	l.Send(at(10)) // a retry
	l.Acknowledge(at(10))
	l.Acknowledge(at(10))
	l.Refuse(at(10, 20, 30))
	l.Acknowledge(at(30)) // refused by one answer, taken by another
	if got, want := l.Counts(), (Counts{Sent: 3, Acknowledged: 2, Refused: 1}); got != want {
		t.Errorf("Counts = %+v, want %+v", got, want)
	}
	if mint, maxt := l.Span(); mint != 10 || maxt != 30 {
		t.Errorf("Span = %d to %d", mint, maxt)
	}
	if got := l.Series(); len(got) != 1 || got[0] != gauge {
		t.Errorf("Series = %v", got)
	}
}

// A value names its series and time: equal ones would hide an invention.
func TestValuesDiffer(t *testing.T) {
	seen := map[float64]Sample{}
	for _, shape := range []Shape{Gauge, Counter, Late, Native, Probe} {
		for sender := range 3 {
			for number := range 20 {
				s := Series{Shape: shape, Sender: sender, Number: number}
				for ts := int64(1_700_000_000_000); ts < 1_700_000_000_050; ts++ {
					v := s.PointAt(ts).V
					if was, twice := seen[v]; twice {
						t.Fatalf("%s and %s are both %v", was, Sample{s, ts}, v)
					}
					seen[v] = Sample{s, ts}
				}
			}
		}
	}
}

func TestLabels(t *testing.T) {
	s := Series{Shape: Native, Sender: 3, Number: 17}
	got, err := SeriesOf(s.Labels().Get)
	if err != nil || got != s {
		t.Errorf("SeriesOf(Labels) = %v, %v, want %v", got, err, s)
	}
	if _, err := SeriesOf(labels.FromStrings("sender", "x").Get); err == nil {
		t.Error("labels of nobody have a series")
	}
}
