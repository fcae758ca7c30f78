package cluster

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// logStore is the log and the stable store of Raft: the commands since the last snapshot,
// the term and the vote, in one checksummed file that is written anew at each change.
// That suits this log, which holds some hundred small commands between two snapshots and
// grows by a few of them a day. The stores that come with Raft do not suit it: the one on
// bbolt ends the process with SIGBUS when its file was truncated, and a log that raft-wal
// 0.4.0 truncated at its end cannot be read after the next start.
//
// It implements raft.LogStore, raft.StableStore and raft.MonotonicLogStore.
type logStore struct {
	dir string

	mu   sync.Mutex
	data logData
}

const logFile = "log"

// errNoGap is returned for an entry that does not follow the last one.
var errNoGap = errors.New("the Raft log must not have gaps")

type logData struct {
	Stable map[string][]byte `json:"stable,omitempty"`
	// Entries are contiguous.
	Entries []*raft.Log `json:"entries,omitempty"`
}

// openLogStore reads the log of a directory, or makes an empty one: that it is there tells
// a node that comes back from one that lost it.
func openLogStore(dir string) (*logStore, error) {
	s := &logStore{dir: dir}
	err := load(dir, logFile, &s.data)
	if errors.Is(err, os.ErrNotExist) {
		err = save(dir, logFile, s.data)
	}
	if err != nil {
		return nil, err
	}
	for i, e := range s.data.Entries {
		if e.Index != s.data.Entries[0].Index+uint64(i) {
			return nil, fmt.Errorf("%s: %w: entry %d has index %d", filepath.Join(dir, logFile), errDamaged, i, e.Index)
		}
	}
	return s, nil
}

// logExists tells whether a log was written in dir before.
func logExists(dir string) (bool, error) {
	there, err := exists(filepath.Join(dir, logFile))
	if err != nil {
		return false, fmt.Errorf("look for the Raft log: %w", err)
	}
	return there, nil
}

// replaceLocked makes next durable, and then current.
func (s *logStore) replaceLocked(next logData) error {
	if err := save(s.dir, logFile, next); err != nil {
		return err
	}
	s.data = next
	return nil
}

// IsMonotonic has Raft drop the log before it installs a snapshot that is ahead of it.
func (s *logStore) IsMonotonic() bool { return true }

// FirstIndex returns 0 for an empty log.
func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.data.Entries) == 0 {
		return 0, nil
	}
	return s.data.Entries[0].Index, nil
}

// LastIndex returns 0 for an empty log.
func (s *logStore) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastLocked(), nil
}

func (s *logStore) lastLocked() uint64 {
	if len(s.data.Entries) == 0 {
		return 0
	}
	return s.data.Entries[len(s.data.Entries)-1].Index
}

// GetLog implements raft.LogStore.
func (s *logStore) GetLog(index uint64, log *raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.data.Entries) == 0 || index < s.data.Entries[0].Index || index > s.lastLocked() {
		return raft.ErrLogNotFound
	}
	*log = *s.data.Entries[index-s.data.Entries[0].Index]
	return nil
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs appends entries, which are stable when it returns.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := logData{Stable: s.data.Stable, Entries: slices.Clone(s.data.Entries)}
	last := s.lastLocked()
	for _, l := range logs {
		if last != 0 && l.Index != last+1 {
			return fmt.Errorf("%w: entry %d after %d", errNoGap, l.Index, last)
		}
		last = l.Index
		entry := *l
		next.Entries = append(next.Entries, &entry)
	}
	return s.replaceLocked(next)
}

// DeleteRange deletes entries from either end of the log, both bounds included.
func (s *logStore) DeleteRange(from, to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	inside := func(l *raft.Log) bool { return from <= l.Index && l.Index <= to }
	next := logData{Stable: s.data.Stable, Entries: slices.DeleteFunc(slices.Clone(s.data.Entries), inside)}
	if n := len(next.Entries); n > 0 && next.Entries[n-1].Index != next.Entries[0].Index+uint64(n)-1 {
		return fmt.Errorf("%w: delete %d to %d of %d to %d", errNoGap, from, to, next.Entries[0].Index, next.Entries[n-1].Index)
	}
	return s.replaceLocked(next)
}

// Set implements raft.StableStore.
func (s *logStore) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := logData{Stable: maps.Clone(s.data.Stable), Entries: s.data.Entries}
	if next.Stable == nil {
		next.Stable = make(map[string][]byte)
	}
	next.Stable[string(key)] = slices.Clone(value)
	return s.replaceLocked(next)
}

// Get returns nothing for a key that was never set.
func (s *logStore) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.data.Stable[string(key)]), nil
}

// SetUint64 implements raft.StableStore.
func (s *logStore) SetUint64(key []byte, value uint64) error {
	return s.Set(key, fmt.Appendf(nil, "%d", value))
}

// GetUint64 returns 0 for a key that was never set.
func (s *logStore) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil || b == nil {
		return 0, err
	}
	var value uint64
	if _, err := fmt.Sscanf(string(b), "%d", &value); err != nil {
		return 0, fmt.Errorf("%s in the Raft log: %w: %q is no number", key, errDamaged, b)
	}
	return value, nil
}
