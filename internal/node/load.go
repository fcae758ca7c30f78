package node

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/starling-tsdb/starling/internal/transport"
)

// loadInterval is over how long a load is measured.
const loadInterval = 10 * time.Second

// load measures how busy this node is. It may be used concurrently.
type load struct {
	// stored counts samples.
	stored atomic.Int64

	mu sync.Mutex
	// before is where the present interval began, and last what the one before it gave.
	before loadMark
	last   transport.Load
}

// loadMark is what was spent up to a time.
type loadMark struct {
	at     time.Time
	stored int64
	cpu    time.Duration
}

func (l *load) mark() loadMark { return loadMark{time.Now(), l.stored.Load(), cpuTime()} }

// run measures one interval after the other, until ctx ends.
func (l *load) run(ctx context.Context) {
	l.look()
	ticks := time.NewTicker(loadInterval)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			l.look()
		}
	}
}

// look ends an interval and begins the next.
func (l *load) look() {
	now := l.mark()
	l.mu.Lock()
	defer l.mu.Unlock()
	if took := now.at.Sub(l.before.at).Seconds(); !l.before.at.IsZero() && took > 0 {
		l.last.SamplesPerSecond = float64(now.stored-l.before.stored) / took
		l.last.CPU = (now.cpu - l.before.cpu).Seconds() / took
	}
	l.before = now
}

// read tells the load, on a disk with so many bytes free and in all.
func (l *load) read(free, size uint64) transport.Load {
	l.mu.Lock()
	out := l.last
	l.mu.Unlock()
	out.CPUs, out.Memory, out.DiskFree, out.DiskSize = runtime.GOMAXPROCS(0), memoryHeld(), free, size
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		out.MemoryLimit = uint64(limit)
	}
	return out
}

// cpuTime is what this process has used, 0 if the system does not tell.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memoryHeld is what the runtime has from the system and has not given back: what its limit is
// a limit of.
func memoryHeld() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}
