package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/wlog"
)

// opened is what exists anew each time the storage is opened.
type opened struct {
	db        *tsdb.DB // nil while the storage is being opened again
	compactor *compactor
	failures  *failureCounters
	sync      *groupSync
	// opening counts the openings, from 1.
	opening uint64
}

// logDirs are the directories of the write-ahead log and of the out-of-order log.
func logDirs(dir string) []string {
	return []string{filepath.Join(dir, "wal"), filepath.Join(dir, wlog.WblDirName)}
}

// openLogs opens the TSDB and makes durable what it replayed. On success s.opened is set
// and confirmations may begin; after an error nothing is left open.
func (s *Store) openLogs() (err error) {
	dir, fsync := s.opts.Dir, s.hooks.fsync
	if err := checkOpening(dir, s.hooks.usage); err != nil {
		return err
	}
	for _, log := range logDirs(dir) {
		if err := prepareLog(log, fsync); err != nil {
			return fmt.Errorf("prepare %s: %w", log, err)
		}
	}
	topts := s.opts.tsdbOptions()
	topts.WALSegmentSize = s.hooks.segmentSize
	db, c, failures, err := s.openTSDB(topts)
	if err != nil {
		return fmt.Errorf("open TSDB: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
			failures.unregister()
		}
	}()
	g, err := newGroupSync(s.opts.WALSync, logDirs(dir), fsync, s.fence, s.metrics)
	if err != nil {
		return err
	}
	// Once more, since a mount can go while logs are replayed.
	if err := s.sameDisk(); err != nil {
		g.release()
		return err
	}
	if err := g.opening(dir, releaseLogs); err != nil {
		g.release()
		return err
	}
	if s.opts.WALSync != SyncOff { // fenced or not: these are the logs that a replay has read
		if err := s.damage.NoteExtent(); err != nil {
			g.release()
			return err
		}
	}
	s.fence.watch(failures)
	s.opened = opened{db: db, compactor: c, failures: failures, sync: g, opening: s.opening + 1}
	g.start()
	return nil
}

// openTSDB opens the TSDB when its directory has been looked over for damage, and once more
// when the TSDB all the same repaired a log: it goes on without having replayed the
// out-of-order log then, whose samples would be missing in answers until the next start, or
// for good once that log is truncated.
func (s *Store) openTSDB(topts *tsdb.Options) (*tsdb.DB, *compactor, *failureCounters, error) {
	const most = 3 // one repair of each log, and then a clean one
	for range most {
		late := &lateGate{commits: s.commits, fence: s.fence, logger: s.opts.Logger}
		c := &compactor{damaged: s.damage.Excluded, late: late}
		late.due = func() bool {
			db := c.db.Load()
			return db != nil && headDue(db.Head(), topts.MinBlockDuration)
		}
		topts.NewCompactorFunc = c.new
		db, failures, err := s.tryTSDB(topts, late)
		if err != nil {
			return nil, nil, nil, err
		}
		if failures.value(corruptions) == 0 {
			s.guard.Watch(db.Head())
			c.db.Store(db)
			return db, c, failures, nil
		}
		err = errors.Join(
			s.damage.Unexplained("the TSDB repaired a log by cutting it where it could not be understood", s.opts.inspectOptions()),
			db.Close(),
		)
		failures.unregister()
		if err != nil {
			return nil, nil, nil, fmt.Errorf("close after the repair of a log: %w", err)
		}
	}
	return nil, nil, nil, fmt.Errorf("a log is still corrupt after %d repairs", most)
}

func (s *Store) tryTSDB(topts *tsdb.Options, late *lateGate) (*tsdb.DB, *failureCounters, error) {
	o := &s.opts
	if err := s.damage.Inspect(o.inspectOptions()); err != nil {
		return nil, nil, err
	}
	if err := dropMarkers(filepath.Join(o.Dir, wlog.WblDirName), s.hooks.fsync, o.Logger); err != nil {
		return nil, nil, fmt.Errorf("prepare the out-of-order log: %w", err)
	}
	s.guard = s.damage.Guard()
	topts.BlockQuerierFunc, topts.BlockChunkQuerierFunc = headQuerier, (&seriesKeys{key: o.Key}).headChunkQuerier
	own := &background{fence: s.fence, expired: s.expired, late: late}
	own.attach(topts)
	failures := &failureCounters{outer: o.Registerer}
	db, err := tsdb.Open(o.Dir, own.logger(o.Logger).With("component", "tsdb"), failures, topts, s.stats)
	if err != nil {
		failures.unregister()
		return nil, nil, err
	}
	if err := failures.complete(); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	own.db.Store(db)
	return db, failures, nil
}

// The TSDB repairs a log by moving the torn segment away and writing its records anew,
// without a sync; where that ends half-way, as on a full disk or by a power loss, the next
// start knows nothing of the segment moved away, and what was acknowledged is lost. So each
// segment has a second name until the storage is open and synced, and gets its first one
// back where that did not come about.
const (
	keptSuffix   = ".kept"
	repairSuffix = ".repair" // the TSDB's own
)

// prepareLog undoes what an earlier process has left half done, and then keeps the segments.
func prepareLog(dir string, fsync func(*os.File) error) error {
	if err := renameKept(dir); err != nil {
		return err
	}
	if err := rewriteUnsynced(dir, fsync); err != nil {
		return err
	}
	return keepLog(dir)
}

// keepLog gives every segment of a directory a second name. A file system without hard
// links keeps nothing.
func keepLog(dir string) error {
	segments, err := filesIn(dir, isSegment)
	if err != nil {
		return err
	}
	for _, path := range segments {
		err := os.Link(path, path+keptSuffix)
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// renameKept gives the segments of a directory the names back that an opening which did not
// come to its end has taken.
func renameKept(dir string) error {
	kept, err := keptIn(dir)
	if err != nil {
		return err
	}
	for _, path := range kept {
		segment := strings.TrimSuffix(path, keptSuffix)
		if err := os.Rename(path, segment); err != nil {
			return err
		}
		// Of two names of one file, rename leaves both.
		if err := errors.Join(removeIfThere(path), removeIfThere(segment+repairSuffix)); err != nil {
			return err
		}
	}
	return nil
}

// releaseLogs takes the second names of a directory away.
func releaseLogs(dir string) error {
	kept, err := keptIn(dir)
	if err != nil {
		return err
	}
	for _, path := range kept {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// keptIn returns the second names of a directory.
func keptIn(dir string) ([]string, error) {
	return filesIn(dir, func(name string) bool { return strings.HasSuffix(name, keptSuffix) })
}

// filesIn returns the paths of the files of a directory, in order, whose names match. A
// directory that is missing has none.
func filesIn(dir string, match func(name string) bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if !e.IsDir() && match(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

func isSegment(name string) bool {
	_, ok := segmentIndex(name)
	return ok
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// dropSnapshots removes the snapshots of the head. One that was taken of a fenced head
// skips the torn end of the log, which a start without the snapshot takes for the end of
// everything, what was acknowledged later included.
func dropSnapshots(dir string) error {
	return tsdb.DeleteChunkSnapshots(dir, math.MaxInt, math.MaxInt)
}
