package storage

import (
	"fmt"
	"time"
)

// The TSDB does not survive a full disk: where it cannot write a file of chunks it panics,
// often in a goroutine of its own, which ends the process. So appends end before the file
// system is full, whoever fills it.
const (
	// maxReserve is what a large file system must have free for appends to be taken. It
	// is more than anything writes between two looks, and than a repair of a log needs.
	maxReserve = 512 << 20
	// spaceInterval is the time between two looks at the file system.
	spaceInterval = 250 * time.Millisecond
)

// usage is how full a file system is, in bytes. free is what a process without privileges
// may write.
type usage struct{ free, total uint64 }

// reserve is what must be free for appends to be taken: a tenth of a small file system.
func (u usage) reserve() uint64 { return min(maxReserve, u.total/10) }

// enough is what must be free for appends to be taken again: a quarter more, so that what
// is taken first does not end them at once.
func (u usage) enough() uint64 { return u.reserve() + u.reserve()/4 }

// least is what must be free for the TSDB to be opened: a replay writes chunks, and the
// repair of a torn log writes a segment.
func (u usage) least() uint64 { return u.reserve() / 4 }

// full tells whether appends are refused, given whether they were before.
func (u usage) full(was bool) bool {
	if was {
		return u.free < u.enough()
	}
	return u.free < u.reserve()
}

// mib renders a number of bytes.
func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// fullError says why appends are refused. It wraps ErrFenced and ErrDiskFull.
func fullError(dir string, u usage) error {
	return fmt.Errorf("%w: %w: --storage.tsdb.path=%s has %s free and less than the reserve of %s; appends go on by themselves once %s are free",
		ErrFenced, ErrDiskFull, dir, mib(u.free), mib(u.reserve()), mib(u.enough()))
}

// checkOpening returns why the TSDB must not be opened now, or nil.
func checkOpening(dir string, measure func(string) (usage, error)) error {
	u, err := measure(dir)
	if err != nil || u.free >= u.least() {
		return nil // a file system that does not tell is taken for a roomy one
	}
	return fmt.Errorf("%w: %s has %s free, and opening the storage may need %s: free some space and start again, nothing that was acknowledged is lost",
		ErrDiskFull, dir, mib(u.free), mib(u.least()))
}

// watchSpace ends appends before the disk is full and lets them in again afterwards. It is
// called by the keeper only.
func (s *Store) watchSpace() {
	u, err := s.hooks.usage(s.opts.Dir)
	if err != nil {
		return // as it was: a disk that fails is noticed by what it does to the logs
	}
	s.metrics.disk.show(u)
	s.keeper.space.Store(&u)
	if full := u.full(s.keeper.full); full != s.keeper.full {
		s.keeper.full, s.keeper.settled = full, false
		if full {
			s.fence.setFull(fullError(s.opts.Dir, u))
		} else {
			s.fence.setFull(nil)
		}
	}
	if s.keeper.full && !s.keeper.settled && u.free >= u.least() {
		s.settle()
	}
}

// Disk is how many bytes of the file system were free at the last look, and how many there are:
// 0 if it has not told. It does not wait for the disk.
func (s *Store) Disk() (free, size uint64) {
	if u := s.keeper.space.Load(); u != nil {
		return u.free, u.total
	}
	return 0, 0
}

// settle has the TSDB write the chunks that are complete, as it does every minute, while
// there is room for them: without new samples it has none to write later. Appends that are
// under way can still complete some, so that is repeated until there are none.
func (s *Store) settle() {
	if s.fence.check() != nil {
		return
	}
	quiet := s.appends.count() == 0
	err := s.fence.guard("write complete chunks", func() error {
		s.db.ForceHeadMMap()
		return nil
	})
	s.keeper.settled = quiet && err == nil
}
