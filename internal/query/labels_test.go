package query

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
)

// lister is a node that lists fixed labels, in a session of its own.
type lister struct {
	failing
	session uint64
	list    []string
	// state, if set, is waited for before it says its state.
	state func(context.Context) error
	asked *atomic.Int64
}

func (l lister) State(ctx context.Context) (proof.State, error) {
	if l.state != nil {
		if err := l.state(ctx); err != nil {
			return proof.State{}, err
		}
	}
	return proof.State{Session: l.session}, nil
}

func (l lister) Labels(_ context.Context, q series.LabelQuery, take func(int64) error) ([]string, error) {
	l.asked.Add(1)
	if q.Session != l.session {
		return nil, errors.New("another session")
	}
	list := l.list
	if q.Limit > 0 {
		list = list[:min(q.Limit, len(list))]
	}
	return list, take(int64(len(list)))
}

// A node that does not say its state, or not in time, is not asked for labels, and counts as missing.
func TestLabelsOfNodesThatSayTheirState(t *testing.T) {
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	fails := func(context.Context) error { return errDown }
	for _, tt := range []struct {
		name     string
		states   [3]func(context.Context) error
		want     []string
		complete bool
	}{
		{"all", [3]func(context.Context) error{}, []string{"a", "b", "c", "d"}, true},
		{"one is an old copy", [3]func(context.Context) error{2: fails}, []string{"a", "b", "c"}, true},
		{"one hangs", [3]func(context.Context) error{2: hangs}, []string{"a", "b", "c"}, true},
		{"two are", [3]func(context.Context) error{1: fails, 2: fails}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked [3]atomic.Int64
				var nodes []Source
				for i, list := range [][]string{{"a", "b"}, {"b", "c"}, {"c", "d"}} {
					nodes = append(nodes, lister{session: uint64(7 + i), list: list, state: tt.states[i], asked: &asked[i]})
				}
				q, err := New(Options{View: fixed(2, nodes...)}).Querier(0, 10)
				if err != nil {
					t.Fatal(err)
				}
				defer q.Close()
				start := time.Now()
				got, _, err := q.LabelValues(t.Context(), "v", &storage.LabelHints{})
				var incomplete *IncompleteError
				if errors.As(err, &incomplete) == tt.complete || !slices.Equal(got, tt.want) {
					t.Errorf("%q, %v", got, err)
				}
				if took := time.Since(start); took > stateGrace {
					t.Errorf("it took %v", took)
				}
				for i, state := range tt.states {
					if n := asked[i].Load(); state != nil && n > 0 || tt.complete && state == nil && n != 1 {
						t.Errorf("node %d was asked %d times", i, n)
					}
				}
			})
		})
	}
}
