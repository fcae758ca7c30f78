package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/starling-tsdb/starling/internal/statefile"
)

// segmentLog is one directory of log segments, as the TSDB writes it.
//
// A descriptor of every segment is held from the round that first sees it until it has
// been synced after its successor appeared, because the TSDB closes a full segment in the
// background and only logs the error of its sync: the kernel reports a lost page to each
// descriptor that was open at the time, and to none that is opened later.
type segmentLog struct {
	path  string
	dir   *os.File
	fsync func(*os.File) error
	held  []*segment // ascending; after a round only the one being written
	last  int        // the highest index ever seen
	// failed is set by a sync that failed: the kernel counts the pages that it could not
	// write as written from then on, so that a later sync of the same file proves nothing.
	failed bool
}

type segment struct {
	index  int
	file   *os.File
	synced int64 // size at the last sync, -1 for none; segments only ever grow
}

func openSegmentLog(path string, fsync func(*os.File) error) (*segmentLog, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &segmentLog{path: path, dir: dir, fsync: fsync, last: -1}, nil
}

// sync makes everything durable that was written before the call.
func (l *segmentLog) sync() error {
	err := l.trySync()
	if err != nil && !l.failed {
		l.failed = true
		// Where this fails as well, restore tries again, or a process that is started on
		// the same page cache knows no better.
		_ = l.doubt()
	}
	return err
}

// unsyncedFile in a log's directory holds the index of the first segment that a failed sync
// has left in doubt. It is read when the log is opened again, also by another process on
// the same page cache; if that is lost, so are the doubts.
const unsyncedFile = "unsynced.starling"

// doubt writes unsyncedFile.
func (l *segmentLog) doubt() error {
	return os.WriteFile(filepath.Join(l.path, unsyncedFile), []byte(strconv.Itoa(l.first())), 0o666)
}

// first is the index of the first segment that is not known to be durable.
func (l *segmentLog) first() int {
	if len(l.held) == 0 {
		return l.last + 1
	}
	return l.held[0].index
}

// mark is how far the log was made durable by a sync that has just succeeded.
func (l *segmentLog) mark() mark {
	if len(l.held) == 0 {
		return mark{log: l.path, index: -1}
	}
	newest := l.held[len(l.held)-1]
	return mark{log: l.path, index: newest.index, size: newest.synced}
}

func (l *segmentLog) trySync() error {
	added, err := l.discover()
	if err != nil {
		return fmt.Errorf("find segments in %s: %w", l.path, err)
	}
	for _, s := range l.held {
		if err := s.sync(l.fsync); err != nil {
			return fmt.Errorf("sync %s: %w", s.file.Name(), err)
		}
	}
	if added {
		if err := l.syncDir(); err != nil {
			return err
		}
	}
	// A segment with a successor was complete before that was created.
	for len(l.held) > 1 {
		if err := l.held[0].file.Close(); err != nil {
			return fmt.Errorf("close %s: %w", l.held[0].file.Name(), err)
		}
		l.held = l.held[1:]
	}
	return nil
}

func (l *segmentLog) syncDir() error {
	if err := l.fsync(l.dir); err != nil {
		return fmt.Errorf("sync %s: %w", l.path, err)
	}
	return nil
}

// restore makes durable what the log holds from the last good sync on, or has the next
// opening do that.
func (l *segmentLog) restore() error {
	if l.failed {
		return l.doubt()
	}
	return l.sync()
}

// rewriteUnsynced copies the segments that a failed sync has left in doubt and syncs the
// copies, so that what is replayed is what is on disk: what the page cache gives for the
// originals may be there only, and is counted as written.
func rewriteUnsynced(dir string, fsync func(*os.File) error) error {
	b, err := os.ReadFile(filepath.Join(dir, unsyncedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	first, err := strconv.Atoi(string(b))
	if err != nil {
		first = 0 // cut short, so all are in doubt
	}
	segments, err := filesIn(dir, func(name string) bool {
		i, ok := segmentIndex(name)
		return ok && i >= first
	})
	if err != nil {
		return err
	}
	for _, path := range segments {
		if err := rewrite(path, fsync); err != nil {
			return fmt.Errorf("write %s anew: %w", path, err)
		}
	}
	if err := removeIfThere(filepath.Join(dir, unsyncedFile)); err != nil {
		return err
	}
	return statefile.SyncPath(dir, fsync)
}

// rewrite puts a synced copy of a file into its place.
func rewrite(path string, fsync func(*os.File) error) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	return statefile.ReplaceWith(path, from, fsync)
}

func (s *segment) sync(fsync func(*os.File) error) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	// Skipping an untouched segment saves a flush of the disk's cache.
	if info.Size() == s.synced {
		return nil
	}
	if err := fsync(s.file); err != nil {
		return err
	}
	s.synced = info.Size()
	return nil
}

// discover opens the segments that appeared since the last call.
func (l *segmentLog) discover() (added bool, err error) {
	if len(l.held) > 0 {
		if alone, err := l.alone(l.held[len(l.held)-1].index); alone || err != nil {
			return false, err
		}
	}
	// Indexes may be skipped, since the TSDB also removes segments.
	if _, err := l.dir.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	names, err := l.dir.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	first, last := -1, l.last
	for _, name := range names {
		i, ok := segmentIndex(name)
		if !ok || i <= l.last { // a checkpoint, or known
			continue
		}
		if first < 0 || i < first {
			first = i
		}
		last = max(last, i)
	}
	if first < 0 {
		return false, nil
	}
	for i := first; i <= last; i++ {
		f, err := os.Open(wlog.SegmentName(l.path, i))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed: its content is in a block or a checkpoint
		}
		if err != nil {
			return false, err
		}
		l.held = append(l.held, &segment{index: i, file: f, synced: -1})
		l.last = i
	}
	return true, nil
}

// alone tells whether a segment is the newest: it was there after its successor was not. The
// TSDB creates segments in order and removes the oldest first, so that a successor which has
// come and gone took the segment along.
func (l *segmentLog) alone(index int) (bool, error) {
	if there, err := isThere(wlog.SegmentName(l.path, index+1)); there || err != nil {
		return false, err
	}
	return isThere(wlog.SegmentName(l.path, index))
}

func isThere(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// segmentIndex reads the number of a segment off its name.
func segmentIndex(name string) (int, bool) {
	i, err := strconv.Atoi(name)
	return i, err == nil
}

func (l *segmentLog) close() {
	l.dir.Close()
	for _, s := range l.held {
		s.file.Close()
	}
	l.held = nil
}
