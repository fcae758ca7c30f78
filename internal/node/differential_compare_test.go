package node

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// contents are samples by series and time.
type contents map[string]map[int64]string

// compareAll compares what each member answers, and what its store holds, with the plain way.
func (d *differential) compareAll() {
	d.Helper()
	every := func(uint64) bool { return true }
	for _, m := range d.members() {
		var answered contents
		d.eventually(time.Minute, m.name+" answers", func() (err error) {
			answered, err = d.contents(m.reads)
			return err
		})
		d.compareSamples(m.name+" answers", answered, every)
		held, err := d.contents(queryable(m.store.Querier))
		if err != nil {
			d.Fatal(err)
		}
		owner := m.placed.Load().reading.owner(m.cluster.Self())
		d.compareSamples(m.name+" holds", held, owner.owns)
		d.compareExemplars(m.name+" answers", m.reads, every)
		d.compareExemplars(m.name+" holds", exemplarQueryable(m.store.ExemplarQuerier), owner.owns)
	}
}

// queryable is a store for contents.
type queryable func(mint, maxt int64) (promstorage.Querier, error)

// Querier implements storage.Queryable.
func (q queryable) Querier(mint, maxt int64) (promstorage.Querier, error) { return q(mint, maxt) }

// exemplarQueryable is a store for compareExemplars.
type exemplarQueryable func(context.Context) (promstorage.ExemplarQuerier, error)

// ExemplarQuerier implements storage.ExemplarQueryable.
func (q exemplarQueryable) ExemplarQuerier(ctx context.Context) (promstorage.ExemplarQuerier, error) {
	return q(ctx)
}

var everything = labels.MustNewMatcher(labels.MatchNotEqual, labels.MetricName, "")

func (d *differential) contents(from promstorage.Queryable) (contents, error) {
	now := time.Now()
	q, err := from.Querier(now.Add(-24*time.Hour).UnixMilli(), now.Add(24*time.Hour).UnixMilli())
	if err != nil {
		return nil, err
	}
	defer q.Close()
	all := contents{}
	set := q.Select(d.Context(), true, nil, everything)
	for set.Next() {
		it := set.At().Iterator(nil)
		samples := map[int64]string{}
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			var text string
			switch typ {
			case chunkenc.ValHistogram:
				_, h := it.AtHistogram(nil)
				text = plainHistogram(h)
			case chunkenc.ValFloatHistogram:
				_, fh := it.AtFloatHistogram(nil)
				text = plainFloatHistogram(fh)
			default:
				_, v := it.At()
				text = plainFloat(v)
			}
			samples[it.AtT()] = d.plain.text(it.AtST(), text)
		}
		if it.Err() != nil {
			return nil, it.Err()
		}
		all[set.At().Labels().String()] = samples
	}
	return all, set.Err()
}

// compareSamples compares samples with those that there have to be of the series that are
// owned; of others there may be fewer.
func (d *differential) compareSamples(where string, got contents, owned func(key uint64) bool) {
	d.Helper()
	differences := differences{}
	for name, samples := range got {
		want := d.plain.series[name]
		if want == nil {
			differences.add("%s is of nobody: %v", name, samples)
			continue
		}
		for t, text := range samples {
			if !want.samples[t][text] {
				differences.add("%s is %s at %d, of %v", name, text, t, want.samples[t])
			}
		}
	}
	for name, want := range d.plain.series {
		if !owned(keyOf(want.labels)) {
			continue
		}
		for t, values := range want.samples {
			if _, ok := got[name][t]; !ok {
				differences.add("%s is nothing at %d, of %v", name, t, values)
			}
		}
	}
	d.tell(where, differences)
}

// compareExemplars compares exemplars; where something has gone wrong some may be missing.
func (d *differential) compareExemplars(where string, from promstorage.ExemplarQueryable, owned func(key uint64) bool) {
	d.Helper()
	q, err := from.ExemplarQuerier(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	results, err := q.Select(math.MinInt64/2, math.MaxInt64/2, []*labels.Matcher{everything})
	if err != nil {
		d.Fatal(err)
	}
	differences := differences{}
	got := map[string]map[string]bool{}
	for _, r := range results {
		name := r.SeriesLabels.String()
		got[name] = map[string]bool{}
		for _, e := range r.Exemplars {
			text := plainExemplar(e)
			got[name][text] = true
			if want := d.plain.series[name]; want == nil {
				differences.add("exemplar %s is of nobody's series %s", text, name)
			} else if _, ok := want.exemplars[text]; !ok {
				differences.add("exemplar %s of %s is of nobody", text, name)
			}
		}
	}
	for name, want := range d.plain.series {
		if !d.plain.exact || !owned(keyOf(want.labels)) {
			continue
		}
		for text, certain := range want.exemplars {
			if certain && !got[name][text] {
				differences.add("exemplar %s of %s is missing, of %v; there are %v", text, name, want.exemplars, got[name])
			}
		}
	}
	d.tell(where, differences)
}

// differences are told of, as long as there are few.
type differences struct {
	n    int
	some []string
}

func (d *differences) add(format string, args ...any) {
	if d.n++; len(d.some) < 3 {
		d.some = append(d.some, fmt.Sprintf(format, args...))
	}
}

func (d *differential) tell(where string, found differences) {
	d.Helper()
	if found.n > 0 {
		d.fail("%s otherwise than the plain way %d times: %q", where, found.n, found.some)
	}
}
