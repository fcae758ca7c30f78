//go:build linux

package server

import (
	"context"
	"sync"
	"time"
)

// Point is what all servers had used at a time, when so many samples were acknowledged.
type Point struct {
	At      time.Time
	Samples int
	Servers []Reading
	Scrapes int
	Refused int
}

// Watch reads all servers once a second.
type Watch struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	points []Point
}

// Watch begins to read. note fills in what is known of the load at the same time, and may show
// it to somebody. A reading that fails is left out: a server that is too busy to tell what it
// uses is a gap in the figures over time, and no reason to end.
func (c *Cluster) Watch(ctx context.Context, every time.Duration, note func(*Point)) *Watch {
	w := &Watch{}
	ctx, w.stop = context.WithCancel(ctx)
	w.wg.Go(func() {
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		for {
			p := Point{At: time.Now()}
			note(&p)
			limited, cancel := context.WithTimeout(ctx, 10*every)
			all, err := c.Read(limited)
			cancel()
			if err == nil {
				p.Servers = all
				w.mu.Lock()
				w.points = append(w.points, p)
				w.mu.Unlock()
			}
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return w
}

// Stop ends it and returns what was read.
func (w *Watch) Stop() []Point {
	w.stop()
	w.wg.Wait()
	return w.points
}
