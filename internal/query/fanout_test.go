package query

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/series"
)

// scattered fills one TSDB per node and one with what they hold together.
func scattered(t *testing.T, r *rand.Rand, nodes, n int) (dbs []*tsdb.DB, union *tsdb.DB) {
	t.Helper()
	for range nodes {
		dbs = append(dbs, openDB(t))
	}
	union = openDB(t)
	for i := range n {
		ls := labels.FromStrings(labels.MetricName, fmt.Sprintf("m%d", i%3), "instance", fmt.Sprintf("i%02d", i), "job", fmt.Sprintf("j%d", i%2))
		copies, want := scatter(r, nodes, 1+r.IntN(300))
		for node, samples := range copies {
			if r.IntN(3) == 0 { // late samples lie in chunks of their own
				r.Shuffle(len(samples), func(i, j int) { samples[i], samples[j] = samples[j], samples[i] })
			}
			appendAll(t, dbs[node], ls, samples)
		}
		appendAll(t, union, ls, want)
	}
	return dbs, union
}

func appendAll(t *testing.T, db *tsdb.DB, ls labels.Labels, samples []series.Sample) {
	t.Helper()
	for part := range slices.Chunk(samples, 50) {
		app := db.AppenderV2(t.Context())
		for _, s := range part {
			if _, err := app.Append(0, ls, s.ST, s.T, s.V, s.H, s.FH, storage.AppendV2Options{}); err != nil {
				t.Fatalf("appending %s: %v", show(s), err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

func sources(dbs []*tsdb.DB) []Source {
	var out []Source
	for _, db := range dbs {
		out = append(out, dbSource{DB: db})
	}
	return out
}

// What several TSDBs hold together reads as if one held it all: as samples, as chunks
// and through PromQL.
func TestFanoutEqualsOneTSDB(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			dbs, union := scattered(t, r, 3, 20)
			f := New(Options{View: fixed(1, sources(dbs)...)})

			for _, span := range [][2]int64{{minTime, maxTime}, {500, 2500}, {2000, 2000}} {
				wantOrder, want := selectAll(t, union, span[0], span[1], everything())
				gotOrder, got := selectAll(t, f, span[0], span[1], everything())
				if span[0] == minTime && !slices.EqualFunc(gotOrder, wantOrder, labels.Equal) {
					t.Fatalf("series: got %v, want %v", gotOrder, wantOrder)
				}
				for _, ls := range wantOrder {
					equalSamples(t, fmt.Sprintf("%s in %v", ls, span), got[ls.String()], want[ls.String()])
				}
				sameChunks(t, f, span, want)
			}
			samePromQL(t, f, union)
		})
	}
}

func sameChunks(t *testing.T, f *Fanout, span [2]int64, want map[string][]series.Sample) {
	t.Helper()
	q, err := f.ChunkQuerier(span[0], span[1])
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(t.Context(), true, nil, everything())
	for set.Next() {
		ls := set.At().Labels()
		var got []series.Sample
		it := set.At().Iterator(nil)
		for it.Next() {
			got = append(got, drain(t, it.At().Chunk.Iterator(nil))...)
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		equalSamples(t, fmt.Sprintf("chunks of %s in %v", ls, span), got, want[ls.String()])
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
}

func samePromQL(t *testing.T, f *Fanout, union *tsdb.DB) {
	t.Helper()
	engine := newEngine(t)
	for _, expr := range []string{
		`m0`, `sum by (job) (m1)`, `rate(m0[2s])`, `increase({__name__=~"m.*"}[1s])`, `histogram_quantile(0.9, m2)`,
		`histogram_sum(rate(m1[3s]))`, `count_over_time(m2[500ms])`, `last_over_time(m0[1s])`, `changes(m1[4s])`, `absent(m9)`,
	} {
		run := func(q storage.Queryable) string {
			query, err := engine.NewRangeQuery(t.Context(), q, nil, expr, timestamp.Time(0), timestamp.Time(5000), 200*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			defer query.Close()
			res := query.Exec(t.Context())
			if res.Err != nil {
				return "error " + res.Err.Error()
			}
			return res.String()
		}
		if got, want := run(f), run(union); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", expr, got, want)
		}
	}
}

// Whatever is on two of three nodes is read while any one of them is away.
func TestFanoutWithOneNodeAway(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	dbs := []*tsdb.DB{openDB(t), openDB(t), openDB(t)}
	want := map[string][]series.Sample{}
	for i := range 10 {
		ls := labels.FromStrings(labels.MetricName, "m", "i", fmt.Sprint(i))
		var all []series.Sample
		for ts := range int64(200) {
			all = append(all, series.Sample{T: ts * 15, V: r.Float64()})
		}
		want[ls.String()] = all
		for node, db := range dbs {
			appendAll(t, db, ls, slices.DeleteFunc(slices.Clone(all), func(s series.Sample) bool { return int(s.T/15)%3 == node }))
		}
	}
	for away := range dbs {
		nodes := sources(dbs)
		nodes[away] = failing{err: errDown}
		_, got := selectAll(t, New(Options{View: fixed(2, nodes...)}), 0, 5000, everything())
		for ls, samples := range want {
			equalSamples(t, fmt.Sprintf("%s without n%d", ls, away), got[ls], samples)
		}
	}
}

func TestSelectHints(t *testing.T) {
	dbs := []*tsdb.DB{openDB(t), openDB(t), openDB(t)}
	for i := range 30 {
		for node, db := range dbs {
			if i%3 != node {
				write(t, db, labels.FromStrings(labels.MetricName, "m", "i", fmt.Sprintf("%02d", i)), series.Sample{T: 1000, V: float64(i)})
			}
		}
	}
	f := New(Options{View: fixed(1, sources(dbs)...)})
	q, err := f.Querier(0, 5000)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	names := func(hints *storage.SelectHints) (out []string) {
		set := q.Select(t.Context(), false, hints, everything())
		for set.Next() {
			out = append(out, set.At().Labels().Get("i"))
			if n := len(drain(t, set.At().Iterator(nil))); hints.Func == "series" && n > 0 {
				t.Errorf("got %d samples where only labels are wanted", n)
			}
		}
		if set.Err() != nil {
			t.Fatal(set.Err())
		}
		return out
	}
	if got, want := names(&storage.SelectHints{End: 5000, Limit: 4}), []string{"00", "01", "02", "03"}; !slices.Equal(got, want) {
		t.Errorf("limit: got %v, want %v", got, want)
	}
	if got := names(&storage.SelectHints{End: 5000, Func: "series"}); len(got) != 30 {
		t.Errorf("labels only: got %d series, want 30", len(got))
	}
	var shards []string
	for i := range uint64(4) {
		shards = append(shards, names(&storage.SelectHints{End: 5000, ShardCount: 4, ShardIndex: i})...)
	}
	slices.Sort(shards)
	if got := len(slices.Compact(shards)); got != 30 || len(shards) != 30 {
		t.Errorf("shards: got %d series, %d of them distinct, want 30", len(shards), got)
	}
}

func TestLabels(t *testing.T) {
	dbs := []*tsdb.DB{openDB(t), openDB(t)}
	for node, db := range dbs {
		for i := range 4 {
			v := fmt.Sprint(2*i + node)
			write(t, db, labels.FromStrings(labels.MetricName, "m", "v", v, "only"+fmt.Sprint(node), "x"), series.Sample{T: 1})
		}
		write(t, db, labels.FromStrings(labels.MetricName, "both", "v", "0"), series.Sample{T: 1})
	}
	q, err := New(Options{View: fixed(1, sources(dbs)...)}).Querier(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	m := labels.MustNewMatcher(labels.MatchEqual, labels.MetricName, "m")
	for _, c := range []struct {
		name  string
		limit int
		ms    []*labels.Matcher
		want  []string
	}{
		{"names", 0, nil, []string{"__name__", "only0", "only1", "v"}},
		{"names", 2, nil, []string{"__name__", "only0"}},
		{"values", 0, nil, []string{"0", "1", "2", "3", "4", "5", "6", "7"}},
		{"values", 3, nil, []string{"0", "1", "2"}},
		{"values", 0, []*labels.Matcher{m, labels.MustNewMatcher(labels.MatchEqual, "only1", "x")}, []string{"1", "3", "5", "7"}},
	} {
		var got []string
		var err error
		if c.name == "names" {
			got, _, err = q.LabelNames(t.Context(), &storage.LabelHints{Limit: c.limit}, c.ms...)
		} else {
			got, _, err = q.LabelValues(t.Context(), "v", &storage.LabelHints{Limit: c.limit}, c.ms...)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s, limit %d: got %v, %v, want %v", c.name, c.limit, got, err, c.want)
		}
	}
}

func TestExemplars(t *testing.T) {
	a, b := labels.FromStrings(labels.MetricName, "a"), labels.FromStrings(labels.MetricName, "b")
	e := func(ts int64, v float64) exemplar.Exemplar {
		return exemplar.Exemplar{Labels: labels.FromStrings("trace", "x"), Value: v, Ts: ts, HasTs: true}
	}
	dbs := []*tsdb.DB{openDB(t), openDB(t)}
	add := func(db *tsdb.DB, ls labels.Labels, es ...exemplar.Exemplar) {
		t.Helper()
		app := db.AppenderV2(t.Context())
		if _, err := app.Append(0, ls, 0, 100, 1, nil, nil, storage.AppendV2Options{Exemplars: es}); err != nil {
			t.Fatal(err)
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	add(dbs[0], b, e(1, 1), e(3, 3))
	add(dbs[1], b, e(2, 2), e(3, 3), e(3, 4))
	add(dbs[1], a, e(9, 9))
	q, err := New(Options{View: fixed(1, sources(dbs)...)}).ExemplarQuerier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := q.Select(0, 100, []*labels.Matcher{everything()})
	if err != nil {
		t.Fatal(err)
	}
	want := []exemplar.QueryResult{
		{SeriesLabels: a, Exemplars: []exemplar.Exemplar{e(9, 9)}},
		{SeriesLabels: b, Exemplars: []exemplar.Exemplar{e(1, 1), e(2, 2), e(3, 3), e(3, 4)}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestStats(t *testing.T) {
	dbs := []*tsdb.DB{openDB(t), openDB(t), openDB(t)}
	for i := range 60 { // two copies each
		ls := labels.FromStrings(labels.MetricName, fmt.Sprintf("m%d", i%2), "i", fmt.Sprint(i), "job", "j")
		for node, db := range dbs {
			if i/2%3 != node {
				write(t, db, ls, series.Sample{T: int64(i)})
			}
		}
	}
	f := New(Options{View: func() (View, error) {
		return View{Epoch: 1, Quorum: 2, Copies: 2, Nodes: nodesOf(sources(dbs)...)}, nil
	}})
	got, _, err := f.Stats(t.Context(), labels.MetricName, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got.NumSeries != 60 || got.MinTime != 0 || got.MaxTime != 59 {
		t.Errorf("got %d series in [%d, %d], want 60 in [0, 59]", got.NumSeries, got.MinTime, got.MaxTime)
	}
	p := got.IndexPostingStats
	if got, want := fmt.Sprint(p.CardinalityMetricsStats), "[{m0 30} {m1 30}]"; got != want {
		t.Errorf("metrics: got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(p.LabelValuePairsStats), "[{job=j 60} {__name__=m0 30}]"; got != want {
		t.Errorf("pairs: got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(p.CardinalityLabelStats), "[{i 40} {__name__ 2}]"; got != want {
		t.Errorf("labels: got %s, want %s", got, want)
	}
}
