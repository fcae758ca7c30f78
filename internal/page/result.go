package page

import (
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/readable"
)

// graphView is the answer to a query as the page shows it.
type graphView struct {
	Error, ErrorType string
	Warnings, Infos  []string
	// Ranges are links to the same query of other ranges, Earlier and Later to other times.
	Ranges         []rangeLink
	Earlier, Later string
	From, To, Step string
	Raised         bool
	Took           string
	// Answered tells whether there is an answer, of how many series.
	Answered, Instant bool
	Series            string
	Wide, Narrow      template.HTML
	// Undrawn and Unlisted are how many series are not in the chart and not in the table.
	Drawn, Undrawn, Unlisted int
	Rows                     []seriesRow
}

type rangeLink struct {
	Text, URL string
	Current   bool
}

// seriesRow is a series and its values: over time, or one with its time.
type seriesRow struct {
	// Color is the number of its line, -1 if it is not drawn.
	Color                       int
	Name                        string
	Labels                      []label
	Value, Min, Max, Mean, Time string
}

type label struct{ Name, Value string }

func (v *graphView) links(f form, s span) {
	for _, r := range ranges {
		v.Ranges = append(v.Ranges, rangeLink{r, f.link(func(f *form) { f.Range, f.Step, f.Instant = r, "", false }), r == f.Range && !f.Instant})
	}
	length := s.end.Sub(s.begin)
	to := func(t time.Time) string {
		return f.link(func(f *form) { f.End = t.UTC().Truncate(time.Second).Format(time.RFC3339) })
	}
	v.Earlier, v.Later = to(s.end.Add(-length/2)), to(s.end.Add(length/2))
	v.From, v.To, v.Step, v.Raised, v.Instant = s.begin.UTC().Format(readable.Clock), s.end.UTC().Format(readable.Clock), s.step.String(), s.raised, f.Instant
}

// point is a value at a time: in seconds, and as the API writes it.
type point struct {
	at   float64
	text string
}

// UnmarshalJSON reads [time, "value"], and of a histogram its count and its sum.
func (p *point) UnmarshalJSON(b []byte) error {
	var raw [2]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw[0], &p.at); err != nil {
		return err
	}
	if json.Unmarshal(raw[1], &p.text) == nil {
		return nil
	}
	var h struct{ Count, Sum string }
	if err := json.Unmarshal(raw[1], &h); err != nil {
		return err
	}
	p.text = fmt.Sprintf("histogram of %s, sum %s", h.Count, h.Sum)
	return nil
}

// value is the number of a point, NaN for a histogram.
func (p point) value() float64 {
	f, err := strconv.ParseFloat(p.text, 64)
	if err != nil {
		return math.NaN()
	}
	return f
}

// result is a series of an answer, of any type.
type result struct {
	Metric     map[string]string
	Value      *point
	Values     []point
	Histogram  *point
	Histograms []point
}

// fill puts an answer into rows, and draws it.
func (v *graphView) fill(a answer, s span) error {
	v.Answered = true
	var list []result
	switch a.Data.ResultType {
	case "scalar", "string":
		list = make([]result, 1)
		if err := json.Unmarshal(a.Data.Result, &list[0].Value); err != nil {
			return err
		}
	default:
		if err := json.Unmarshal(a.Data.Result, &list); err != nil {
			return err
		}
	}
	v.Series = fmt.Sprintf("%d series", len(list))
	if len(list) >= mostSeries {
		v.Series = fmt.Sprintf("%d series or more", len(list))
	}
	var lines []line
	for i, r := range list {
		color := -1
		if !v.Instant && len(lines) < mostLines && len(r.Values) > 0 {
			color = len(lines)
			lines = append(lines, line(r.Values))
		}
		if i < mostRows {
			v.Rows = append(v.Rows, rowOf(r, color))
		}
	}
	v.Unlisted = len(list) - len(v.Rows)
	if v.Instant || len(lines) == 0 {
		return nil
	}
	v.Drawn, v.Undrawn = len(lines), len(list)-len(lines)
	var err error
	if v.Wide, err = chart(lines, s, 960, 300); err != nil {
		return err
	}
	v.Narrow, err = chart(lines, s, 380, 260)
	return err
}

func rowOf(r result, color int) seriesRow {
	row := seriesRow{Color: color, Name: r.Metric["__name__"]}
	for name, value := range r.Metric {
		if name != "__name__" {
			row.Labels = append(row.Labels, label{name, value})
		}
	}
	slices.SortFunc(row.Labels, func(a, b label) int { return strings.Compare(a.Name, b.Name) })
	all := append(slices.Clone(r.Values), r.Histograms...)
	for _, p := range []*point{r.Value, r.Histogram} {
		if p != nil {
			all = append(all, *p)
		}
	}
	if len(all) == 0 {
		return row
	}
	slices.SortStableFunc(all, func(a, b point) int { return int(math.Copysign(1, a.at-b.at)) })
	last := all[len(all)-1]
	row.Value, row.Time = short(last.text), time.UnixMilli(int64(last.at*1000)).UTC().Format(readable.Clock)
	least, most, sum, n := math.Inf(1), math.Inf(-1), 0.0, 0
	for _, p := range r.Values {
		if f := p.value(); !math.IsNaN(f) {
			least, most, sum, n = min(least, f), max(most, f), sum+f, n+1
		}
	}
	if n > 0 {
		row.Min, row.Max, row.Mean = number(least), number(most), number(sum/float64(n))
	}
	return row
}

// short renders a value as the API writes it in at most nine digits.
func short(text string) string {
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		return number(f)
	}
	return text
}

// number renders a value in at most nine digits, which are told from each other where there are
// many of them.
func number(f float64) string {
	s := strconv.FormatFloat(f, 'g', 9, 64)
	if strings.ContainsAny(s, "eIN") {
		return s
	}
	whole, part, _ := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "\u202f" + whole[i:]
	}
	if part != "" {
		part = "." + part
	}
	return sign + whole + part
}
