package query

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/starling-tsdb/starling/internal/partial"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/pushdown"
)

// Evaluate counts the series that the node serves.
func (o *owned) Evaluate(ctx context.Context, req EvaluateRequest) (*pushdown.Partial, error) {
	set := o.Select(ctx, req.SelectRequest)
	if err := set.Err(); err != nil {
		return nil, err
	}
	v := pushdown.NewValues(req.Fragment.Op, labels.EmptyLabels(), req.Grid.Len())
	part := &pushdown.Partial{}
	for set.Next() {
		part.Samples++
		if err := v.Add(req.Fragment.Op, 0, 1); err != nil {
			return nil, err
		}
	}
	if part.Samples > 0 {
		part.Values = []pushdown.Values{v}
	}
	return part, req.Take(part.Bytes())
}

// counted returns how many series are counted, and how many warnings there are.
func counted(ctx context.Context, t *testing.T, f *Fanout) (series float64, warnings int, err error) {
	t.Helper()
	fragment, err := pushdown.Parser{Parser: parser.NewParser(parser.Options{})}.Read(`count({__name__=~".+"})`)
	if err != nil {
		t.Fatal(err)
	}
	g := pushdown.Grid{Start: 100, End: 120, Step: 10, Lookback: 300}
	whole, ws, err := f.Evaluate(ctx, fragment, g)
	if err != nil {
		return 0, len(ws), err
	}
	if len(whole.Values) != 1 {
		t.Fatalf("%d groups", len(whole.Values))
	}
	n, _, _ := whole.Values[0].At(fragment.Op, 0)
	return n, len(ws), nil
}

// Each series is evaluated once, by whoever serves it, or not in parts.
func TestFragmentsCountEachSeriesOnce(t *testing.T) {
	gap := proof.State{Gaps: []proof.Gap{{Peer: "n1", Since: 5}}}
	later := proof.State{Gaps: []proof.Gap{{Peer: "n1", Since: 121}, {Peer: "n2", Since: 121}}}
	both := proof.State{Gaps: []proof.Gap{{Peer: "n1", Since: 5}, {Peer: "n2", Since: 6}}}
	others := proof.State{Gaps: []proof.Gap{{Peer: "n0", Since: 7}}}
	for _, tc := range []struct {
		name     string
		change   func(nodes []*owned)
		unproven bool
	}{
		{"all well", func([]*owned) {}, false},
		{"one is missing", func(n []*owned) { n[1].stateErr = errDown }, false},
		{"one is noted", func(n []*owned) { n[0].state = gap }, false},
		{"two are noted for later", func(n []*owned) { n[0].state = later }, false},
		{"two are noted", func(n []*owned) { n[0].state = both }, false},
		{"all are noted", func(n []*owned) { n[0].state, n[1].state = both, others }, true},
		{"one is missing, both others are noted", func(n []*owned) { n[0].state, n[1].state, n[2].stateErr = gap, others, errDown }, true},
		{"one fails", func(n []*owned) { n[2].err = errDown }, false},
		{"one fails once", func(n []*owned) { n[2].err, n[2].once = errDown, true }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, nodes := rig()
			tc.change(nodes)
			n, _, err := counted(t.Context(), t, f)
			_, unproven := errors.AsType[*pushdown.UnprovenError](err)
			if unproven != tc.unproven || !unproven && (err != nil || n != 3) {
				t.Errorf("%v series, %v; unproven is %t", n, err, tc.unproven)
			}
		})
	}
}

// An answer that lacks nodes is none, or says so.
func TestIncompleteFragments(t *testing.T) {
	f, nodes := rig()
	nodes[0].stateErr, nodes[1].stateErr = errDown, errDown
	if _, _, err := counted(t.Context(), t, f); !isIncomplete(err) {
		t.Errorf("with one node of three: %v", err)
	}
	if n, warnings, err := counted(partial.With(t.Context()), t, f); n != 3 || warnings != 1 || err != nil {
		t.Errorf("with one node of three that may answer alone: %v series, %d warnings, %v", n, warnings, err)
	}
}

func isIncomplete(err error) bool { return errors.As(err, new(*IncompleteError)) }

// What is wrong with a query is not held against the nodes.
func TestErrorsOfFragmentsAreNotThoseOfNodes(t *testing.T) {
	for _, want := range []error{&pushdown.UnprovenError{Reason: "histograms"}, promql.ErrTooManySamples("query")} {
		f, nodes := rig()
		nodes[1].err = want
		if _, _, err := counted(t.Context(), t, f); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if n := nodes[0].selects.Load(); n > 1 {
			t.Errorf("%v: asked %d times", want, n)
		}
	}
}

// Without an assignment nobody knows who serves what.
func TestFragmentsNeedAnAssignment(t *testing.T) {
	_, nodes := rig()
	f := New(Options{View: fixed(2, nodes[0], nodes[1], nodes[2])})
	if _, _, err := counted(t.Context(), t, f); !errors.As(err, new(*pushdown.UnprovenError)) {
		t.Error(err)
	}
}

// What all nodes answer is counted, and given back by what failed.
func TestFragmentsTakeFromTheBudget(t *testing.T) {
	const each = 3*8 + 96 // three steps, and what Values take
	f, nodes := rig()
	f.opts.MaxBytes = 3 * each
	nodes[1].err, nodes[1].once = errDown, true
	if n, _, err := counted(t.Context(), t, f); n != 3 || err != nil {
		t.Errorf("within the budget: %v, %v", n, err)
	}
	f, _ = rig()
	f.opts.MaxBytes = 3*each - 1
	if _, _, err := counted(t.Context(), t, f); !errors.As(err, new(*TooManyBytesError)) {
		t.Errorf("beyond the budget: %v", err)
	}
}

// A canceled query ends at once, whatever the nodes do.
func TestFragmentsEndWithTheirContext(t *testing.T) {
	for name, change := range map[string]func(n []*owned){
		"round one":                  func(n []*owned) { n[0].stateDelay, n[1].stateDelay = time.Second, time.Hour },
		"one is slow":                func(n []*owned) { n[1].delay = time.Hour },
		"one hangs":                  func(n []*owned) { n[1].hangs = true },
		"one fails, others are slow": func(n []*owned) { n[0].err, n[1].delay, n[2].delay = errDown, time.Hour, time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, nodes := rig()
				change(nodes)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second/2, cancel)
				start := time.Now()
				_, _, err := counted(ctx, t, f)
				if took := time.Since(start); !errors.Is(err, context.Canceled) || took != time.Second/2 {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}
