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

	"github.com/starling-tsdb/starling/internal/statefile"
)

// logStore is the log and the stable store of Raft: the commands since the last snapshot,
// the term and the vote, in one checksummed file that is written anew at each change.
// That suits this log, which holds some hundred small commands between two snapshots and
// grows by a few of them a day. The stores that come with Raft do not suit it: the one on
// bbolt ends the process with SIGBUS when its file was truncated, and a log that raft-wal
// 0.4.0 truncated at its end cannot be read after the next start.
//
// It does not implement raft.MonotonicLogStore, although it has no gaps: Raft would delete
// all entries after it installed a snapshot, also those that follow on the snapshot, which
// this node had confirmed. Here entries give way when what is stored next shows that they
// have to, see append.
type logStore struct {
	dir string
	// snapshot returns the last entry of the newest snapshot, 0 if there is none.
	snapshot func() (index, term uint64, err error)

	mu   sync.Mutex
	data logData
	// cut holds what was deleted from the end since the last append. Raft replaces it at
	// once, and goes on as if it were still there if that fails. So it is.
	cut    []*raft.Log
	closed bool // the directory is not ours any more
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
func openLogStore(dir string, snapshot func() (index, term uint64, err error)) (*logStore, error) {
	s := &logStore{dir: dir, snapshot: snapshot}
	err := statefile.Load(dir, logFile, &s.data)
	if errors.Is(err, os.ErrNotExist) {
		err = statefile.Save(dir, logFile, s.data)
	}
	if err != nil {
		return nil, err
	}
	for i, e := range s.data.Entries {
		if e == nil {
			return nil, fmt.Errorf("%s: %w: entry %d is missing", filepath.Join(dir, logFile), statefile.ErrDamaged, i)
		}
		if e.Index != s.data.Entries[0].Index+uint64(i) {
			return nil, fmt.Errorf("%s: %w: entry %d has index %d", filepath.Join(dir, logFile), statefile.ErrDamaged, i, e.Index)
		}
	}
	index, term, err := snapshot()
	if err != nil {
		return nil, err
	}
	if outdated(s.data.Entries, index, term) {
		s.data.Entries = nil
	}
	return s, nil
}

// outdated tells whether a snapshot that ends with the given entry replaces all of the
// log: the log ends before it, or is of another history.
func outdated(entries []*raft.Log, index, term uint64) bool {
	if len(entries) == 0 || index == 0 || index < entries[0].Index {
		return false
	}
	i := index - entries[0].Index
	return i >= uint64(len(entries)) || entries[i].Term != term
}

// close makes later writes fail, once the present one is over.
func (s *logStore) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
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
	if s.closed {
		return errClosed
	}
	if err := statefile.Save(s.dir, logFile, next); err != nil {
		return err
	}
	s.data = next
	return nil
}

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

// beginsAfter tells whether the log begins right after the newest snapshot, and that ends
// with the given entry.
func (s *logStore) beginsAfter(index, term uint64) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.data.Entries) == 0 || s.data.Entries[0].Index != index+1 {
		return false, nil
	}
	lastIndex, lastTerm, err := s.snapshot()
	return err == nil && lastIndex == index && lastTerm == term, err
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs appends entries, which are stable when it returns.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	err := s.append(logs)
	s.settle(err)
	return err
}

// append is StoreLogs without what has to follow. Entries that end before the newest
// snapshot give way to one that follows on the snapshot.
func (s *logStore) append(logs []*raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := logData{Stable: s.data.Stable, Entries: slices.Clone(s.data.Entries)}
	last := s.lastLocked()
	if len(logs) > 0 && last != 0 && logs[0].Index > last+1 {
		index, term, err := s.snapshot()
		if err != nil {
			return err
		}
		if logs[0].Index == index+1 && outdated(next.Entries, index, term) {
			next.Entries, last = nil, 0
		}
	}
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

// settle follows the last attempt to append. If it failed, a truncation before it is
// undone.
func (s *logStore) settle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.data.Entries = slices.Concat(s.data.Entries, s.cut)
	}
	s.cut = nil
}

// DeleteRange deletes entries from either end of the log, both bounds included. Entries
// at the end stay on disk until others are stored: only together is it a change that a
// crash must not divide.
func (s *logStore) DeleteRange(from, to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := logData{Stable: s.data.Stable}
	var deleted []*raft.Log
	for _, e := range s.data.Entries {
		if from <= e.Index && e.Index <= to {
			deleted = append(deleted, e)
		} else {
			next.Entries = append(next.Entries, e)
		}
	}
	if n := len(next.Entries); n > 0 && next.Entries[n-1].Index != next.Entries[0].Index+uint64(n)-1 {
		return fmt.Errorf("%w: delete %d to %d of %d to %d", errNoGap, from, to, next.Entries[0].Index, next.Entries[n-1].Index)
	}
	if to >= s.lastLocked() {
		s.cut = slices.Concat(deleted, s.cut)
		s.data = next
		return nil
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
		return 0, fmt.Errorf("%s in the Raft log: %w: %q is no number", key, statefile.ErrDamaged, b)
	}
	return value, nil
}
