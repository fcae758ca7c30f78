package query

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/partial"
	"github.com/starling-tsdb/starling/internal/table"
)

// read selects everything and returns the timestamps of the samples of m, which name
// the nodes whose data was used.
func read(ctx context.Context, t *testing.T, f *Fanout) (nodes string, warnings []error, err error) {
	t.Helper()
	q, err := f.Querier(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(ctx, true, nil, everything())
	for set.Next() {
		if set.At().Labels().Get(labels.MetricName) == "m" {
			for _, s := range drain(t, set.At().Iterator(nil)) {
				nodes += fmt.Sprint(s.T)
			}
		}
	}
	return nodes, set.Warnings().AsErrors(), set.Err()
}

func TestCompleteness(t *testing.T) {
	good := func(id int64) Source { return scripted{id: id} }
	bad := failing{err: errDown}
	midway := func(id int64) Source { return scripted{id: id, after: errors.New("stream reset")} }
	for _, c := range []struct {
		name    string
		quorum  int
		nodes   []Source
		partial bool
		want    string // the nodes whose data is used
		err     string
		warning string
	}{
		{name: "all answer", quorum: 2, nodes: []Source{good(0), good(1), good(2)}, want: "012"},
		{name: "one of three down", quorum: 2, nodes: []Source{good(0), bad, good(2)}, want: "02"},
		{name: "one of three fails midway", quorum: 2, nodes: []Source{good(0), midway(1), good(2)}, want: "02"},
		{name: "one of three panics", quorum: 2, nodes: []Source{good(0), scripted{id: 1, panics: true}, good(2)}, want: "02"},
		{
			name: "two of three down", quorum: 2, nodes: []Source{bad, good(1), midway(2)},
			err: "incomplete answer: 2 of 3 nodes did not answer, which can own 2 copies of a series, and at most 1 may be missing: n0: connection refused; n2: stream reset",
		},
		{
			name: "two of three down, partial", quorum: 2, nodes: []Source{bad, good(1), midway(2)}, partial: true, want: "1",
			warning: "partial answer: data may be missing, 2 of 3 nodes did not answer: n0: connection refused; n2: stream reset",
		},
		{name: "one down, complete, partial allowed", quorum: 2, nodes: []Source{good(0), good(1), bad}, partial: true, want: "01"},
		{
			name: "all down, partial", quorum: 2, nodes: []Source{bad, bad}, partial: true,
			err: "incomplete answer: 2 of 2 nodes did not answer, which can own 2 copies of a series, and at most 1 may be missing: n0: connection refused; n1: connection refused",
		},
		{
			name: "one of three down, once written by one", quorum: 1, nodes: []Source{good(0), good(1), bad},
			err: "incomplete answer: 1 of 3 nodes did not answer, which can own 1 copies of a series, and at most 0 may be missing: n2: connection refused",
		},
		{name: "nothing ever written", quorum: 0, nodes: []Source{bad, bad, good(2)}, want: "2"},
		{name: "no nodes", quorum: 2, err: "incomplete answer: the table names no node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.partial {
					ctx = partial.With(ctx)
				}
				got, warnings, err := read(ctx, t, New(Options{View: fixed(c.quorum, c.nodes...)}))
				if got != c.want {
					t.Errorf("used the data of nodes %q, want %q", got, c.want)
				}
				checkIncomplete(t, err, c.err)
				var warned string
				if len(warnings) > 0 {
					warned = warnings[0].Error()
				}
				if warned != c.warning {
					t.Errorf("warning: got %q, want %q", warned, c.warning)
				}
				if noted := partial.Missing(ctx); (len(noted) > 0) != (c.warning != "") {
					t.Errorf("noted in the context: got %q, with the warning %q", noted, c.warning)
				}
			})
		})
	}
}

func checkIncomplete(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("got %v", err)
		}
		return
	}
	var unavailable interface{ Unavailable() bool }
	if err == nil || err.Error() != want || !errors.As(err, &unavailable) || !unavailable.Unavailable() {
		t.Errorf("got %v, want %s", err, want)
	}
}

