package evaluate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// bounds are labels of buckets; not all histograms have all of them.
var bounds = []string{"-0.5", "0", "0.1", "0.25", "0.250", "1", "2.5", "+Inf"}

// fillClassic fills a database with classic histograms: lat_bucket, whose buckets are scraped
// together, and odd_bucket, of which each goes on as it likes.
func fillClassic(t *testing.T, r *rand.Rand, db *tsdb.DB) {
	t.Helper()
	for i := range 6 {
		ls := labels.FromStrings("instance", fmt.Sprint(i), "job", fmt.Sprint(r.IntN(3)))
		times, counts := points(r), make([]float64, len(bounds))
		buckets := make([][]promql.FPoint, len(bounds))
		for _, p := range times {
			if r.IntN(50) == 0 {
				clear(counts)
			}
			sum := 0.0
			for b := range bounds {
				counts[b] += float64(r.IntN(10))
				sum += counts[b]
				buckets[b] = append(buckets[b], promql.FPoint{T: p.T, F: sum})
			}
		}
		for b, le := range bounds {
			if r.IntN(12) == 0 {
				continue
			}
			name := labels.NewBuilder(ls).Set(labels.MetricName, "lat_bucket").Set("le", le).Labels()
			add(t, db, name, buckets[b])
			if i < 2 {
				add(t, db, labels.NewBuilder(name).Set(labels.MetricName, "odd_bucket").Labels(), points(r))
			}
		}
	}
}

// together is the series of a set that fall to one of many owners: all buckets of a histogram to
// the same.
type together struct {
	storage.ChunkSeriesSet
	owner, of uint64
}

func (s together) Next() bool {
	for s.ChunkSeriesSet.Next() {
		if labels.NewBuilder(s.At().Labels()).Del("le").Labels().Hash()%s.of == s.owner {
			return true
		}
	}
	return false
}

func quantileText(r *rand.Rand) string {
	inner := pick(r, []string{"lat_bucket", "lat_bucket", `lat_bucket{job="1"}`, "lat_bucket", "odd_bucket", "h", "hg", "hc", "hf", `h{job="2"}`})
	if r.IntN(3) > 0 {
		inner = pick(r, []string{"rate", "rate", "increase", "sum_over_time", "last_over_time"}) + "(" + inner + pick(r, []string{"[1m]", "[5m]", "[20m]"}) + ")"
	}
	switch r.IntN(6) {
	case 0:
		inner += " * 2"
	case 1:
		inner = "(" + inner + " > 3)"
	}
	return "histogram_quantile(" + pick(r, []string{"0.9", "0.5", "0", "1", "(0.2 + 0.5)"}) + ", " + inner + ")"
}

