package node

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// TestRandomLabels asks a cluster and a single TSDB of Prometheus with the same series for random
// lists of labels and of series. Over all time the answers are the same. Of a part of it Prometheus
// itself lists more than what has samples then, by the bounds of its blocks and chunks: every
// label has to be there that has, and none that no series has.
//
// With STARLING_QUERIES=100000 it asks so many.
func TestRandomLabels(t *testing.T) {
	var seen randomLabelCounts
	runRandomQueries(t, 2, 200, func(r *randomQueries, n int) {
		for i := range n {
			if r.seed%2 == 1 && i%4 == 0 {
				r.suspect()
			}
			r.askLabels(&seen)
		}
	})
	seen.report(t)
}

// TestRandomLabelsWhileNodesFail is TestRandomLabels with nodes that fail and join meanwhile.
func TestRandomLabelsWhileNodesFail(t *testing.T) {
	var seen randomLabelCounts
	runRandomQueries(t, 1, 160, func(r *randomQueries, n int) {
		r.inTrouble(n, func() { r.askLabels(&seen) })
	})
	seen.report(t)
}

// randomLabelCounts count answers: all, those that did not come, those over a part of the time, and of
// those which Prometheus answers with the same; and those that were cut.
type randomLabelCounts struct{ asked, incomplete, partly, same, cut atomic.Int64 }

func (c *randomLabelCounts) report(t *testing.T) {
	t.Logf("%d lists, of which %d were cut; %d more were not complete; of %d over a part of the time %d are those of Prometheus",
		c.asked.Load(), c.cut.Load(), c.incomplete.Load(), c.partly.Load(), c.same.Load())
	if c.asked.Load() < 3*c.incomplete.Load() || c.cut.Load() == 0 {
		t.Error("too few answers to compare")
	}
	if 10*c.same.Load() < 8*c.partly.Load() {
		t.Error("more differ from Prometheus over a part of the time than differences of bounds explain")
	}
}

// labelRequest is a list of labels to ask for.
type labelRequest struct {
	// name is that of the label whose values are asked for, "" for names.
	name   string
	series bool
	match  []string
	sets   [][]*labels.Matcher
	// mint and maxt are in milliseconds; all time if they are 0.
	mint, maxt int64
	limit      int
}

func (q *labelRequest) String() string { return q.path() + "?" + q.form().Encode() }

func (q *labelRequest) path() string {
	switch {
	case q.series:
		return "/api/v1/series"
	case q.name == "":
		return "/api/v1/labels"
	}
	return "/api/v1/label/" + q.name + "/values"
}

func (q *labelRequest) form() url.Values {
	form := url.Values{"match[]": q.match}
	if q.mint > 0 {
		form.Set("start", strconv.FormatFloat(float64(q.mint)/1000, 'f', 3, 64))
		form.Set("end", strconv.FormatFloat(float64(q.maxt)/1000, 'f', 3, 64))
	}
	if q.limit > 0 {
		form.Set("limit", strconv.Itoa(q.limit))
	}
	return form
}

func (r *randomQueries) nextLabels() *labelRequest {
	q := &labelRequest{name: []string{"", "", "__name__", "job", "instance", "path", "le", "none"}[r.rng.IntN(8)], series: r.rng.IntN(3) == 0}
	for n := r.rng.IntN(4); n > 0 || q.series && len(q.match) == 0; n-- {
		text := r.selector()
		set := r.parseSelector(text)
		if !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches("") }) {
			text = strings.TrimSuffix(text, "}") + `,__name__!=""}` // or it is refused
			set = r.parseSelector(text)
		}
		q.match, q.sets = append(q.match, text), append(q.sets, set)
	}
	if r.rng.IntN(2) == 0 {
		q.mint = r.data.start - 600_000 + r.rng.Int64N(r.data.end-r.data.start+1_200_000)
		q.maxt = q.mint + r.rng.Int64N(3_600_000)
	}
	if r.rng.IntN(2) == 0 {
		q.limit = 1 + r.rng.IntN(12)
	}
	return q
}

func (r *randomQueries) parseSelector(text string) []*labels.Matcher {
	r.Helper()
	set, err := r.parser.ParseMetricSelector(text)
	if err != nil {
		r.Fatalf("%s: %v", text, err)
	}
	return set
}

// selector has some of the labels of some series.
func (r *randomQueries) selector() string {
	var texts []string
	r.data.series[r.rng.IntN(len(r.data.series))].labels.Range(func(l labels.Label) {
		if r.rng.IntN(2) == 0 {
			return
		}
		op, value := "=", l.Value
		switch r.rng.IntN(6) {
		case 0:
			op = "!="
		case 1:
			op, value = "=~", []string{".+", ".*", "", regexp.QuoteMeta(l.Value) + "|x", ".*" + regexp.QuoteMeta(l.Value[:1]) + ".*"}[r.rng.IntN(5)]
		case 2:
			op, value = "!~", []string{".+", "", regexp.QuoteMeta(l.Value) + "|x"}[r.rng.IntN(3)]
		}
		texts = append(texts, l.Name+op+strconv.Quote(value))
	})
	if len(texts) == 0 {
		texts = []string{`job=~".+"`}
	}
	return "{" + strings.Join(texts, ",") + "}"
}