// All operations obey the same rule.
func TestIncompleteOperations(t *testing.T) {
	f := New(Options{View: fixed(2, failing{err: errDown}, failing{err: errDown}, failing{err: errDown})})
	q, err := f.Querier(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	eq, err := f.ExemplarQuerier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"label names":  func() error { _, _, err := q.LabelNames(t.Context(), nil); return err },
		"label values": func() error { _, _, err := q.LabelValues(t.Context(), "x", nil); return err },
		"exemplars":    func() error { _, err := eq.Select(0, 1); return err },
		"metadata":     func() error { _, _, err := f.Metadata(t.Context(), "", -1, -1); return err },
		"stats":        func() error { _, _, err := f.Stats(t.Context(), "x", 1); return err },
	} {
		var incomplete *IncompleteError
		if err := call(); !errors.As(err, &incomplete) {
			t.Errorf("%s: got %v, want an IncompleteError", name, err)
		}
	}
}

// A straggler is waited for only until the grace is over, and is told to stop.
func TestStragglers(t *testing.T) {
	for _, c := range []struct {
		name  string
		delay time.Duration
		grace time.Duration
		want  string
		took  time.Duration
	}{
		{"within the grace", 400 * time.Millisecond, 0, "012", 400 * time.Millisecond},
		{"too late", time.Hour, 0, "02", 600 * time.Millisecond},
		{"too late for another grace", time.Hour, time.Second, "02", 1100 * time.Millisecond},
		{"waited for", time.Hour, -1, "012", time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var canceled atomic.Int64
				slow := scripted{id: 1, delay: c.delay, canceled: &canceled}
				f := New(Options{
					View:  fixed(2, scripted{id: 0}, slow, scripted{id: 2, delay: 100 * time.Millisecond}),
					Grace: c.grace,
				})
				start := time.Now()
				got, warnings, err := read(t.Context(), t, f)
				if got != c.want || len(warnings) != 0 || err != nil {
					t.Errorf("got %q, %v, %v, want %q", got, warnings, err, c.want)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				synctest.Wait()
				if dropped := c.want == "02"; (canceled.Load() == 1) != dropped {
					t.Errorf("%d nodes were canceled", canceled.Load())
				}
			})
		})
	}
}

// Two nodes that hang cost the timeout of a node, then the read fails or is partial.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Options{View: fixed(2, scripted{id: 0}, scripted{hang: true}, scripted{hang: true}), Timeout: 30 * time.Second})
		start := time.Now()
		_, _, err := read(t.Context(), t, f)
		checkIncomplete(t, err, "incomplete answer: 2 of 3 nodes did not answer, which can own 2 copies of a series, and at most 1 may be missing: "+
			"n1: no answer within the time allowed to a node; n2: no answer within the time allowed to a node")
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("took %s", took)
		}
		got, warnings, err := read(partial.With(t.Context()), t, f)
		if got != "0" || len(warnings) != 1 || err != nil {
			t.Errorf("partial: got %q, %v, %v", got, warnings, err)
		}
	})
}

// When too many nodes have failed nobody waits for the others.
func TestHopelessReadFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, _, err := read(t.Context(), t, New(Options{View: fixed(2, failing{err: errDown}, failing{err: errDown}, scripted{hang: true})}))
		if err == nil || time.Since(start) != 0 {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
	})
}

// The end of the context and the closing of the querier reach all nodes. Whatever was
// started has ended when synctest.Test returns.
func TestCancellation(t *testing.T) {
	hanging := func(canceled *atomic.Int64) *Fanout {
		s := scripted{hang: true, canceled: canceled}
		return New(Options{View: fixed(2, s, s, s)})
	}
	t.Run("canceled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var canceled atomic.Int64
			ctx, cancel := context.WithCancel(partial.With(t.Context()))
			time.AfterFunc(time.Second, cancel)
			_, _, err := read(ctx, t, hanging(&canceled))
			synctest.Wait()
			if !errors.Is(err, context.Canceled) || canceled.Load() != 3 {
				t.Errorf("got %v, %d nodes canceled", err, canceled.Load())
			}
		})
	})
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var canceled atomic.Int64
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _, err := read(ctx, t, hanging(&canceled))
			synctest.Wait()
			if !errors.Is(err, context.DeadlineExceeded) || canceled.Load() != 3 {
				t.Errorf("got %v, %d nodes canceled", err, canceled.Load())
			}
		})
	})
	t.Run("closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var canceled atomic.Int64
			q, err := hanging(&canceled).ChunkQuerier(0, 1)
			if err != nil {
				t.Fatal(err)
			}
			set := q.Select(t.Context(), true, nil, everything())
			synctest.Wait()
			q.Close()
			synctest.Wait()
			if canceled.Load() != 3 {
				t.Errorf("%d nodes canceled", canceled.Load())
			}
			if set.Next() || !errors.Is(set.Err(), context.Canceled) {
				t.Errorf("a closed select: got %v", set.Err())
			}
		})
	})
}

