// Package storage is the node's own store: one Prometheus TSDB, wrapped so that what it
// confirms is on stable storage.
//
// The TSDB syncs its write-ahead logs only when a segment ends. Append therefore returns
// only after a sync that began after its commit (walsync.go). A store that has seen one
// failed write or sync confirms nothing (fence.go) until the disk is usable and the storage
// has been opened again (recovery.go), and appends end before the disk is full (space.go).
// Series are logged before anybody may append to them (create.go). Blocks, logs and their files stay those of
// Prometheus: promtool works on them.
package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/damage"
	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/statefile"
)

var (
	// ErrClosed is what a store answers after Close.
	ErrClosed = errors.New("storage is closed")
	// ErrFenced is what a store answers after a failed write or sync, until it has opened
	// itself again, and on a full disk. Reads go on, except while it is being opened.
	ErrFenced = errors.New("storage is fenced")
	// ErrDiskFull is what a store answers before the disk is so full that a write would
	// fail: to appends with ErrFenced.
	ErrDiskFull = errors.New("disk is full")
	// ErrDamaged is what a store answers to a read of a time of which it may have lost
	// samples.
	ErrDamaged = errors.New("storage is damaged")
	// ErrTooRecent is what a store answers to a block of a time that it still appends to.
	ErrTooRecent = errors.New("range is too recent for a block")

	// errSeriesMoved says that the TSDB dropped and re-made a series between its look-up
	// and its use, so that its record is not in the log yet.
	errSeriesMoved = errors.New("series was removed from the head while it was written to")
)

// Store is an open TSDB. All methods may be called by many goroutines at once.
type Store struct {
	// opened changes when the storage is opened again. It is used by who is inside of one
	// of the gates, and by the keeper.
	opened
	opts    Options
	hooks   hooks
	stats   *tsdb.DBStats
	metrics *metrics
	damage  *damage.Ledger
	// horizon is what expiry, the rule of it, has come to; raises lets one write it at a time.
	horizon   atomic.Pointer[expiry.Horizon]
	expiry    expiry.Rule
	raises    *slots
	guard     *damage.Guard
	blockKeys *blockKeys
	scrub     *scrub
	fence     *fence
	// walMetadata mirrors the feature metadata-wal-records.
	walMetadata bool
	creator     creator
	refs        sync.Pool // *[]promstorage.SeriesRef, of writes
	// creations bounds how many create series at a time, and so how many hang in a log
	// that stalls.
	creations *slots
	// commits orders commits. It is held over writes to the page cache, as the mutex of
	// the TSDB's log is, and never over a sync.
	commits  *slots
	families *families
	flusher  *flusher
	keeper   keeper
	appends  gate
	readers  gate
	upkeep   *upkeep
	// prunes lets one run of Prune in.
	prunes *slots
	// reopenedFor is when the damage to the head's chunks was found that the storage was
	// last opened again for, in nanoseconds.
	reopenedFor atomic.Int64
	closing     sync.Once
	closeErr    error
}

// hooks are what tests change beneath a store.
type hooks struct {
	// fsync makes a file or directory durable.
	fsync func(*os.File) error
	// usage tells how full the file system of a directory is; nil asks the kernel.
	usage func(dir string) (usage, error)
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
	if hk.usage == nil {
		hk.usage = measure
	}
	s, err := openIn(o, hk)
	if err != nil {
		return nil, oneLine(fmt.Errorf("--storage.tsdb.path=%s: %w", o.Dir, err))
	}
	return s, nil
}

