package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestPercentLeavesRoom(t *testing.T) {
	const mega = 1 << 20
	for _, c := range []struct {
		room, live uint64
		want       int
	}{
		{256 * mega, 0, 6400},
		{256 * mega, 2 * mega, 6400},
		{256 * mega, 64 * mega, 400},
		{256 * mega, 256 * mega, 100},
		{256 * mega, 341 * mega, 75},
		{256 * mega, 342 * mega, 75},
		{256 * mega, 64 << 30, 75},
		{0, 64 * mega, 75},
	} {
		if got := (&room{bytes: c.room}).percent(c.live); got != c.want {
			t.Errorf("with %d MiB of room and %d that live GOGC is %d, want %d", c.room/mega, c.live/mega, got, c.want)
		}
	}
}

func TestRoomIsLeft(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30))
	stop := leaveRoom()
	defer stop()
	const room = 128 << 20 // an eighth of the limit
	if got := inForce(t, "/gc/gogc:percent"); got != 100*room/minimumHeap {
		t.Errorf("GOGC is %d at the start, want %d", got, 100*room/minimumHeap)
	}
	for _, size := range []uint64{32 << 20, 256 << 20, 0} {
		kept := make([]byte, size)
		// What is set after a run of the collector is set by a goroutine of the runtime's.
		for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
			runtime.GC()
			live, percent := inForce(t, "/gc/heap/live:bytes"), inForce(t, "/gc/gogc:percent")
			if low, high := max(gcPercent, 90*room/max(live, minimumHeap)), max(gcPercent, 110*room/max(live, minimumHeap)); live >= size && percent >= low && percent <= high {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("GOGC is %d where %d bytes live, want %d to %d", percent, live, low, high)
			}
		}
		runtime.KeepAlive(kept)
	}
}

func TestGOGCWins(t *testing.T) {
	t.Setenv("GOGC", "50")
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	defer leaveRoom()()
	if got := inForce(t, "/gc/gogc:percent"); got != 50 {
		t.Errorf("GOGC is %d, want 50", got)
	}
}

// inForce returns what the runtime tells.
func inForce(t *testing.T, name string) uint64 {
	t.Helper()
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		t.Fatalf("the runtime does not tell %s", name)
	}
	return s[0].Value.Uint64()
}
