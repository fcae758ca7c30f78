package query

import (
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/spent"
)

// What each node takes is noted if somebody wants to know, that of those that fail, too.
func TestReadsAreNoted(t *testing.T) {
	dbs := []Source{dbSource{DB: openDB(t)}, dbSource{DB: openDB(t)}, failing{err: errDown}}
	for i, s := range dbs[:2] {
		for v := range i + 2 {
			write(t, s.(dbSource).DB, labels.FromStrings(labels.MetricName, "m", "v", string(rune('a'+v))), series.Sample{T: 1})
		}
	}
	f := New(Options{View: fixed(2, dbs...)})
	read := func(wanted bool) *spent.Query {
		ctx, noted := t.Context(), (*spent.Query)(nil)
		if wanted {
			ctx, noted = spent.With(ctx)
		}
		q, err := f.Querier(0, 10)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		set := q.Select(ctx, true, &storage.SelectHints{End: 10}, labels.MustNewMatcher(labels.MatchEqual, labels.MetricName, "m"), labels.MustNewMatcher(labels.MatchNotEqual, "v", "x"))
		n := 0
		for set.Next() {
			n++
		}
		if set.Err() != nil || n != 3 {
			t.Fatal(n, set.Err())
		}
		return noted
	}
	read(false)
	reads := read(true).Reads()
	if len(reads) != 1 || reads[0].Selector != `m{v!="x"}` {
		t.Fatalf("%+v", reads)
	}
	took, nodes := reads[0].Noted()
	slices.SortFunc(nodes, func(a, b spent.Node) int { return slices.Compare([]byte(a.ID), []byte(b.ID)) })
	if len(nodes) != 3 || took.Total <= 0 || nodes[0].Series != 2 || nodes[1].Series != 3 || nodes[1].Failed != "" || nodes[2].Failed != errDown.Error() || nodes[2].Owner != nil {
		t.Errorf("%+v, %+v", took, nodes)
	}
}