func openIn(o Options, hk hooks) (*Store, error) {
	if err := makeDir(o.Dir, hk.fsync); err != nil {
		return nil, err
	}
	m := newMetrics(o.Registerer)
	m.maxSeries.Set(float64(o.MaxSeries))
	s := &Store{
		opts:      o,
		hooks:     hk,
		stats:     tsdb.NewDBStats(),
		metrics:   m,
		fence:     newFence(o.Dir, o.Logger, m.fenced),
		families:  newFamilies(m.metadataDropped),
		keeper:    newKeeper(),
		blockKeys: newBlockKeys(o.Key),
		upkeep:    newUpkeep(),

		walMetadata: slices.Contains(o.Features, "metadata-wal-records"),
		creations:   newSlots(runtime.GOMAXPROCS(0)),
		commits:     newSlots(1),
		prunes:      newSlots(1),
		raises:      newSlots(1),
	}
	var err error
	if s.damage, err = damage.Open(damage.Options{
		DataDir: o.Dir, Fsync: hk.fsync, Now: o.Now, Logger: o.Logger, Registerer: o.Registerer,
	}); err != nil {
		return nil, err
	}
	if err := s.loadHorizon(); err != nil {
		return nil, err
	}
	if err := s.openLogs(); err != nil {
		return nil, err
	}
	s.expire()
	m.showHorizon(o.Registerer, s)
	s.flusher = newFlusher(s.families, filepath.Join(o.Dir, metadataFile), hk.fsync, o.Logger)
	s.flusher.load()
	s.flusher.start()
	s.scrub = startScrub(s.damage)
	s.watchSpace()
	go s.keep()
	return s, nil
}

// Ready is nil as long as the store can confirm what is appended, and says why not
// otherwise, and what it does about that.
func (s *Store) Ready() error {
	if err := s.appends.closed(); errors.Is(err, ErrClosed) {
		return err
	}
	return s.keeper.explain(s.fence.admit())
}

// Fatal returns a channel that receives one error if the TSDB panics in a write, and
// nothing otherwise. Reads and Close may wait for ever then for what the panic left locked,
// so the receiver ends the process, with a status that has it restarted. There is one
// receiver. The store refuses all appends by then.
func (s *Store) Fatal() <-chan error { return s.fence.report }

// closeTimeout bounds how long Close waits for queriers, whose requests have been told to
// end by then.
const closeTimeout = 10 * time.Second

// Close refuses what is new, ends what writes blocks, waits for appends that are under way
// and, for at most 10 s, for queriers, then syncs and closes the store. Closing again does nothing. While the
// storage is being opened again, it waits for the end of the replay.
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
	s.keeper.stop(s.fence.dead)
	appended, read, kept := s.appends.shut(ErrClosed), s.readers.shut(ErrClosed), s.upkeep.shut(ErrClosed)
	select {
	case <-appended:
	case <-s.fence.dead:
	}
	// What writes a block has been told to end, and is waited for to leave nothing behind;
	// closing the TSDB beneath it is safe, unlike beneath a querier: it waits for a
	// compaction, or reads a block, and both end.
	s.awaitAll(read, kept)
	s.scrub.stop()
	flushErr := s.flusher.stop()
	if s.db == nil { // it could not be opened again
		if s.sync != nil {
			s.sync.release()
		}
		return flushErr
	}
	s.sync.stop()
	dbErr := s.closeTSDB()
	// The TSDB logs an error of its last sync and goes on: this round returns it.
	syncErr := s.sync.closing()
	if dbErr == nil && syncErr == nil {
		syncErr = s.noteExtent()
	}
	s.sync.release()
	return errors.Join(flushErr, dbErr, syncErr)
}

// awaitAll returns when all gates are empty, or nobody should wait for that longer.
func (s *Store) awaitAll(empty ...<-chan struct{}) {
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	for _, e := range empty {
		select {
		case <-e:
		case <-s.fence.dead:
			return
		case <-timeout.C:
			return
		}
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
	err := s.fence.guard("close TSDB", s.db.Close)
	if s.fence.check() != nil {
		err = errors.Join(err, dropSnapshots(s.opts.Dir))
	}
	return err
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
	if err := s.readers.enter(); err != nil {
		return nil, err
	}
	defer s.readers.leave()
	return s.db.Head().Stats(statsByLabelName, limit), nil
}

// BlockMetas describes the blocks on disk.
func (s *Store) BlockMetas() ([]tsdb.BlockMeta, error) {
	if err := s.readers.enter(); err != nil {
		return nil, err
	}
	defer s.readers.leave()
	return s.db.BlockMetas(), nil
}

// WALReplayStatus tells which segments the last opening replayed, or has replayed so far.
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
		if err := statefile.SyncPath(p, fsync); err != nil {
			return err
		}
	}
	return nil
}

// lineError prints an error that consists of several on one line.
type lineError struct{ error }

func oneLine(err error) error { return lineError{err} }

func (e lineError) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }
func (e lineError) Unwrap() error { return e.error }
