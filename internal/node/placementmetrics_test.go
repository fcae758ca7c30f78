package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A whole zone takes one copy of each series with it, and a node of another zone a second one
// of some: the metrics say so, and when the node that tells is not ready any more.
func TestMetricsOfMissingCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		zones := f.zoned(2, 2, 2)
		left := zones[2][0]
		expect := func(when string, missing, ready float64) {
			t.Helper()
			f.eventually(time.Minute, when, func() error {
				for name, want := range map[string]float64{
					"starling_placement_copies": 3, "starling_placement_write_quorum": 2,
					"starling_placement_missing_copies": missing, "starling_ready": ready,
				} {
					if got := left.metric(t, name); got != want {
						return fmt.Errorf("%s is %v, want %v", name, got, want)
					}
				}
				return nil
			})
		}
		expect("all are there", 0, 1)
		zones[0][0].crash()
		expect("one is gone", 1, 1)
		zones[0][1].crash()
		expect("a zone is gone", 1, 1)
		zones[1][0].crash()
		expect("one of another zone is gone, which is half of them all", 2, 0)
	})
}
