package workers

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// self tells the calling goroutine from others.
func self() string {
	buf := make([]byte, 64)
	return string(bytes.Fields(buf[:runtime.Stack(buf, false)])[1])
}

// A goroutine is used again while it is idle, and not before it is done.
func TestGoroutinesAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New()
		var mu sync.Mutex
		ran := map[string]int{}
		run := func(n int, d time.Duration) {
			for range n {
				p.Go(func() {
					mu.Lock()
					ran[self()]++
					mu.Unlock()
					time.Sleep(d)
				})
			}
		}
		run(10, time.Second)
		synctest.Wait()
		if len(ran) != 10 {
			t.Fatalf("%d goroutines run ten functions that take a while", len(ran))
		}
		time.Sleep(time.Second + idle - 1)
		for range 20 {
			run(1, 0)
			synctest.Wait()
		}
		if len(ran) != 10 {
			t.Errorf("%d goroutines, though ten were idle", len(ran))
		}
		time.Sleep(idle + 1)
		run(1, 0)
		synctest.Wait()
		if len(ran) != 11 {
			t.Errorf("%d goroutines, want a new one: all others have ended", len(ran))
		}
		p.Close()
		for n := 12; n < 15; n++ {
			run(1, 0)
			synctest.Wait()
			if len(ran) != n {
				t.Errorf("%d goroutines, want %d: the pool is closed", len(ran), n)
			}
		}
	})
}
