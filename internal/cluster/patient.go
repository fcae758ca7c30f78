package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// patientStore is the log store as Raft uses it. Raft panics when its term cannot be
// written, and goes on with servers that are in no log when an entry that changes them
// cannot. Such writes are tried until they succeed or the store is closed: this node's
// Raft stands still meanwhile, and nothing that serves data waits for Raft.
//
// All other errors are Raft's to handle. A leader that cannot store an entry steps down, a
// follower is sent it again, and the log is shortened at the next snapshot.
type patientStore struct {
	*logStore
	log      *slog.Logger
	complain *throttle

	done chan struct{}
	once sync.Once
}

// termKey is where Raft keeps its term.
const termKey = "CurrentTerm"

// The pause between two attempts to write doubles from the first to the last.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

func newPatientStore(s *logStore, complain time.Duration, log *slog.Logger) *patientStore {
	return &patientStore{logStore: s, log: log, complain: newThrottle(complain), done: make(chan struct{})}
}

// close ends all attempts and has later writes fail. Raft has to be told to shut down
// before.
func (p *patientStore) close() {
	p.once.Do(func() { close(p.done) })
	p.logStore.close()
}

// retry writes until it succeeds, or the store is closed, which is errClosed.
func (p *patientStore) retry(what string, write func() error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := write()
		if err == nil || errors.Is(err, errClosed) || errors.Is(err, errNoGap) {
			return err
		}
		if p.complain.allow("write") {
			p.log.Error("Raft cannot write to its disk; it is tried again, and this node takes no part in changes of the table until it succeeds",
				"write", what, "err", err)
		}
		select {
		case <-p.done:
			return fmt.Errorf("write %s: %w: %w", what, errClosed, err)
		case <-time.After(pause):
		}
	}
}

// Set implements raft.StableStore.
func (p *patientStore) Set(key, value []byte) error {
	return p.retry(string(key), func() error { return p.logStore.Set(key, value) })
}

// SetUint64 implements raft.StableStore. A term that is not written because the store is
// closed is none that Raft may panic over: it is shutting down, and since no vote and no
// entry can be written any more, it can promise nothing to anybody in that term.
func (p *patientStore) SetUint64(key []byte, value uint64) error {
	err := p.retry(string(key), func() error { return p.logStore.SetUint64(key, value) })
	if string(key) == termKey && errors.Is(err, errClosed) {
		return nil
	}
	return err
}

// StoreLog implements raft.LogStore.
func (p *patientStore) StoreLog(log *raft.Log) error { return p.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (p *patientStore) StoreLogs(logs []*raft.Log) error {
	servers := slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
	if !servers {
		return p.logStore.StoreLogs(logs)
	}
	err := p.retry("a change of the servers", func() error { return p.append(logs) })
	p.settle(err)
	return err
}
