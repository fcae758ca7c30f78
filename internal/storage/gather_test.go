package storage

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSyncsGather: a sync waits for appends that are on their way, as long as two syncs take
// and no longer, and that of an append that is alone does not.
func TestSyncsGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 4 * time.Millisecond
		d := newDisk()
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
		d.before = func() error { time.Sleep(takes); return nil }
		second := 0
		appended := func() time.Duration {
			second++
			start := time.Now()
			mustAppend(t, s, batch(floats(name("a"), float64(at(time.Duration(second)*time.Second)), 1)))
			return time.Since(start)
		}
		for range 100 { // until it is known what a sync takes
			if got := appended(); got != takes {
				t.Fatalf("an append that is alone takes %v, want %v", got, takes)
			}
		}
		s.sync.begin()
		if got := appended(); got < 3*takes-takes/50 || got > 3*takes {
			t.Errorf("an append beside one that does not come takes %v, want about %v", got, 3*takes)
		}
		go func() {
			time.Sleep(takes / 4)
			s.sync.end()
		}()
		if got, want := appended(), takes+takes/4; got != want {
			t.Errorf("an append beside one that comes takes %v, want %v", got, want)
		}
		if got := appended(); got != takes {
			t.Errorf("an append that is alone again takes %v, want %v", got, takes)
		}
	})
}
