package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/prometheus/prometheus/tsdb/wlog"
)

// mark is how far a log was made durable. A storage is opened again by its path, which may
// lead elsewhere by then: into the empty directory beneath a mount that is gone, or to a
// disk with an older copy. Both open well, without what was confirmed.
type mark struct {
	log   string // its directory
	index int    // of the last segment, -1 if none was synced
	size  int64  // of what was synced of that
}

// check returns why the log at its path is not the one that the mark was made in, or nil.
func (m mark) check() error {
	if _, err := os.Stat(m.log); err != nil {
		return fmt.Errorf("%w: is the disk mounted?", err)
	}
	if m.index < 0 {
		return nil
	}
	size, err := segmentSize(wlog.SegmentName(m.log, m.index))
	if err != nil {
		return err
	}
	if size < 0 {
		return m.superseded()
	}
	if size < m.size {
		return fmt.Errorf("segment %d of %s has %d bytes, and %d were synced: is it an older copy of the disk?", m.index, m.log, size, m.size)
	}
	return nil
}

// superseded returns an error unless there are segments behind a missing one: the TSDB
// begins a new one before it removes those whose content is in a block.
func (m mark) superseded() error {
	segments, err := filesIn(m.log, func(name string) bool {
		i, ok := segmentIndex(name)
		return ok && i > m.index
	})
	if err != nil {
		return err
	}
	if len(segments) == 0 {
		return fmt.Errorf("%s ends before segment %d, which was synced: is it another disk, or an older copy?", m.log, m.index)
	}
	return nil
}

// segmentSize returns the size of a segment, or -1 if it is not there. While a log is being
// mended, the segment as it was has its second name only.
func segmentSize(path string) (int64, error) {
	size := int64(-1)
	for _, name := range []string{path, path + keptSuffix} {
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		size = max(size, info.Size())
	}
	return size, nil
}

// sameDisk returns why the storage must not be opened again from what is at its path now,
// or nil. It is called by the keeper, and by Open, when there is nothing to compare with.
func (s *Store) sameDisk() error {
	for _, m := range s.keeper.marks {
		if err := m.check(); err != nil {
			return fmt.Errorf("--storage.tsdb.path=%s does not hold what this process has written: %w", s.opts.Dir, err)
		}
	}
	return nil
}
