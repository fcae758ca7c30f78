package storage

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestCompactionsAreSpread: stores that are given the same samples at the same time do not cut their blocks at the
// same time, but all within what an option allows.
func TestCompactionsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stores, percent = 8, 10
		cutAfter := func(percent int) time.Duration {
			o := importOptions(t.TempDir())
			o.CompactionDelay = percent
			s := mustOpen(t, o, hooks{})
			began := time.Now()
			for m := range 2 * 60 {
				mustAppend(t, s, batch(floats(name("a"), float64(at(time.Duration(m)*time.Minute)), 1)))
			}
			for len(s.db.Blocks()) == 0 {
				if time.Since(began) > time.Hour {
					t.Fatal("no block within an hour")
				}
				<-time.After(time.Second)
			}
			return time.Since(began)
		}
		var all []time.Duration
		for range stores {
			all = append(all, cutAfter(percent))
		}
		slices.Sort(all)
		// The TSDB looks once a minute.
		if most := time.Hour*percent/100 + 2*time.Minute; all[stores-1] > most {
			t.Errorf("blocks were cut after %v, want %v at most", all, most)
		}
		if all[stores-1]-all[0] < 30*time.Second {
			t.Errorf("all blocks were cut at about the same time, after %v", all)
		}
		if took := cutAfter(0); took > time.Minute {
			t.Errorf("not to be put off, a block was cut after %v", took)
		}
	})
}
