package repair

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/handoff"
)

// A pass takes in each window, also where there are so many that several are due at each
// look.
func TestPassLeavesNoWindowOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		span := handoff.WindowSpan.Milliseconds()
		until := handoff.WindowEdge(time.Now().UnixMilli()) - 2*span
		first := until - 3*365*12*span
		c := NewComparer(ComparerOptions{})
		seen := map[int64]int{}
		for begin := time.Now(); time.Since(begin) < PassTime+time.Hour; time.Sleep(compareLook) {
			for start, ok := c.inPass(first, until, time.Now()); ok; start, ok = c.inPass(first, until, time.Now()) {
				seen[start]++
				c.done[start] = time.Now()
			}
		}
		for start := first; start < until; start += span {
			if n := seen[start]; n < 1 || n > 2 { // the pass after it has begun
				t.Fatalf("the window %d of %d was compared %d times", (start-first)/span, (until-first)/span, n)
			}
		}
	})
}
