package node

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestEvaluationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvaluations(2, prometheus.NewRegistry())
		expect := func(when string, running, waiting float64) {
			t.Helper()
			synctest.Wait()
			if r, w := testutil.ToFloat64(e.running), testutil.ToFloat64(e.waiting); r != running || w != waiting {
				t.Errorf("%s: %v run and %v wait, want %v and %v", when, r, w, running, waiting)
			}
		}
		var ends []func()
		begin := func(ctx context.Context) error {
			end, err := e.begin(ctx)
			if err == nil {
				ends = append(ends, end)
			}
			return err
		}
		for range 2 {
			if err := begin(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		expect("two", 2, 0)

		ctx, cancel := context.WithCancelCause(t.Context())
		given := make(chan error)
		go func() { given <- begin(ctx) }()
		expect("a third", 2, 1)
		why := errors.New("nobody waits")
		cancel(why)
		if err := <-given; !errors.Is(err, why) {
			t.Errorf("who waits for nobody hears %v", err)
		}
		expect("it was canceled", 2, 0)

		go func() { given <- begin(t.Context()) }()
		expect("another", 2, 1)
		ends[0]()
		if err := <-given; err != nil {
			t.Error(err)
		}
		expect("one has ended", 2, 0)
		ends[1]()
		ends[2]()
		expect("all have ended", 0, 0)
	})
}

// occupy takes all turns until free is called.
func occupy(t *testing.T, all ...*turns) (free func()) {
	t.Helper()
	var ends []func()
	for _, some := range all {
		for range readsAtOnce() {
			end, err := some.begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end)
		}
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// A node that has no turn to give has queries wait, of its own and of others, as long as they
// have time.
func TestQueriesWaitForEvaluations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.nearbyWork = -1
		m := f.fresh("a", "b", "c")
		if code := m[0].write("m", 1, 2, 3, 4, 5, 6, 7, 8); code != http.StatusNoContent {
			t.Fatal(code)
		}
		free := occupy(t, m[1].evaluations)
		for _, coordinator := range m[:2] {
			start := time.Now()
			got := coordinator.query("sum(m)", "timeout", "20s")
			if took := time.Since(start); got.code != http.StatusServiceUnavailable || took < 20*time.Second || took > 20*time.Second+100*time.Millisecond {
				t.Errorf("%s answers %+v after %v", coordinator.name, got, took)
			}
		}
		if n := testutil.ToFloat64(m[1].evaluations.waiting); n != 0 {
			t.Errorf("%v still wait", n)
		}
		time.AfterFunc(10*time.Second, free)
		start := time.Now()
		if got, took := m[0].query("sum(m)"), time.Since(start); got.values[""] != "36" || took < 9*time.Second || took > 11*time.Second {
			t.Errorf("%+v after %v", got, took)
		}
		if metrics := m[1].get("/metrics").text; !strings.Contains(metrics, "\nstarling_query_evaluations_running 0\n") {
			t.Error("/metrics does not say how many run")
		}
	})
}

// Nodes that have no turn to give have lists of labels wait, for their own clients and for others, as
// long as they have time, and queries go on. One such node is done without.
func TestLabelListsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		if code := m[0].write("m", 1, 2, 3, 4, 5, 6, 7, 8); code != http.StatusNoContent {
			t.Fatal(code)
		}
		time.AfterFunc(10*time.Second, occupy(t, m[1].labelLists, m[2].labelLists))
		var asked sync.WaitGroup
		start := time.Now()
		for _, coordinator := range m[:2] {
			for path, want := range map[string]string{"/api/v1/labels": "__name__", "/api/v1/label/__name__/values": `"m"`} {
				asked.Go(func() {
					got := coordinator.get(path)
					if took := time.Since(start); got.code != http.StatusOK || !strings.Contains(got.text, want) || took < 9*time.Second || took > 11*time.Second {
						t.Errorf("%s answers %s with %+v after %v", coordinator.name, path, got, took)
					}
				})
			}
		}
		<-time.After(time.Second)
		if n := testutil.ToFloat64(m[1].labelLists.waiting); n != 4 {
			t.Errorf("%v wait, want 4", n)
		}
		queried := time.Now()
		if got := m[0].query("sum(m)"); got.values[""] != "36" || time.Since(queried) > time.Second {
			t.Errorf("a query meanwhile: %+v after %v", got, time.Since(queried))
		}
		asked.Wait()
		synctest.Wait()
		for _, n := range m {
			if running, waiting := testutil.ToFloat64(n.labelLists.running), testutil.ToFloat64(n.labelLists.waiting); running != 0 || waiting != 0 {
				t.Errorf("%s: %v run and %v wait, want none", n.name, running, waiting)
			}
		}
	})
}

// Nodes whose queries all need each other, with many more of them than turns, do not wait in a circle.
func TestEvaluationsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.nearbyWork = -1
		m := f.fresh("a", "b", "c")
		if code := m[0].write("m", 1, 2, 3, 4, 5, 6, 7, 8); code != http.StatusNoContent {
			t.Fatal(code)
		}
		for _, n := range m {
			n.evaluations = newEvaluations(1, nil)
		}
		var queries sync.WaitGroup
		for i := range 60 {
			queries.Go(func() {
				if got := m[i%3].query("sum(m) + max(m) + count(m)"); got.values[""] != "52" {
					t.Errorf("%s answers %+v", m[i%3].name, got)
				}
			})
		}
		queries.Wait()
	})
}

// What an owner holds for a query is bounded there, whatever the coordinator's own limit.
func TestMaxSamplesOnOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.nearbyWork = -1
		m := f.fresh("a", "b", "c")
		values := make([]float64, 100)
		if code := m[0].write("m", values...); code != http.StatusNoContent {
			t.Fatal(code)
		}
		m[1].opts.Config.Query.MaxSamples = 10
		if got := m[0].query("count by (i) (m)"); got.code != http.StatusUnprocessableEntity || !strings.Contains(got.text, "too many samples") {
			t.Errorf("%+v", got)
		}
		if got := m[0].query("count(m)"); got.values[""] != "100" {
			t.Errorf("what fits: %+v", got)
		}
	})
}
