// Package storage is the node's own store: one Prometheus TSDB, wrapped so that what it
// confirms is on stable storage.
//
// The TSDB syncs its write-ahead logs only when a segment ends. Append therefore returns
// only after a sync that began after its commit (walsync.go), and a store that has seen
// one failed write or sync confirms nothing any more (fence.go). Series are logged before
// anybody may append to them (create.go). Blocks, logs and their files stay those of
// Prometheus: promtool works on them.
package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/wlog"
)

var (
	// ErrClosed is what a store answers after Close.
	ErrClosed = errors.New("storage is closed")
	// ErrFenced is what a store answers after a failed write or sync. It does not end
	// before the process does; reads go on.
	ErrFenced = errors.New("storage is fenced")

	// errSeriesMoved says that the TSDB dropped and re-made a series between its look-up
	// and its use, so that its record is not in the log yet.
	errSeriesMoved = errors.New("series was removed from the head while it was written to")
)

// Store is an open TSDB. All methods may be called by many goroutines at once.
type Store struct {
	opts    Options
	db      *tsdb.DB
	stats   *tsdb.DBStats
	metrics *metrics
	fence   *fence
	// walMetadata mirrors the feature metadata-wal-records.
	walMetadata bool
	creator     creator
	// creations bounds how many create series at a time, and so how many hang in a log
	// that stalls.
	creations *slots
	// commits orders commits. It is held over writes to the page cache, as the mutex of
	// the TSDB's log is, and never over a sync.
	commits  *slots
	sync     *groupSync
	families *families
	flusher  *flusher
	appends  gate
	readers  gate
	closing  sync.Once
	closeErr error
}

// hooks are what tests change beneath a store.
type hooks struct {
	// fsync makes a file or directory durable.
	fsync func(*os.File) error
	// segmentSize is the size of a log segment in bytes, 0 for the TSDB's own.
	segmentSize int
}

// Open opens or creates the store in o.Dir, replays its logs and syncs them. Errors name
// the flag at fault. The caller closes the store.
func Open(o Options) (*Store, error) {
	return open(o, hooks{fsync: (*os.File).Sync})
}

func open(o Options, hk hooks) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s, err := openIn(o, hk)
	if err != nil {
		return nil, oneLine(fmt.Errorf("--storage.tsdb.path=%s: %w", o.Dir, err))
	}
	return s, nil
}

func openIn(o Options, hk hooks) (_ *Store, err error) {
	if err := makeDir(o.Dir, hk.fsync); err != nil {
		return nil, err
	}
	m := newMetrics(o.Registerer)
	s := &Store{
		opts:     o,
		stats:    tsdb.NewDBStats(),
		metrics:  m,
		families: newFamilies(m.metadataDropped),

		creations: newSlots(runtime.GOMAXPROCS(0)),
		commits:   newSlots(1),
	}
	topts := o.tsdbOptions()
	topts.WALSegmentSize = hk.segmentSize
	s.walMetadata = topts.EnableMetadataWALRecords

	var failures *failureCounters
	s.db, failures, err = openTSDB(&o, topts, s.stats)
	if err != nil {
		return nil, fmt.Errorf("open TSDB: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.db.Close())
		}
	}()
	s.fence = newFence(o.Dir, failures, o.Logger, m.fenced)

	s.sync, err = newGroupSync(o.WALSync, []string{
		filepath.Join(o.Dir, "wal"), filepath.Join(o.Dir, wlog.WblDirName),
	}, hk.fsync, s.fence, m)
	if err != nil {
		return nil, err
	}
	if err := s.sync.opening(o.Dir); err != nil {
		s.sync.release()
		return nil, err
	}
	s.flusher = newFlusher(s.families, filepath.Join(o.Dir, metadataFile), hk.fsync, o.Logger)
	s.flusher.load()

	s.sync.start()
	s.flusher.start()
	return s, nil
}

// openTSDB opens the TSDB, and once more when that repaired a log. A torn record at the end
// of the write-ahead log is ordinary after a crash; the TSDB cuts it off, but goes on
// without having replayed the out-of-order log, whose samples would be missing in answers
// until the next start, or for good once that log is truncated.
func openTSDB(o *Options, topts *tsdb.Options, stats *tsdb.DBStats) (*tsdb.DB, *failureCounters, error) {
	const most = 3 // one repair of each log, and then a clean one
	for range most {
		failures := &failureCounters{outer: o.Registerer}
		db, err := tsdb.Open(o.Dir, o.Logger.With("component", "tsdb"), failures, topts, stats)
		if err != nil {
			failures.unregister()
			return nil, nil, err
		}
		if err := failures.complete(); err != nil {
			return nil, nil, errors.Join(err, db.Close())
		}
		if failures.value(corruptions) == 0 {
			return db, failures, nil
		}
		o.Logger.Warn("A log was repaired: opening the storage again to replay it as a whole")
		err = db.Close()
		failures.unregister()
		if err != nil {
			return nil, nil, fmt.Errorf("close after the repair of a log: %w", err)
		}
	}
	return nil, nil, fmt.Errorf("a log is still corrupt after %d repairs", most)
}

