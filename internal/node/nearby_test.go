package node

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestFewSeriesAreReadNearby: of few series the node that is asked answers alone, while nobody notes a
// gap for it, and of others it is told by those that hold what it misses.
func TestFewSeriesAreReadNearby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.nearbyWork = 12
		m := f.fresh("a", "b", "c")
		// ask wants a query answered, after a nearby read of that outcome.
		ask := func(what, query, want, outcome string) {
			t.Helper()
			const reads = "starling_query_nearby_reads_total"
			before := map[string]float64{}
			for _, o := range []string{"complete", "divided", "error"} {
				before[o] = m[0].metric(t, reads, o)
			}
			if got := m[0].query(query); got.code != http.StatusOK || got.values[""] != want {
				t.Errorf("%s: %s is %+v, want %s", what, query, got, want)
			}
			for o, n := range before {
				want := 0.0
				if o == outcome {
					want = 1
				}
				if did := m[0].metric(t, reads, o) - n; did != want {
					t.Errorf("%s: %v nearby reads came to %s, want %v", what, did, o, want)
				}
			}
		}
		write := func(by *member, metric string, n int) {
			t.Helper()
			values := make([]float64, n)
			for i := range values {
				values[i] = 1
			}
			if code := by.write(metric, values...); code != http.StatusNoContent {
				t.Fatal(code)
			}
		}
		write(m[1], "few", 8)
		write(m[1], "many", 40)
		f.caughtUp(time.Minute)
		ask("all is well", "sum(few)", "8", "complete")
		ask("many series", "sum(many)", "40", "divided")

		f.net.Partition([]string{ip(1)}, []string{ip(2), ip(3)})
		write(m[1], "fewer", 5)
		f.net.Heal()
		synctest.Wait()
		f.eventuallyEvery(10*time.Millisecond, time.Minute, "the node that missed something answers", func() error {
			if got := m[0].query("sum(fewer)"); got.values[""] != "5" {
				if got.code == http.StatusOK {
					t.Fatalf("it answers without what it misses: %+v", got)
				}
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
		f.caughtUp(time.Minute)
		ask("it has caught up", "sum(fewer)", "5", "complete")

		f.net.Partition([]string{ip(1), ip(2)}, []string{ip(3)})
		ask("another node is gone", "sum(few)", "8", "complete")
		f.net.Partition([]string{ip(1)}, []string{ip(2), ip(3)})
		if got := m[0].query("sum(few)"); got.code != http.StatusServiceUnavailable {
			t.Errorf("it answers though it cannot know what it misses: %+v", got)
		}
		f.net.Heal()
	})
}
