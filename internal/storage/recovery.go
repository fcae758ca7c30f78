package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/statefile"
)

const (
	// firstPause and lastPause bound the time between two attempts to open a fenced
	// storage again; it doubles from one to the other.
	firstPause = time.Second
	lastPause  = 10 * time.Second
	// probeBytes is what a disk has to take, synced, to count as usable, where that is no
	// more than the reserve.
	probeBytes = 4 << 20
	probeFile  = "probe.starling"
)

// errReopening is what everybody hears while the storage is opened again.
var errReopening = fmt.Errorf("%w: it is being opened again, and its logs replayed", ErrFenced)

// keeper is the goroutine that watches the disk, opens a fenced storage again, and has samples
// expire.
type keeper struct {
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{}
	// full is set while appends are refused for lack of space, settled when the TSDB has
	// nothing left to write then.
	full, settled bool
	// marks are how far the logs were durable before the first attempt.
	marks []mark
	// space is how full the file system was at the last look, nil before the first.
	space atomic.Pointer[usage]

	mu    sync.Mutex
	state string // what is done about a fence
}

func newKeeper() keeper {
	ctx, cancel := context.WithCancel(context.Background())
	return keeper{ctx: ctx, cancel: cancel, done: make(chan struct{})}
}

// stop ends the keeper, and returns when it has ended or the store is dead: what a panic
// has left locked may hold it for ever.
func (k *keeper) stop(dead <-chan struct{}) {
	k.cancel()
	select {
	case <-k.done:
	case <-dead:
	}
}

func (k *keeper) say(state string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = state
}

// explain adds to a fence's error what is done about it.
func (k *keeper) explain(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil || k.state == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, k.state)
}

// keep runs until the store is closed or dead.
func (s *Store) keep() {
	defer close(s.keeper.done)
	look := time.NewTicker(spaceInterval)
	defer look.Stop()
	expire := time.NewTicker(expireInterval)
	defer expire.Stop()
	var retry <-chan time.Time
	var pause time.Duration
	for {
		select {
		case <-s.keeper.ctx.Done():
			return
		case <-s.fence.dead:
			return
		case <-look.C:
			s.watchSpace()
			continue
		case <-expire.C:
			s.expire()
			continue
		case <-s.fence.raised:
			pause, retry = firstPause, time.After(firstPause)
			s.keeper.say(fmt.Sprintf("the disk is tried for the first time after %s", firstPause))
			continue
		case <-retry:
		}
		err := s.recover()
		if err == nil {
			retry = nil
			s.keeper.say("")
			continue
		}
		if s.keeper.ctx.Err() != nil || s.fence.death() != nil {
			return
		}
		pause = min(2*pause, lastPause)
		retry = time.After(pause)
		err = oneLine(err)
		s.keeper.say(fmt.Sprintf("it cannot be opened again yet, and is tried every %s: %v", pause, err))
		s.opts.Logger.Warn("Storage stays fenced: it cannot be opened again yet", "next_attempt_in", pause, "err", err)
	}
}

// recover opens a fenced storage again if the disk is usable.
func (s *Store) recover() error {
	if s.sync != nil {
		s.keeper.marks = s.sync.marks()
	}
	// Before anything is closed: reads go on until the right disk is there.
	if err := s.sameDisk(); err != nil {
		return err
	}
	if err := s.probe(); err != nil {
		return fmt.Errorf("disk is not usable: %w", err)
	}
	s.opts.Logger.Info("Disk is usable: opening the storage again")
	s.keeper.say("it is being opened again, and its logs replayed")
	if err := s.reopen(); err != nil {
		return err
	}
	s.metrics.reopened.Inc()
	s.opts.Logger.Info("Storage was opened again: writes are confirmed", "fenced_for", s.fence.lower())
	s.appends.open()
	s.readers.open()
	s.upkeep.open()
	return nil
}

// probe writes, syncs and removes a file.
func (s *Store) probe() error {
	size := uint64(probeBytes)
	if u, err := s.hooks.usage(s.opts.Dir); err == nil {
		if u.full(true) {
			return fullError(s.opts.Dir, u)
		}
		size = min(size, u.reserve())
	}
	path := filepath.Join(s.opts.Dir, probeFile)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, size))
	if err == nil {
		err = s.hooks.fsync(f)
	}
	return errors.Join(err, f.Close(), os.Remove(path), statefile.SyncPath(s.opts.Dir, s.hooks.fsync))
}

// reopen closes the TSDB and opens it again. After an error in the closing the store goes
// on as it was, fenced; after a later one it has no TSDB, answers no reads, and the next
// call goes on from there.
func (s *Store) reopen() error {
	if s.db != nil {
		if err := s.closeForReopening(); err != nil {
			return err
		}
	}
	if s.sync != nil {
		if err := s.sync.restore(); err != nil {
			return fmt.Errorf("make the logs durable: %w", err)
		}
		s.sync.release()
		s.sync = nil
	}
	if err := dropSnapshots(s.opts.Dir); err != nil {
		return err
	}
	return s.openLogs()
}

// closeForReopening closes the TSDB once nobody uses it. Who comes meanwhile is refused.
func (s *Store) closeForReopening() error {
	appended := s.appends.shut(errReopening)
	if err := s.awaitEmpty(appended, "appends that still run"); err != nil {
		s.appends.open()
		return err
	}
	kept := s.upkeep.shut(errReopening)
	if err := s.awaitEmpty(kept, "blocks that are still written"); err != nil {
		s.appends.open()
		s.upkeep.open()
		return err
	}
	read := s.readers.shut(errReopening)
	if err := s.awaitEmpty(read, "queriers that are still open"); err != nil {
		s.appends.open()
		s.upkeep.open()
		s.readers.open()
		return err
	}
	s.sync.stop()
	// What does not reach the disk was not confirmed, so an error loses nothing. Locks are
	// gone all the same.
	if err := closeFenced(s.db); err != nil {
		s.opts.Logger.Warn("Fenced TSDB closed with an error", "err", oneLine(err))
	}
	s.compactor.late.end() // what its goroutine was about to do
	s.fence.watch(nil)
	s.failures.unregister()
	s.db = nil
	return nil
}

// closeFenced closes a TSDB that nobody uses. It may panic when it writes the last chunks to
// a file of a disk that is gone: then its logs and the files of its head's chunks stay open,
// and mapped into memory, until the process ends. Its own goroutine has ended by then and
// its lock on the directory is released.
func closeFenced(db *tsdb.DB) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return db.Close()
}

// awaitEmpty waits for a gate that was shut, for as long as Close does.
func (s *Store) awaitEmpty(empty <-chan struct{}, who string) error {
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case <-empty:
		return nil
	case <-s.keeper.ctx.Done():
		return ErrClosed
	case <-s.fence.dead:
		return s.fence.death()
	case <-timeout.C:
		return fmt.Errorf("the storage is in use after %s: %s", closeTimeout, who)
	}
}