// refusal is a node's answer at another epoch.
func refusal(have uint64) Source {
	err := &table.MismatchError{Want: 5}
	if have > 0 {
		err.Have = &table.Table{Epoch: have}
	}
	return failing{err: fmt.Errorf("peer: %w", err)}
}

type epochCase struct {
	name     string
	views    []View // one after the other, the last for ever
	partial  bool
	want     string
	err      string
	attempts int
	took     time.Duration
}

func epochCases() []epochCase {
	good := func(id int64) Source { return scripted{id: id} }
	at := func(epoch uint64, nodes ...Source) View {
		return View{Epoch: epoch, Quorum: 2, Nodes: nodesOf(nodes...)}
	}
	return []epochCase{
		{
			name:  "our table is old and there is a new one",
			views: []View{at(5, good(0), good(1), refusal(6)), at(6, good(3), good(4), good(5))},
			want:  "345", attempts: 2,
		},
		{
			name: "our table is old and the new one comes later",
			views: []View{
				at(5, good(0), good(1), refusal(6)), at(5, good(0), good(1), refusal(6)),
				at(5, good(0), good(1), refusal(6)), at(6, good(3), good(4), good(5)),
			},
			want: "345", attempts: 3, took: 20 * time.Millisecond,
		},
		{
			name:  "one node is behind and not needed",
			views: []View{at(5, good(0), good(1), refusal(4))},
			want:  "01", attempts: 1,
		},
		{
			name:  "a node without a table is behind",
			views: []View{at(5, good(0), good(1), refusal(0))},
			want:  "01", attempts: 1,
		},
		{
			name: "two nodes are behind and catch up",
			views: []View{
				at(5, good(0), refusal(4), refusal(4)), at(5, good(0), refusal(4), refusal(4)),
				at(5, good(0), good(1), refusal(4)),
			},
			want: "01", attempts: 2, took: 20 * time.Millisecond,
		},
		{
			name:  "for ever newer",
			views: []View{at(5, good(0), good(1), refusal(6))},
			err: "incomplete answer: 1 of 3 nodes did not answer, which can own 1 copies of a series, and at most 1 may be missing, and the table is changing: " +
				"n2: peer: request planned by epoch 5 refused by a node at epoch 6",
			attempts: 5, took: 300 * time.Millisecond,
		},
		{
			name:    "for ever newer, partial",
			views:   []View{at(5, good(0), good(1), refusal(6))},
			partial: true, want: "01", attempts: 5, took: 300 * time.Millisecond,
		},
	}
}

func TestEpochs(t *testing.T) {
	for _, c := range epochCases() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewRegistry()
				n := 0
				f := New(Options{Registerer: reg, View: func() (View, error) {
					n++
					return c.views[min(n, len(c.views))-1], nil
				}})
				ctx := t.Context()
				if c.partial {
					ctx = partial.With(ctx)
				}
				start := time.Now()
				got, _, err := read(ctx, t, f)
				if got != c.want {
					t.Errorf("used the data of nodes %q, want %q", got, c.want)
				}
				checkIncomplete(t, err, c.err)
				if took := time.Since(start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if got := int(testutil.ToFloat64(f.metrics.restarts)) + 1; got != c.attempts {
					t.Errorf("got %d attempts, want %d", got, c.attempts)
				}
			})
		})
	}
}

func TestViewError(t *testing.T) {
	errNoTable := errors.New("no table yet")
	for _, c := range []struct {
		name string
		good int // views before the error
	}{
		{"at first", 0},
		{"when the read begins again", 1},
		{"after the backoff", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				_, _, err := read(t.Context(), t, New(Options{View: func() (View, error) {
					if n++; n > c.good {
						return View{}, errNoTable
					}
					return View{Epoch: 5, Quorum: 1, Nodes: nodesOf(refusal(6))}, nil
				}}))
				if !errors.Is(err, errNoTable) || !strings.HasPrefix(err.Error(), "reading the table of nodes: ") {
					t.Errorf("got %v", err)
				}
				if n != c.good+1 {
					t.Errorf("asked %d times for the table", n)
				}
			})
		})
	}
}

