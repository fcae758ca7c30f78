package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// raftStore is what Raft keeps on disk.
type raftStore struct {
	dir   string
	log   *logStore
	snaps *raft.FileSnapshotStore
	// wasThere tells that the store was made by an earlier start.
	wasThere bool
}

func openRaftStore(dir string, log hclog.Logger) (s *raftStore, err error) {
	// The libraries panic on some damage; a start has to fail with an error.
	defer recoverInto(&err, "open the Raft store "+dir)
	s = &raftStore{dir: dir}
	if err := statefile.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("open the Raft store: %w", err)
	}
	if s.wasThere, err = logExists(dir); err != nil {
		return nil, err
	}
	s.snaps, err = raft.NewFileSnapshotStoreWithLogger(dir, 2, log)
	if err != nil {
		return nil, fmt.Errorf("open the Raft snapshots in %s: %w", dir, err)
	}
	if s.log, err = openLogStore(dir, s.newestSnapshot); err != nil {
		return nil, fmt.Errorf("open the Raft log: %w; restore the whole directory from one backup, or empty it and let the node join as a new one", err)
	}
	return s, nil
}

// newestSnapshot returns the last entry of the newest snapshot that is whole, which is the
// one that Raft starts from; 0 if there is none.
func (s *raftStore) newestSnapshot() (index, term uint64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("find the newest Raft snapshot: %w", err)
		}
	}()
	list, err := s.snaps.List()
	if err != nil {
		return 0, 0, err
	}
	for _, meta := range list {
		if _, content, err := s.snaps.Open(meta.ID); err == nil {
			return meta.Index, meta.Term, content.Close()
		}
	}
	return 0, 0, nil
}

func recoverInto(err *error, doing string) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s: %w: %v", doing, statefile.ErrDamaged, r)
	}
}

// used tells whether Raft ever ran on the store.
func (s *raftStore) used() (bool, error) {
	return raft.HasExistingState(s.log, s.log, s.snaps)
}

// machine is Raft's state machine: the table as far as this node has applied the log. It
// can be behind the adopted table after a restart, and ahead of it for a moment.
type machine struct {
	// offer is told of every new table; it must not block.
	offer func(*table.Table)

	mu sync.Mutex
	t  *table.Table
	// broken is set when an entry of the log cannot be understood. From then on the
	// node learns tables from its peers only: applying later entries to a table that
	// misses one would give different tables with equal epochs.
	broken error
}

var _ raft.FSM = (*machine)(nil)

// applied is what Apply returns: the table after the command, or why it was refused.
type applied struct {
	t   *table.Table
	err error
}

// errNewer marks entries that this program does not understand.
var errNewer = errors.New("the Raft log has a command that this version does not know: upgrade this node")

// Apply implements raft.FSM.
func (m *machine) Apply(l *raft.Log) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return applied{err: m.broken}
	}
	cmd, err := decodeCommand(l.Data)
	var next *table.Table
	if err == nil {
		next, err = table.Apply(m.t, cmd)
	}
	if errors.Is(err, table.ErrCommand) {
		// The leader checks a command before it enters the log, so it was valid there.
		m.broken = fmt.Errorf("%w (entry %d: %w)", errNewer, l.Index, err)
		return applied{err: m.broken}
	}
	if err != nil {
		return applied{t: m.t, err: err}
	}
	if next != m.t {
		m.t = next
		m.offer(next)
	}
	return applied{t: next}
}

// table returns the state, or why there is none to rely on.
func (m *machine) table() (*table.Table, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.t, m.broken
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	t, err := m.table()
	if err != nil || t == nil {
		return snapshot(nil), err
	}
	b, err := table.Encode(t)
	return snapshot(b), err
}

// Restore implements raft.FSM. No bytes stand for no table.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read the Raft snapshot: %w", err)
	}
	var t *table.Table
	if len(b) > 0 {
		if t, err = table.Decode(b); err != nil {
			return fmt.Errorf("read the Raft snapshot: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.t, m.broken = t, nil
	if t != nil {
		m.offer(t)
	}
	return nil
}

type snapshot []byte

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s snapshot) Release() {}

func encodeCommand(c table.Command) ([]byte, error) { return json.Marshal(c) }

// decodeCommand refuses fields that it does not know: a newer version gave them meaning.
func decodeCommand(b []byte) (table.Command, error) {
	var c table.Command
	if err := strictJSON(b, &c); err != nil {
		return c, fmt.Errorf("%w: %w", table.ErrCommand, err)
	}
	return c, nil
}
