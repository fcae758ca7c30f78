package cluster

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft-wal/types"
)

// metaStore is the metadata and stable store below raft-wal: the list of segments, and
// Raft's term and vote. It replaces raft-wal's own, which is a bbolt file in a memory
// mapping: truncated, that ends the process with SIGBUS instead of an error. Its few
// hundred bytes are written anew at each change, which is once per election or segment.
type metaStore struct {
	mu   sync.Mutex
	dir  string
	data metaData
}

const metaFile = "meta"

type metaData struct {
	State  types.PersistentState `json:"state"`
	Stable map[string][]byte     `json:"stable"`
}

var _ types.MetaStore = (*metaStore)(nil)

// Load implements types.MetaStore.
func (m *metaStore) Load(dir string) (types.PersistentState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dir = dir
	m.data = metaData{}
	if err := load(dir, metaFile, &m.data); err != nil && !errors.Is(err, os.ErrNotExist) {
		return types.PersistentState{}, err
	}
	return m.data.State, nil
}

// CommitState implements types.MetaStore.
func (m *metaStore) CommitState(s types.PersistentState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := metaData{State: s, Stable: m.data.Stable}
	next.State.Segments = slices.Clone(s.Segments)
	return m.replaceLocked(next)
}

// GetStable implements types.MetaStore.
func (m *metaStore) GetStable(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.data.Stable[string(key)]), nil
}

// SetStable implements types.MetaStore.
func (m *metaStore) SetStable(key, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := metaData{State: m.data.State, Stable: maps.Clone(m.data.Stable)}
	if next.Stable == nil {
		next.Stable = make(map[string][]byte)
	}
	if value == nil {
		delete(next.Stable, string(key))
	} else {
		next.Stable[string(key)] = slices.Clone(value)
	}
	return m.replaceLocked(next)
}

func (m *metaStore) replaceLocked(next metaData) error {
	if m.dir == "" {
		return errors.New("the Raft metadata are not loaded")
	}
	if err := save(m.dir, metaFile, next); err != nil {
		return err
	}
	m.data = next
	return nil
}

// Close implements types.MetaStore.
func (m *metaStore) Close() error { return nil }

// metaExists tells whether a store was made in dir before.
func metaExists(dir string) (bool, error) {
	there, err := exists(filepath.Join(dir, metaFile))
	if err != nil {
		return false, fmt.Errorf("look for the Raft store: %w", err)
	}
	return there, nil
}
