package node

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
)

// TestUnderReplicated counts each series that an owner does not hold all of once, whoever counts.
func TestUnderReplicated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c", "d")
		written := 0
		write := func(n int) {
			t.Helper()
			for range n {
				if code := f.someone().write(fmt.Sprint("m", written), 1); code != http.StatusNoContent {
					t.Fatalf("write: %d", code)
				}
				written++
			}
		}
		want := func(when string, count func() int) {
			t.Helper()
			f.eventuallyEvery(time.Second, 2*time.Minute, when, func() error {
				series, bytes := 0.0, 0.0
				for _, m := range f.nodes {
					series += testutil.ToFloat64(m.replication.series)
					bytes += testutil.ToFloat64(m.replication.bytes)
				}
				if n := count(); series != float64(n) || (bytes > 0) != (n > 0) {
					return fmt.Errorf("%v series in %v bytes, want %d", series, bytes, n)
				}
				return nil
			})
		}
		none := func() int { return 0 }
		write(40)
		<-time.After(2 * replicationLook)
		want("all are there", none)
		gone := m[3].cluster.Self()
		m[3].crash()
		write(20)
		owned := func() int {
			owner, n := m[0].placed.Load().reading.owner(gone), 0
			for i := range written {
				if owner.owns(keyOf(labels.FromStrings(labels.MetricName, fmt.Sprint("m", i), "i", "0"))) {
					n++
				}
			}
			return n
		}
		if n := owned(); n == 0 || n == written {
			t.Fatalf("the node that is gone owns %d of %d series: nothing is tested", n, written)
		}
		want("one is gone", owned)
		f.start("d", ip(4), join(4))
		want("it is back", none)
	})
}
