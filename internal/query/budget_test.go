package query

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/partial"
)

const bigSize = 40_000

// bigHeld is what the answer of a scripted node of bigSize takes of a budget: two series
// of a chunk each.
func bigHeld() int64 {
	ls := labels.FromStrings(labels.MetricName, "m")
	return 2*(int64(ls.ByteSize())+seriesOverhead+chunkOverhead) + int64(len(smallChunk(0).Chunk.Bytes())) + bigSize
}

func big(id int64) Source { return scripted{id: id, size: bigSize} }

// bigUntil is a node that fails after it handed out as much as the others.
func bigUntil(err error) Source {
	return scripted{size: bigSize, delay: 10 * time.Millisecond, after: err}
}

func openQuerier(t *testing.T, opts Options) *querier {
	t.Helper()
	q, err := New(opts).Querier(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q.(*querier)
}

// finish reads a set to its end and returns its error.
func finish(set storage.SeriesSet) error {
	for set.Next() {
		set.At()
	}
	return set.Err()
}

// The limit is for all selects of a querier together: the engine starts all selectors of
// a query at once and holds their answers until its end.
func TestMaxBytesOfQuery(t *testing.T) {
	for _, c := range []struct {
		name     string
		queriers int
		max      int64
		fails    bool
	}{
		{"one querier", 1, 4*bigHeld() - 1, true},
		{"one querier with a higher limit", 1, 4 * bigHeld(), false},
		{"a querier for each", 2, 2 * bigHeld(), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := Options{View: fixed(2, big(0), big(1)), MaxBytes: c.max}
				var sets []storage.SeriesSet
				for range c.queriers {
					q := openQuerier(t, opts)
					for range 2 / c.queriers {
						sets = append(sets, q.Select(t.Context(), true, nil, everything()))
					}
				}
				err := errors.Join(finish(sets[0]), finish(sets[1]))
				var tooMany *TooManyBytesError
				if errors.As(err, &tooMany) != c.fails || !c.fails && err != nil {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// Only the answers that are used stay counted, whatever became of the others and of the
// attempts before.
func TestBytesHeld(t *testing.T) {
	newer := refusal(6).(failing).err
	older := refusal(4).(failing).err
	at := func(epoch uint64, nodes ...Source) View {
		return View{Epoch: epoch, Quorum: 2, Nodes: nodesOf(nodes...)}
	}
	three := at(6, big(0), big(1), big(2))
	for _, c := range []struct {
		name    string
		views   []View // one after the other, the last for ever
		partial bool
		answers int64 // that are held
		fails   bool
	}{
		{name: "all answer", views: []View{three}, answers: 3},
		{name: "one fails", views: []View{at(6, big(0), bigUntil(errDown), big(2))}, answers: 2},
		{name: "one panics", views: []View{at(6, big(0), fromSet{set: &panicking{bigSet()}}, big(2))}, answers: 2},
		{name: "a straggler", views: []View{at(6, big(0), big(1), scripted{id: 2, size: bigSize, delay: time.Hour})}, answers: 2},
		{name: "incomplete", views: []View{at(6, big(0), bigUntil(errDown), bigUntil(errDown))}, fails: true},
		{name: "partial", views: []View{at(6, big(0), bigUntil(errDown), bigUntil(errDown))}, partial: true, answers: 1},
		{name: "a newer table", views: []View{at(5, big(0), big(1), bigUntil(newer)), three}, answers: 3},
		{name: "behind", views: []View{at(5, big(0), bigUntil(older), bigUntil(older)), at(5, big(0), bigUntil(older), bigUntil(older)), three}, answers: 3},
		{name: "for ever newer", views: []View{at(5, big(0), big(1), bigUntil(newer))}, fails: true},
		{name: "for ever newer, partial", views: []View{at(5, big(0), big(1), bigUntil(newer))}, partial: true, answers: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				q := openQuerier(t, Options{MaxBytes: 3 * bigHeld(), View: func() (View, error) {
					n++
					return c.views[min(n, len(c.views))-1], nil
				}})
				ctx := t.Context()
				if c.partial {
					ctx = partial.With(ctx)
				}
				var incomplete *IncompleteError
				err := finish(q.Select(ctx, true, nil, everything()))
				if errors.As(err, &incomplete) != c.fails || !c.fails && err != nil {
					t.Errorf("got %v", err)
				}
				if got, want := q.budget.used.Load(), c.answers*bigHeld(); got != want {
					t.Errorf("got %d bytes held, want %d", got, want)
				}
			})
		})
	}
}

// bigSet is what a node of bigSize hands out.
func bigSet() storage.ChunkSeriesSet {
	return scripted{size: bigSize}.Select(context.Background(), SelectRequest{})
}

// panicking is a set that panics at its end.
type panicking struct{ storage.ChunkSeriesSet }

func (p *panicking) Next() bool {
	if !p.ChunkSeriesSet.Next() {
		panic("corrupt block")
	}
	return true
}

// stubborn is a node that hands out one chunk, and heeds nothing until it may go on with
// the others.
type stubborn struct {
	failing
	goOn <-chan struct{}
	read *atomic.Int64 // chunks asked for
}

func (s stubborn) Select(context.Context, SelectRequest) storage.ChunkSeriesSet {
	series := &storage.ChunkSeriesEntry{Lset: labels.FromStrings(labels.MetricName, "m"), ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
		var metas []chunks.Meta
		for i := range int64(10) {
			metas = append(metas, smallChunk(i))
		}
		return &stubbornIterator{storage.NewListChunkSeriesIterator(metas...), s}
	}}
	return &listSet{series: []storage.ChunkSeries{series}}
}

type stubbornIterator struct {
	chunks.Iterator
	stubborn
}

func (it *stubbornIterator) Next() bool {
	if it.read.Add(1) == 2 {
		<-it.goOn
	}
	return it.Iterator.Next()
}

// A node that is still read after its attempt has ended gives back what it took at the
// end of the attempt, and takes nothing anymore.
func TestStragglersHoldNothing(t *testing.T) {
	newer := refusal(6).(failing).err
	at := func(epoch uint64, nodes ...Source) View {
		return View{Epoch: epoch, Quorum: 2, Nodes: nodesOf(nodes...)}
	}
	for _, c := range []struct {
		name    string
		first   func(straggler Source) View
		timeout time.Duration
		answers int64
		stop    func(q *querier, cancel func())
	}{
		{name: "the read begins again", first: func(s Source) View { return at(5, big(0), s, bigUntil(newer)) }, answers: 2},
		{name: "after the grace", first: func(s Source) View { return at(6, big(0), big(1), s) }, answers: 2},
		{name: "timed out", first: func(s Source) View { return at(6, big(0), big(1), s) }, timeout: time.Millisecond, answers: 2},
		{
			name: "canceled", first: func(s Source) View { return at(6, big(0), s, s) },
			stop: func(_ *querier, cancel func()) { cancel() },
		},
		{
			name: "closed", first: func(s Source) View { return at(6, big(0), s, s) },
			stop: func(q *querier, _ func()) { q.Close() },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				goOn := make(chan struct{})
				var read atomic.Int64
				views := []View{c.first(stubborn{goOn: goOn, read: &read}), at(6, big(3), big(4))}
				n := 0
				q := openQuerier(t, Options{Timeout: c.timeout, View: func() (View, error) {
					n++
					return views[min(n, len(views))-1], nil
				}})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				set := q.Select(ctx, true, nil, everything())
				synctest.Wait()
				if held := q.budget.used.Load(); held <= bigHeld() {
					t.Errorf("got %d bytes held at first, want more than %d", held, bigHeld())
				}
				if c.stop != nil {
					c.stop(q, cancel)
				}
				if err := finish(set); (err == nil) != (c.stop == nil) {
					t.Errorf("got %v", err)
				}
				asked := read.Load()
				for _, when := range []string{"before", "after"} {
					if got, want := q.budget.used.Load(), c.answers*bigHeld(); got != want {
						t.Errorf("got %d bytes held %s the stragglers go on, want %d", got, when, want)
					}
					if when == "before" {
						close(goOn)
						synctest.Wait()
					}
				}
				if got := read.Load(); got != asked {
					t.Errorf("stragglers read on: %d chunks more", got-asked)
				}
			})
		})
	}
}

// However takes and closes meet, the budget ends with what was kept and is never
// overdrawn.
func TestBudgetConcurrently(t *testing.T) {
	b := &budget{limit: 1000}
	var wg sync.WaitGroup
	var kept atomic.Int64
	for i := range 32 {
		s := &share{budget: b}
		wg.Go(func() {
			for s.take(3) == nil {
				if used := b.used.Load(); used < 0 || used > b.limit {
					t.Errorf("%d bytes held", used)
				}
			}
		})
		wg.Go(func() {
			keep := i%4 == 0
			if taken := s.close(keep); keep {
				kept.Add(taken)
			}
			if taken := s.close(false); taken != 0 {
				t.Errorf("%d bytes given back twice", taken)
			}
		})
	}
	wg.Wait()
	if got, want := b.used.Load(), kept.Load(); got != want {
		t.Errorf("got %d bytes held, want %d", got, want)
	}
}
