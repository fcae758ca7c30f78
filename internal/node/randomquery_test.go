package node

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/storage"
)

var queriesSeed = flag.Uint64("queries.seed", 0, "the one data set of TestRandomQueries to query, 0 for as many as usual")

// keptQueries once showed a difference; they are asked with any data.
var keptQueries = []string{
	"histogram_quantile(0.9, (sum(memory_bytes)))", // where the warning is
	"group(typed_total + -1)",                      // the text of the error
}

// TestRandomQueries asks a cluster and a single TSDB of Prometheus with the same samples random
// queries, and wants the same answers.
//
// With STARLING_QUERIES=100000 it asks so many.
func TestRandomQueries(t *testing.T) {
	runRandomQueries(t, 3, 160, (*randomQueries).askAll)
}

// TestRandomQueriesWhileNodesFail is TestRandomQueries with nodes that fail and join
// meanwhile. Who asks may be told that an answer would not be complete.
func TestRandomQueriesWhileNodesFail(t *testing.T) {
	runRandomQueries(t, 1, 160, (*randomQueries).askInTrouble)
}

// runRandomQueries asks so many queries each of so many data sets, unless it is told otherwise.
func runRandomQueries(t *testing.T, seeds, each int, ask func(r *randomQueries, queries int)) {
	first := 1
	if text := os.Getenv("STARLING_QUERIES"); text != "" {
		total, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("STARLING_QUERIES: %v", err)
		}
		each = min(total, 2500)
		seeds = (total + each - 1) / each
		first = int(time.Now().UnixNano())
	} else if testing.Short() {
		each /= 4
	}
	if *queriesSeed > 0 {
		first, seeds = int(*queriesSeed), 1
	}
	var seen randomQueryCounts
	t.Run("data", func(t *testing.T) {
		for seed := uint64(first); seed < uint64(first+seeds); seed++ {
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := newRandomQueries(t, seed, &seen)
					ask(r, each)
					for _, m := range r.nodes {
						seen.divergent.Add(int64(m.metric(t, "starling_query_divergent_series_total")))
						const reads = "starling_query_fanout_requests_total"
						seen.nearby.Add(int64(m.metric(t, "starling_query_nearby_reads_total", "complete")))
						seen.evaluated.Add(int64(m.metric(t, reads, "evaluate") - m.metric(t, reads, "unproven")))
					}
				})
			})
		}
	})
	seen.report(t)
}

// randomQueryCounts are of all data sets.
type randomQueryCounts struct {
	// open are those whose answer Prometheus leaves open, in part at least.
	asked, data, failed, open, incomplete, samples atomic.Int64
	// divided are those of data sets where more than next to nothing is divided among nodes, and evaluated
	// there.
	divided atomic.Int64
	// divergent counts series read whose copies were different, evaluated the fragments that
	// nodes evaluated where their series are, nearby what the node that was asked read alone.
	divergent, evaluated, nearby atomic.Int64
}

func (c *randomQueryCounts) report(t *testing.T) {
	asked, data, incomplete := c.asked.Load(), c.data.Load(), c.incomplete.Load()
	t.Logf("%d pairs of answers: %d with data (%d values), %d with the same error, %d open in part; %d more were not complete; %d fragments were evaluated in parts; %d reads were nearby; copies of %d series differed",
		asked, data, c.samples.Load(), c.failed.Load(), c.open.Load(), incomplete, c.evaluated.Load(), c.nearby.Load(), c.divergent.Load())
	if *queriesSeed == 0 && 10*c.evaluated.Load() < c.divided.Load() { // one data set may have next to none
		t.Errorf("only %d fragments were evaluated in parts", c.evaluated.Load())
	}
	if 2*data < asked {
		t.Errorf("only %d of %d answers have data", data, asked)
	}
	if incomplete > asked {
		t.Errorf("only %d answers of %d were complete", asked, asked+incomplete)
	}
}

// randomQuery is a query and when it is asked for, in milliseconds. Step is 0 for an instant.
type randomQuery struct {
	text             string
	start, end, step int64
	lookback         int64 // 0 for the default
}

func (q randomQuery) String() string {
	return fmt.Sprintf("%q from %d to %d step %d ms, lookback %d", q.text, q.start, q.end, q.step, q.lookback)
}