// The limit is for all nodes together, and what a failed node took does not count.
func TestMaxBytes(t *testing.T) {
	big := func(id int64, after error) Source { return scripted{id: id, size: 40_000, after: after} }
	for _, c := range []struct {
		name  string
		nodes []Source
		max   int64
		fails bool
	}{
		{"two fit", []Source{big(0, nil), big(1, nil)}, 100_000, false},
		{"three do not", []Source{big(0, nil), big(1, nil), big(2, nil)}, 100_000, true},
		{"three fit", []Source{big(0, nil), big(1, nil), big(2, nil)}, 200_000, false},
		{"two fit after one has failed", []Source{scripted{id: 0, size: 40_000, delay: time.Second}, big(1, errDown), scripted{id: 2, size: 40_000, delay: time.Second}}, 100_000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, _, err := read(partial.With(t.Context()), t, New(Options{View: fixed(2, c.nodes...), MaxBytes: c.max}))
				var tooMany *TooManyBytesError
				if errors.As(err, &tooMany) != c.fails || !c.fails && err != nil {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// A source whose answer cannot be merged has failed.
func TestMalformedAnswers(t *testing.T) {
	ls := labels.FromStrings(labels.MetricName, "m")
	short := chunkenc.NewXORChunk()
	short.Reset([]byte{0})
	for name, series := range map[string][]storage.ChunkSeries{
		"out of order":   {chunkList(labels.FromStrings(labels.MetricName, "n")), chunkList(ls)},
		"series twice":   {chunkList(ls), chunkList(ls)},
		"no data":        {chunkList(ls, chunks.Meta{})},
		"too short":      {chunkList(ls, chunks.Meta{Chunk: short})},
		"range reversed": {chunkList(ls, chunks.Meta{MinTime: 1, Chunk: chunkenc.NewXORChunk()})},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(t.Context(), t, New(Options{View: fixed(1, fromSet{set: &listSet{series: series}})}))
			var incomplete *IncompleteError
			if !errors.As(err, &incomplete) {
				t.Errorf("got %v, want an IncompleteError", err)
			}
		})
	}
}

type fromSet struct {
	failing
	set storage.ChunkSeriesSet
}

func (s fromSet) Select(context.Context, SelectRequest) storage.ChunkSeriesSet { return s.set }

func TestMergeMetadata(t *testing.T) {
	m := func(help string) metadata.Metadata { return metadata.Metadata{Type: "counter", Help: help} }
	answers := []map[string][]metadata.Metadata{
		{"a": {m("1")}, "c": {m("x")}},
		{"a": {m("2"), m("1")}, "b": {m("y")}},
	}
	for _, c := range []struct {
		limit, perMetric int
		want             string
	}{
		{-1, -1, "map[a:[{counter  1} {counter  2}] b:[{counter  y}] c:[{counter  x}]]"},
		{2, 1, "map[a:[{counter  1}] b:[{counter  y}]]"},
		{0, 0, "map[]"},
	} {
		if got := fmt.Sprint(mergeMetadata(answers, c.limit, c.perMetric)); got != c.want {
			t.Errorf("limits %d, %d: got %s, want %s", c.limit, c.perMetric, got, c.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		f := New(Options{Registerer: reg, View: fixed(2, scripted{id: 0}, scripted{id: 1}, failing{err: errDown})})
		if _, _, err := read(t.Context(), t, f); err != nil {
			t.Fatal(err)
		}
		const want = `
# HELP starling_query_divergent_series_total Series read whose copies were not the same chunks.
# TYPE starling_query_divergent_series_total counter
starling_query_divergent_series_total 1
# HELP starling_query_fanout_node_failures_total Answers of single nodes that a read had to do without, by reason.
# TYPE starling_query_fanout_node_failures_total counter
starling_query_fanout_node_failures_total{reason="error"} 1
# HELP starling_query_fanout_requests_total Reads asked of all nodes, by operation and outcome: complete, partial as the client allowed, incomplete, more than the limit of a query, unproven (a fragment that is read as series instead), canceled, error.
# TYPE starling_query_fanout_requests_total counter
starling_query_fanout_requests_total{operation="select",outcome="complete"} 1
`
		err := testutil.GatherAndCompare(reg, strings.NewReader(want),
			"starling_query_divergent_series_total", "starling_query_fanout_node_failures_total", "starling_query_fanout_requests_total")
		if err != nil {
			t.Error(err)
		}
	})
}
