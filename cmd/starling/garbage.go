package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

const (
	// gcPercent is what Prometheus sets: most of the memory lives long, so that garbage needs
	// less room beside it than the 100% of other programs.
	gcPercent = 75
	// gcRoom is the least room for garbage, in bytes, of which no more than 1/gcRoomShare of
	// GOMEMLIMIT is taken.
	gcRoom      = 256 << 20
	gcRoomShare = 8
)

// leaveRoom has the garbage collector run when as much was allocated as gcPercent of what lives, or
// as there is room at least. The environment variable GOGC wins. It ends with what is returned.
func leaveRoom() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	r := &room{bytes: uint64(min(gcRoom, debug.SetMemoryLimit(-1)/gcRoomShare))}
	debug.SetGCPercent(r.percent(0))
	r.watch()
	return func() { r.stopped.Store(true) }
}

// room is left for garbage. A run of the collector marks all that lives, however little is garbage: while
// a node has few series they should be seldom, at little cost.
type room struct {
	bytes   uint64
	stopped atomic.Bool
}

// minimumHeap is what the runtime takes GOGC of where less lives.
const minimumHeap = 4 << 20

// percent returns GOGC where so many bytes live.
func (r *room) percent(live uint64) int {
	return max(gcPercent, int(100*r.bytes/max(live, minimumHeap)))
}

// watch sets GOGC after each run of the collector, which it is told of by something that nothing
// refers to.
func (r *room) watch() {
	// A pointer, as small objects without one may be kept together with others.
	witness := new(*room)
	runtime.AddCleanup(witness, func(r *room) {
		if r.stopped.Load() {
			return
		}
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		debug.SetGCPercent(r.percent(live[0].Value.Uint64()))
		r.watch()
	}, r)
}