// randomQueries is a cluster and a TSDB with the same data.
type randomQueries struct {
	*flock
	seed   uint64
	rng    *rand.Rand
	data   *dataset
	parser parser.Parser
	gen    *queryGenerator
	engine *promql.Engine
	db     *tsdb.DB
	seen   *randomQueryCounts
	// asks are the nodes that are asked, by name.
	asks []string
	// whole is set where a feature changes what functions give: nothing is evaluated in parts.
	whole bool
}

func newRandomQueries(t *testing.T, seed uint64, seen *randomQueryCounts) *randomQueries {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 12))
	r := &randomQueries{flock: newFlock(t), seed: seed, rng: rng, seen: seen, asks: []string{"a", "b", "c"}}
	if seed%3 == 2 {
		r.asks = []string{"a", "b", "c", "d", "e"}
	}
	for feature, on := range map[string]bool{
		"promql-experimental-functions": seed%2 == 0, "promql-delayed-name-removal": seed%6 == 5, "type-and-unit-labels": seed%10 == 9,
	} {
		if on {
			r.features = append(r.features, feature)
			r.whole = r.whole || feature != "promql-experimental-functions"
		}
	}
	block := tsdb.DefaultBlockDuration
	if seed%3 == 1 {
		block = (16 * time.Minute).Milliseconds()
	}
	r.tune = func(o *storage.Options) {
		o.MinBlockDuration, o.WALSync = time.Duration(block)*time.Millisecond, storage.SyncOff
	}
	// Some divide all, some what is more than a few series, some next to nothing.
	r.nearbyWork = []int{-1, 60, 0}[seed%3]
	r.net.SetLatency(0)
	r.openOracle(block)
	now := time.Now().Add(time.Minute) // whenever the nodes are ready
	members := r.fresh(r.asks...)
	<-time.After(time.Until(now))
	r.data = newDataset(rng, now)
	t.Log(r.data)
	batches := r.data.batches()
	for i, b := range batches {
		if i == len(batches)-2 {
			r.compact(seed%3 == 1)
		}
		m, away := members[i%len(members)], members[(i+1)%len(members)]
		if seed%2 == 1 {
			// It gets its copies later, in other chunks; the last ones not before it is asked.
			r.isolate(away, r.asks)
		}
		r.write(m, b)
		r.net.Heal()
	}
	return r
}

func (r *randomQueries) openOracle(block int64) {
	r.Helper()
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = (3 * time.Hour).Milliseconds()
	opts.MinBlockDuration = block
	db, err := tsdb.Open(r.TempDir(), nil, nil, opts, nil)
	if err != nil {
		r.Fatal(err)
	}
	db.DisableCompactions()
	r.db = db
	r.Cleanup(func() {
		if err := db.Close(); err != nil {
			r.Error(err)
		}
	})
	f := api.ParsePromQLFeatures(r.features)
	r.parser = parser.NewParser(f.Parser)
	r.gen = &queryGenerator{rng: r.rng, parser: r.parser, experimental: f.Parser.EnableExperimentalFunctions}
	r.engine = promql.NewEngine(promql.EngineOpts{
		MaxSamples: math.MaxInt, Timeout: time.Hour, EnableAtModifier: true, EnableNegativeOffset: true, Parser: r.parser,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		EnableDelayedNameRemoval: f.DelayedNameRemoval, EnableTypeAndUnitLabels: f.TypeAndUnitLabels,
	})
}

