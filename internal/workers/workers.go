// Package workers runs functions on goroutines that are used again. A new goroutine begins with
// a small stack and has it copied to a larger one, several times where a compressor keeps its
// table there: that is a few percent of what an append costs.
package workers

import "time"

// idle is how long a goroutine waits for another function before it ends.
const idle = 5 * time.Second

// Pool runs functions, each at once: it has as many goroutines as run functions, and those that
// have ended theirs a short while ago.
type Pool struct {
	next   chan func()
	closed chan struct{}
}

// New returns a pool without goroutines.
func New() *Pool { return &Pool{next: make(chan func()), closed: make(chan struct{})} }

// Close ends the goroutines that are idle now, and from now on each when its function returns.
func (p *Pool) Close() { close(p.closed) }

// Go calls f in a goroutine of its own. A panic of f is that of a goroutine.
func (p *Pool) Go(f func()) {
	select {
	case p.next <- f:
	default:
		go p.work(f)
	}
}

func (p *Pool) work(f func()) {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		f()
		timer.Reset(idle)
		select {
		case f = <-p.next:
		case <-timer.C:
			return
		case <-p.closed:
			return
		}
	}
}
