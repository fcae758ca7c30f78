package damage

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/prometheus/tsdb/fileutil"
	"github.com/prometheus/prometheus/util/compression"
)

// InspectOptions say what the store takes and confirms, which bounds what damage can have
// taken.
type InspectOptions struct {
	// OutOfOrderWindow is how far behind the newest sample an accepted one can be.
	OutOfOrderWindow time.Duration
	// BlockDuration is the time range of a block cut from the head.
	BlockDuration time.Duration
	// MaxFuture is how far ahead of the clock an accepted sample can be.
	MaxFuture time.Duration
	// Synced says that nothing is confirmed before it is synced, so that a torn end of a
	// log holds nothing that was confirmed.
	Synced bool
	// Retention is the age at which samples are deleted, 0 for never. What is noted about
	// older ones is dropped.
	Retention time.Duration
	// Compression is that of the logs.
	Compression compression.Type
}

// Inspect looks the data directory over before the TSDB opens it: the blocks, the logs and
// the shape of the head's chunks. It notes the ranges that lack samples, durably, and only
// then mends: a damaged block is moved into [Dir], a log is written anew without what
// cannot be read, with a copy kept in [Dir] unless only its end was torn, and files of head
// chunks that the TSDB would not open are removed, since it makes them anew from the logs.
// The TSDB itself would cut a log at the first bad byte, delete all segments behind it, and
// not know of it at the next start.
//
// It takes the directory's lock meanwhile. Whatever it was interrupted at, it can begin
// again.
func (l *Ledger) Inspect(o InspectOptions) (err error) {
	release, err := l.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := os.RemoveAll(l.opts.path(mendDir)); err != nil {
		return err
	}
	if err := l.forget(o); err != nil {
		return err
	}
	blocksEnd, err := l.inspectBlocks()
	if err != nil {
		return fmt.Errorf("inspect blocks: %w", err)
	}
	lim := limits{outOfOrder: o.OutOfOrderWindow, block: o.BlockDuration, future: o.MaxFuture, blocksEnd: blocksEnd}
	whole, err := l.inspectLogs(o, lim)
	if err != nil {
		return fmt.Errorf("inspect the logs: %w", err)
	}
	if err := l.inspectHeadChunks(whole); err != nil {
		return fmt.Errorf("inspect the head's chunks: %w", err)
	}
	return nil
}

// lock takes the lock that the TSDB takes, and leaves no trace of it: a lock file that
// exists tells the TSDB of an unclean shutdown.
func (l *Ledger) lock() (release func() error, err error) {
	path := filepath.Join(l.opts.DataDir, "lock")
	lock, existed, err := fileutil.Flock(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s, which another process may hold: %w", path, err)
	}
	return func() error {
		var err error
		if !existed {
			err = os.Remove(path)
		}
		return errors.Join(err, lock.Release())
	}, nil
}

// forget drops what is noted about expired samples.
func (l *Ledger) forget(o InspectOptions) error {
	if o.Retention <= 0 {
		return nil
	}
	// A block is kept until all of it has expired; it spans a tenth of the retention.
	horizon := l.opts.Now().Add(-o.Retention - o.Retention/5 - o.BlockDuration).UnixMilli()
	return l.Drop(func(r Range) bool { return r.MaxTime < horizon })
}

// inspectLogs scans both logs, notes what they lost and mends them. It tells whether they
// hold all that was written to them, but for a torn end.
func (l *Ledger) inspectLogs(o InspectOptions, lim limits) (whole bool, err error) {
	wal, wbl, err := scanLogs(l.opts.DataDir, l.loadExtent())
	if err != nil || (wal.whole() && wbl.whole()) {
		return true, err
	}
	v := newSurvey(l.opts.Logger)
	ranges, whole, err := l.survey(v, []*segmentLog{wal, wbl}, o, lim)
	if err != nil {
		return false, err
	}
	if err := l.Add(ranges...); err != nil {
		return false, err
	}
	if err := l.dropExtent(); err != nil {
		return false, err
	}
	m := mender{opts: &l.opts, compression: o.Compression, last: v.maxRef}
	for _, log := range []*segmentLog{wal, wbl} {
		if err := m.mend(log, !log.tornTail()); err != nil {
			return false, err
		}
	}
	// Its position in the log is no longer true.
	return whole, l.removeSnapshots()
}

// survey reads the logs once more and returns what they may have lost.
func (l *Ledger) survey(v *survey, logs []*segmentLog, o InspectOptions, lim limits) (ranges []Range, whole bool, err error) {
	whole = true
	before, all := make([][]int64, len(logs)), make([]span, len(logs))
	for i, log := range logs {
		if before[i], all[i], err = v.log(log); err != nil {
			return nil, false, err
		}
	}
	for i, log := range logs {
		if log.whole() {
			continue
		}
		torn := log.tornTail()
		whole = whole && torn
		r := Range{
			Kind: log.kind, Name: log.name(l.opts.DataDir), Detail: log.detail(),
			Found: l.opts.Now(), Suspect: torn && o.Synced,
		}
		r.MinTime, r.MaxTime = v.lost(log, before[i], all[i], lim)
		ranges = append(ranges, r)
	}
	return ranges, whole, nil
}

func (l *Ledger) removeSnapshots() error {
	entries, err := os.ReadDir(l.opts.DataDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "chunk_snapshot.") {
			if err := os.RemoveAll(filepath.Join(l.opts.DataDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Unexplained notes that the TSDB found damage in a log that Inspect had not found, and has
// mended it. Nothing is known about what it took.
func (l *Ledger) Unexplained(detail string, o InspectOptions) error {
	return l.Add(Range{
		MinTime: math.MinInt64, MaxTime: l.opts.Now().Add(o.MaxFuture).UnixMilli(), Kind: WAL, Name: "wal", Detail: detail, Found: l.opts.Now(),
	})
}

// exists tells whether there is something at path.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