// Ready is nil as long as the store can confirm what is appended, and says why not
// otherwise.
func (s *Store) Ready() error {
	if s.appends.isShut() {
		return ErrClosed
	}
	return s.fence.check()
}

// Fatal returns a channel that receives one error if the TSDB panics in a write, and
// nothing otherwise. Reads and Close may wait for ever then for what the panic left locked,
// so the receiver ends the process, with a status that has it restarted. There is one
// receiver. The store refuses all appends by then.
func (s *Store) Fatal() <-chan error { return s.fence.report }

// closeTimeout bounds how long Close waits for queriers, whose requests have been told to
// end by then.
const closeTimeout = 10 * time.Second

// Close refuses what is new, waits for appends that are under way and, for at most 10 s,
// for queriers, then syncs and closes the store. Closing again does nothing.
//
// Two things make it leave the TSDB, its directory's lock included, to the end of the
// process, and say so by an error: a panic in a write (see Fatal), after which the TSDB's
// locks cannot be trusted, and queriers that are still open, since closing waits for
// readers of a block without end and takes the head's memory away beneath the others. What
// was confirmed is on disk in both cases.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Store) close() error {
	appended, read := s.appends.shut(), s.readers.shut()
	select {
	case <-appended:
	case <-s.fence.dead:
	}
	s.awaitReaders(read)
	s.sync.stop()
	flushErr := s.flusher.stop()
	dbErr := s.closeTSDB()
	// The TSDB logs an error of its last sync and goes on: this round returns it.
	syncErr := s.sync.closing()
	s.sync.release()
	return errors.Join(flushErr, dbErr, syncErr)
}

// awaitReaders returns when all queriers are closed, or nobody should wait for them longer.
func (s *Store) awaitReaders(read <-chan struct{}) {
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case <-read:
	case <-s.fence.dead:
	case <-timeout.C:
	}
}

// closeTSDB closes the TSDB if that ends.
func (s *Store) closeTSDB() error {
	if err := s.fence.death(); err != nil {
		return fmt.Errorf("TSDB is not closed: %w", err)
	}
	if n := s.readers.count(); n > 0 {
		err := fmt.Errorf("TSDB is not closed: queriers still open after %s: %d", closeTimeout, n)
		s.opts.Logger.Error("Closing the storage without its TSDB, which the end of the process closes", "err", err)
		return err
	}
	return s.fence.guard("close TSDB", s.db.Close)
}

// Metadata returns what is known of one metric family, or of all if family is empty.
// A negative limit, and a limitPerMetric of 0 or less, stand for no limit; with a limit,
// the families that sort first are returned. Of each family the newest entry comes first.
// The result is the caller's.
func (s *Store) Metadata(family string, limit, limitPerMetric int) map[string][]metadata.Metadata {
	return s.families.get(family, limit, limitPerMetric)
}

// Stats describes the head's series: how many there are, and the limit largest label
// names and values. It is expensive.
func (s *Store) Stats(statsByLabelName string, limit int) (*tsdb.Stats, error) {
	return s.db.Head().Stats(statsByLabelName, limit), nil
}

// BlockMetas describes the blocks on disk.
func (s *Store) BlockMetas() ([]tsdb.BlockMeta, error) { return s.db.BlockMetas(), nil }

// WALReplayStatus tells which segments the opening replayed.
func (s *Store) WALReplayStatus() (tsdb.WALReplayStatus, error) {
	return s.stats.Head.WALReplayStatus.GetWALReplayStatus(), nil
}

// makeDir makes dir and syncs every directory that got a new entry by it.
func makeDir(dir string, fsync func(*os.File) error) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	var parents []string
	for p := abs; ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil || filepath.Dir(p) == p {
			break
		}
		parents = append(parents, filepath.Dir(p))
	}
	if err := os.MkdirAll(abs, 0o777); err != nil {
		return err
	}
	for _, p := range parents {
		if err := syncPath(p, fsync); err != nil {
			return err
		}
	}
	return nil
}

// syncPath makes the file or directory at path durable.
func syncPath(path string, fsync func(*os.File) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fsync(f); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// lineError prints an error that consists of several on one line.
type lineError struct{ error }

func oneLine(err error) error { return lineError{err} }

func (e lineError) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }
func (e lineError) Unwrap() error { return e.error }