// TestQuantilesAreTheEngines: what is not refused is what the engine gives, bit for bit, and what it
// warns of is refused.
func TestQuantilesAreTheEngines(t *testing.T) {
	databases, trials := 6, 100
	if testing.Short() {
		databases = 3
	}
	var given, refused, warned int
	unwarned := map[string]int{}
	for seed := range databases {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		db := openDB(t)
		fillClassic(t, r, db)
		fillHistograms(t, r, db)
		for range trials {
			text := quantileText(r)
			o := Options{Fragment: mustFragment(t, text), Grid: randomGrid(r), MaxSamples: 1e9, Workers: 1 + r.IntN(2)}
			want, samples := ask(t, db, text, o.Grid)
			warnings := countWarnings(t, db, text, o.Grid)
			whole, err := quantilesOf(t, db, o, uint64(1+r.IntN(3)))
			if _, unproven := errors.AsType[*pushdown.UnprovenError](err); unproven {
				refused++
				if warnings == 0 {
					unwarned[err.Error()]++
				}
				continue
			}
			if err != nil {
				t.Fatalf("seed %d: %s: %v", seed, text, err)
			}
			given++
			if warnings > 0 {
				warned++
			}
			if whole.Samples != samples {
				t.Errorf("%s: looked at %d samples, want %d", text, whole.Samples, samples)
			}
			compareQuantiles(t, text, whole, want, o.Grid)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d given, %d refused, of which the engine does not warn: %v", given, refused, unwarned)
	if given < databases*trials/5 || refused < databases*trials/20 || warned > 0 || len(unwarned) > 0 {
		t.Errorf("%d given, of which the engine warned of %d; %d refused", given, warned, refused)
	}
}

// quantilesOf is what owners together make of a fragment.
func quantilesOf(t *testing.T, db *tsdb.DB, o Options, owners uint64) (*pushdown.Partial, error) {
	t.Helper()
	parts := make([]*pushdown.Partial, owners)
	for i := range parts {
		var err error
		if parts[i], err = Series(context.Background(), together{selected(t, db, o), uint64(i), owners}, o); err != nil {
			return nil, err
		}
	}
	return o.Fragment.Merge(o.Grid, parts, always)
}

// countWarnings counts what the engine says beside the answer, but of a metric that is no counter, which
// is known by its name.
func countWarnings(t *testing.T, db *tsdb.DB, text string, g pushdown.Grid) int {
	t.Helper()
	q := execute(t, untrimmed{db}, text, g)
	defer q.Close()
	n := 0
	for _, w := range q.result.Warnings {
		if !strings.Contains(w.Error(), "metric might not be a counter") {
			n++
		}
	}
	return n
}

func compareQuantiles(t *testing.T, text string, whole *pushdown.Partial, want map[string]map[int64]float64, g pushdown.Grid) {
	t.Helper()
	if len(whole.Values) != len(want) {
		t.Errorf("%s: %d histograms, want %d", text, len(whole.Values), len(want))
	}
	for _, v := range whole.Values {
		for step := range g.Len() {
			at := g.Start + int64(step)*g.Step
			got, h, ok := v.At(0, step)
			w, wanted := want[v.Labels.String()][at]
			same := math.Float64bits(got) == math.Float64bits(w) || math.IsNaN(got) && math.IsNaN(w)
			if ok != wanted || h != nil || ok && !same {
				t.Errorf("%s: %s at %d: have %v, %v, want %v, %v", text, v.Labels, at, got, ok, w, wanted)
				return
			}
		}
	}
}

func TestQuantilesRefuse(t *testing.T) {
	for _, c := range []struct {
		name   string
		series []labels.Labels
		counts []float64
		want   error
	}{
		{"no bucket", []labels.Labels{labels.FromStrings(labels.MetricName, "b")}, []float64{1}, errNoBucket},
		{"a bucket without a bound", []labels.Labels{labels.FromStrings(labels.MetricName, "b", "le", "x")}, []float64{1}, errNoBucket},
		{"a bound that is no number", []labels.Labels{labels.FromStrings(labels.MetricName, "b", "le", "NaN")}, []float64{1}, errNoBucket},
		{"a greater bucket with less", []labels.Labels{
			labels.FromStrings(labels.MetricName, "b", "le", "1"), labels.FromStrings(labels.MetricName, "b", "le", "+Inf"),
		}, []float64{3, 2}, errMonotonic},
		{"a type", []labels.Labels{labels.FromStrings(labels.MetricName, "b", "le", "1", "__type__", "histogram")}, []float64{3}, errTyped},
	} {
		db := openDB(t)
		for i, ls := range c.series {
			add(t, db, ls, []promql.FPoint{{T: first, F: c.counts[i]}})
		}
		if _, err := quantilesOf(t, db, options(t, "histogram_quantile(0.5, b)"), 1); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}

	db := openDB(t)
	n := &native{integer: true, threshold: 1e-9}
	n.observe(rand.New(rand.NewPCG(1, 1)), false)
	app := db.Appender(t.Context())
	h, _ := n.at()
	if _, err := app.AppendHistogram(0, labels.FromStrings(labels.MetricName, "b", "job", "1"), first, h, nil); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := quantilesOf(t, db, options(t, "histogram_quantile(0.5, b)"), 1); err != nil {
		t.Errorf("a native histogram: %v", err)
	}
	add(t, db, labels.FromStrings(labels.MetricName, "b", "job", "1", "le", "+Inf"), []promql.FPoint{{T: first, F: 1}})
	if _, err := quantilesOf(t, db, options(t, "histogram_quantile(0.5, b)"), 1); !errors.Is(err, errBoth) {
		t.Errorf("a classic and a native histogram: %v", err)
	}
}
