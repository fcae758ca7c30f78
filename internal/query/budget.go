package query

import (
	"errors"
	"sync"
	"sync/atomic"
)

// errShareClosed stops a node that is still read after its answer was given up. Nobody
// waits for that answer, so nobody sees the error.
var errShareClosed = errors.New("the answer is not wanted anymore")

// budget bounds what all reads of one querier hold together, however many run at once,
// and ends with the querier. What it holds is in the hands of shares, one for each node
// that an attempt asks: a share gives back all it took or, if its answer is used, nothing.
type budget struct {
	limit int64
	used  atomic.Int64 // never more than limit: what does not fit is not counted
}

func (b *budget) take(n int64) error {
	for {
		used := b.used.Load()
		if n > b.limit-used {
			return &TooManyBytesError{Limit: b.limit}
		}
		if b.used.CompareAndSwap(used, used+n) {
			return nil
		}
	}
}

// share is what the answer of one node took of a budget. The goroutine that reads the
// answer takes, and may go on after its attempt has ended: once the share is closed it
// takes nothing, so that it does not burden the attempts that follow.
type share struct {
	budget *budget

	mu     sync.Mutex // so that nothing is taken after the bytes were given back
	taken  int64
	closed bool
}

// take must come before the bytes are held.
func (s *share) take(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errShareClosed
	}
	if err := s.budget.take(n); err != nil {
		return err
	}
	s.taken += n
	return nil
}

// close ends the taking and returns how many bytes were taken. Unless they are kept, they
// are given back. A share can be closed again: it has taken nothing then.
func (s *share) close(keep bool) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.taken
	s.taken, s.closed = 0, true
	if !keep {
		s.budget.used.Add(-taken)
	}
	return taken
}