// askLabels compares one answer.
func (r *randomQueries) askLabels(seen *randomLabelCounts) {
	r.Helper()
	q := r.nextLabels()
	got, cut, ok := r.labelAnswer(q)
	if !ok {
		seen.incomplete.Add(1)
		return
	}
	seen.asked.Add(1)
	if cut {
		seen.cut.Add(1)
	}
	if q.limit > 0 && (len(got) > q.limit || cut && len(got) < q.limit) {
		r.Errorf("%s: %d, cut %v", q, len(got), cut)
	}
	first := func(all []string) []string {
		if q.limit > 0 {
			return all[:min(q.limit, len(all))]
		}
		return all
	}
	want := r.ofOracle(q)
	if q.mint == 0 {
		if !slices.Equal(got, first(want)) || cut != (len(first(want)) < len(want)) {
			r.Errorf("%s: cut %v, got\n%q, want\n%q", q, cut, got, want)
		}
		return
	}
	seen.partly.Add(1)
	if slices.Equal(got, first(want)) {
		seen.same.Add(1)
	}
	r.between(q, got, cut)
}

// between checks an answer over a part of the time.
func (r *randomQueries) between(q *labelRequest, got []string, cut bool) {
	r.Helper()
	must := r.ofData(q, func(s *randomSeries) bool {
		return slices.ContainsFunc(s.samples, func(x series.Sample) bool { return q.mint <= x.T && x.T <= q.maxt })
	})
	may := r.ofData(q, func(s *randomSeries) bool {
		// Blocks and heads have all labels of theirs, a series at least those of its chunks.
		return !q.series || s.samples[0].T <= q.maxt && q.mint <= s.samples[len(s.samples)-1].T
	})
	for _, v := range got {
		if !slices.Contains(may, v) {
			r.Errorf("%s: no series has %q", q, v)
		}
	}
	for _, v := range must {
		if beyond := cut && v > got[len(got)-1]; !beyond && !slices.Contains(got, v) {
			r.Errorf("%s: %q lack %q", q, got, v)
		}
	}
}

// labelAnswer asks one of the nodes, and tells whether the answer was cut and whether it is complete.
func (r *randomQueries) labelAnswer(q *labelRequest) (got []string, cut, ok bool) {
	r.Helper()
	m := r.nodes[r.asks[r.rng.IntN(len(r.asks))]]
	resp, err := m.http.Get("http://" + m.ip + ":9080" + q.String())
	if err != nil {
		return nil, false, false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusServiceUnavailable {
		return nil, false, false
	}
	var a struct {
		Data     json.RawMessage
		Warnings []string
	}
	if err := json.Unmarshal(body, &a); err != nil || resp.StatusCode != http.StatusOK {
		r.Fatalf("%s: %v, %d %q", q, err, resp.StatusCode, body)
	}
	if !q.series {
		err = json.Unmarshal(a.Data, &got)
	} else {
		var all []map[string]string
		err = json.Unmarshal(a.Data, &all)
		for _, s := range all {
			got = append(got, orderedText(labels.FromMap(s)))
		}
	}
	if err != nil {
		r.Fatalf("%s: %v in %q", q, err, body)
	}
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) < len(got) {
		r.Errorf("%s: not in order, or twice: %q", q, got)
	}
	return got, slices.Contains(a.Warnings, "results truncated due to limit"), true
}

// orderedText is text in the order of labels.Compare.
func orderedText(ls labels.Labels) string {
	var b strings.Builder
	ls.Range(func(l labels.Label) { fmt.Fprintf(&b, "%s\x00%s\x00", l.Name, l.Value) })
	return b.String()
}

// ofOracle is what Prometheus answers, without a limit.
func (r *randomQueries) ofOracle(q *labelRequest) []string {
	r.Helper()
	mint, maxt := q.mint, q.maxt
	if mint == 0 {
		mint, maxt = math.MinInt64, math.MaxInt64
	}
	querier, err := r.db.Querier(mint, maxt)
	if err != nil {
		r.Fatal(err)
	}
	defer querier.Close()
	sets := q.sets
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	all := []string{}
	for _, set := range sets {
		set = slices.Clone(set)
		var found []string
		switch {
		case q.series:
			selected := querier.Select(r.Context(), true, &promstorage.SelectHints{Start: mint, End: maxt, Func: "series"}, set...)
			for selected.Next() {
				found = append(found, orderedText(selected.At().Labels()))
			}
			err = selected.Err()
		case q.name == "":
			found, _, err = querier.LabelNames(r.Context(), nil, set...)
		default:
			found, _, err = querier.LabelValues(r.Context(), q.name, nil, set...)
		}
		if err != nil {
			r.Fatal(err)
		}
		for _, v := range found {
			all = append(all, strings.Clone(v))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ofData lists those of the series that were written which match and are told.
func (r *randomQueries) ofData(q *labelRequest, told func(*randomSeries) bool) (all []string) {
	for _, s := range r.data.series {
		matched := len(q.sets) == 0 || slices.ContainsFunc(q.sets, func(set []*labels.Matcher) bool {
			return !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) })
		})
		if !matched || !told(s) {
			continue
		}
		switch {
		case q.series:
			all = append(all, orderedText(s.labels))
		case q.name != "":
			if v := s.labels.Get(q.name); v != "" {
				all = append(all, v)
			}
		default:
			s.labels.Range(func(l labels.Label) { all = append(all, l.Name) })
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