// write writes a batch to both.
func (r *randomQueries) write(m *member, b *series.Batch) {
	r.Helper()
	app := r.db.AppenderV2(r.Context())
	for _, s := range b.Series {
		for _, x := range s.Samples {
			if x.H != nil {
				x.H = x.H.Copy()
			}
			if x.FH != nil {
				x.FH = x.FH.Copy()
			}
			if _, err := app.Append(0, s.Labels, 0, x.T, x.V, x.H, x.FH, promstorage.AOptions{}); err != nil {
				r.Fatalf("%s at %d: %v", s.Labels, x.T, err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		r.Fatal(err)
	}
	if res, err := m.writes.Write(r.Context(), b); err != nil || len(res.Refused) > 0 {
		r.Fatalf("%v, refused %+v", err, res.Refused)
	}
}

// compact has the TSDB cut blocks, as compacting while samples come in can lose it chunks of
// its head, and waits until the nodes have, too, if there is anything to cut.
func (r *randomQueries) compact(cuts bool) {
	r.Helper()
	if err := r.db.Compact(r.Context()); err != nil {
		r.Fatal(err)
	}
	if cuts {
		<-time.After(3 * time.Minute)
	}
}

// isolate cuts a node off from those of other names.
func (r *randomQueries) isolate(m *member, names []string) {
	var ips []string
	for _, name := range names {
		if name != m.name {
			ips = append(ips, r.nodes[name].ip)
		}
	}
	r.net.Partition([]string{m.ip}, ips)
}

// askAll asks queries that were kept, and so many random ones.
func (r *randomQueries) askAll(queries int) {
	r.Helper()
	for _, text := range keptQueries {
		if _, err := r.parser.ParseExpr(text); err == nil {
			r.ask(randomQuery{text: text, start: r.data.start, end: r.data.end, step: 61_000})
			r.ask(randomQuery{text: text, start: r.data.end, end: r.data.end})
		}
	}
	for i := range queries {
		if r.seed%2 == 1 && i%4 == 0 {
			r.suspect()
		}
		r.ask(r.next())
		if r.Failed() {
			break
		}
	}
}

// suspect has each node be noted to lack something, so that copies are read together and
// merged, until they have seen to it.
func (r *randomQueries) suspect() {
	r.Helper()
	for i, name := range r.asks {
		peer := r.nodes[r.asks[(i+1)%len(r.asks)]]
		if err := r.nodes[name].gaps.Note(r.Context(), peer.cluster.Self(), r.data.start); err != nil {
			r.Fatal(err)
		}
	}
}

// next makes a query. Some begin before the data, and end after it.
func (r *randomQueries) next() randomQuery {
	q := randomQuery{text: r.gen.query()}
	q.start = r.data.start + r.rng.Int64N(r.data.end-r.data.start)
	switch r.rng.IntN(25) {
	case 0:
		q.start = r.data.start - r.rng.Int64N(10*time.Minute.Milliseconds())
	case 1:
		q.start = r.data.end + r.rng.Int64N(7*time.Minute.Milliseconds())
	}
	switch r.rng.IntN(5) {
	case 0, 1:
		q.start -= q.start % 15_000
	case 2: // exactly at a sample, or where one falls out of a range
		of := r.data.series[r.rng.IntN(len(r.data.series))].samples
		q.start = of[r.rng.IntN(len(of))].T + []int64{0, 0, 60_000, 300_000, 299_999, 59_999}[r.rng.IntN(6)]
	}
	if r.rng.IntN(25) == 0 {
		q.lookback = []int64{10_000, 60_000, 900_000}[r.rng.IntN(3)]
	}
	q.end = q.start
	if r.rng.IntN(4) == 0 {
		return q
	}
	// Between the longest ones lie whole chunks that no step looks at.
	q.step = []int64{1000, 5000, 15_000, 30_000, 60_000, 300_000, 7300, 15_001, 900_000, 1_700_000}[r.rng.IntN(10)]
	steps := int64(r.rng.IntN(40))
	if r.rng.IntN(20) == 0 {
		steps = int64(r.rng.IntN(400))
	}
	q.end += steps*q.step + r.rng.Int64N(q.step)
	return q
}

// ask compares the answers to a query, and shrinks it where they differ.
func (r *randomQueries) ask(q randomQuery) {
	r.Helper()
	got, ok := r.answer(q)
	if !ok {
		r.seen.incomplete.Add(1)
		return
	}
	want := r.want(q, nil)
	r.seen.asked.Add(1)
	if r.nearbyWork != 0 && !r.whole {
		r.seen.divided.Add(1)
	}
	switch n := want.len(); {
	case want.errKind != "":
		r.seen.failed.Add(1)
	case n > 0:
		r.seen.data.Add(1)
		r.seen.samples.Add(int64(n))
	}
	if got.differs(want, r.ordered(q)) == "" {
		return
	}
	difference := r.differs(q)
	if difference == "" {
		r.seen.open.Add(1)
		return
	}
	shrunk, difference := shrink(r.parser, q, difference, r.differs)
	r.Errorf("%s\n%s\nshrunk from %s\nto repeat it: go test -run '%s' ./internal/node -queries.seed %d", shrunk, difference, q, r.Name(), r.seed)
}

func (r *randomQueries) ordered(q randomQuery) bool {
	expr, err := r.parser.ParseExpr(q.text)
	return err == nil && q.step == 0 && ordered(expr)
}

// differs tells how the cluster's answer differs from any that Prometheus may give.
func (r *randomQueries) differs(q randomQuery) string {
	const orders = 24
	got, ok := r.answer(q)
	if !ok {
		return ""
	}
	wants := []*queryAnswer{r.want(q, nil)}
	for i := range uint64(orders) {
		wants = append(wants, r.want(q, rand.New(rand.NewPCG(i, 1))))
	}
	return got.differsFromAll(wants, r.ordered(q))
}

// want asks the TSDB, that answers its series in a random order if there is one.
func (r *randomQueries) want(q randomQuery, order *rand.Rand) *queryAnswer {
	r.Helper()
	var source promstorage.Queryable = r.db
	if order != nil {
		source = shuffled{r.db, order}
	}
	var (
		query promql.Query
		err   error
		opts  = promql.NewPrometheusQueryOpts(false, time.Duration(q.lookback)*time.Millisecond)
	)
	if q.step == 0 {
		query, err = r.engine.NewInstantQuery(r.Context(), source, opts, q.text, time.UnixMilli(q.start))
	} else {
		query, err = r.engine.NewRangeQuery(r.Context(), source, opts, q.text, time.UnixMilli(q.start), time.UnixMilli(q.end), time.Duration(q.step)*time.Millisecond)
	}
	if err != nil {
		return &queryAnswer{errKind: "bad_data", err: fmt.Sprintf("invalid parameter %q: %v", "query", err)}
	}
	defer query.Close()
	return answerOf(q.text, query.Exec(r.Context()))
}

// answer asks one of the nodes, and tells whether its answer is complete.
func (r *randomQueries) answer(q randomQuery) (*queryAnswer, bool) {
	r.Helper()
	seconds := func(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) }
	form := url.Values{"query": {q.text}}
	path := "/api/v1/query"
	if q.step == 0 {
		form.Set("time", seconds(q.start))
	} else {
		path = "/api/v1/query_range"
		form.Set("start", seconds(q.start))
		form.Set("end", seconds(q.end))
		form.Set("step", seconds(q.step))
	}
	if q.lookback > 0 {
		form.Set("lookback_delta", seconds(q.lookback))
	}
	m := r.nodes[r.asks[r.rng.IntN(len(r.asks))]]
	resp, err := m.http.PostForm("http://"+m.ip+":9080"+path, form)
	if err != nil {
		return nil, false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusServiceUnavailable {
		return nil, false
	}
	a, err := decodeAnswer(body)
	if err != nil {
		r.Fatalf("%s: %v in %d %q", q, err, resp.StatusCode, body)
	}
	return a, true
}

// askInTrouble asks while one node after the other is stopped, cut off and started again, and
// while a fourth one joins.
func (r *randomQueries) askInTrouble(queries int) {
	r.inTrouble(queries, func() { r.ask(r.next()) })
}

func (r *randomQueries) inTrouble(queries int, one func()) {
	r.Helper()
	r.net.SetLatency(time.Millisecond)
	names := slices.Sorted(maps.Keys(r.nodes))
	ask := func(n int) {
		for range n {
			one()
			<-time.After(time.Duration(r.rng.IntN(300)) * time.Millisecond)
		}
	}
	const rounds = 8
	for round := range rounds {
		m := r.nodes[names[r.rng.IntN(len(names))]]
		others := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == m.name })
		r.asks = others
		switch {
		case round == rounds/2:
			joined := fmt.Sprint("n", len(names)+1)
			r.asks = names
			r.start(joined, ip(len(names)+1), join(3))
			names = append(slices.Clone(names), joined)
		case r.rng.IntN(3) == 0:
			r.isolate(m, others)
			r.asks = append(slices.Clone(others), others...)
			r.asks = append(r.asks, m.name)
		case r.rng.IntN(2) == 0:
			m.crash()
		default:
			m.halt()
		}
		ask(queries / rounds / 2)
		r.net.Heal()
		if r.nodes[m.name] == nil {
			r.start(m.name, m.ip, join(3))
			r.asks = names
		}
		ask(queries / rounds / 2)
		r.asks = names
		for _, name := range names {
			r.ready(r.nodes[name])
		}
		r.caughtUp(5 * time.Minute)
		r.settled(len(names))
		if r.Failed() {
			return
		}
	}
}
