package damage

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"
)

// segment is a file of a log, as the scan found it.
type segment struct {
	path    string
	index   int
	missing bool // between others, or at the front
	size    int64
	written time.Time // of its last write
	records int       // whole ones
	flaws   []flaw
	// undecodable are numbers of records that are whole and yet not to be understood.
	// The scan does not look; the survey of what is lost does.
	undecodable map[int]bool
}

func (s *segment) flawed() bool { return s.missing || len(s.flaws) > 0 || len(s.undecodable) > 0 }

// scan reads the segment and hands its records on.
func (s *segment) scan(visit func([]byte) error) ([]flaw, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return scanSegment(f, s.size, visit)
}

// segmentLog is what the TSDB replays from one log directory: the segments, in order, and
// for the write-ahead log those of its checkpoint in front.
type segmentLog struct {
	kind     Kind
	segments []*segment
	// noCheckpoint is the index of the checkpoint that there must have been, or -1.
	noCheckpoint int
}

// scanLogs reads the write-ahead log and the out-of-order log of a data directory. It
// changes nothing. was says how long they were at least.
func scanLogs(dataDir string, was extent) (wal, wbl *segmentLog, err error) {
	if wal, err = listWAL(dataDir, was); err != nil {
		return nil, nil, err
	}
	wbl = &segmentLog{kind: WBL, noCheckpoint: -1}
	if wbl.segments, err = listSegments(filepath.Join(dataDir, wlog.WblDirName), -1, was.last(wlog.WblDirName)); err != nil {
		return nil, nil, err
	}
	for _, l := range []*segmentLog{wal, wbl} {
		for _, s := range l.segments {
			if s.missing {
				continue
			}
			if s.flaws, err = s.scan(func([]byte) error { s.records++; return nil }); err != nil {
				return nil, nil, fmt.Errorf("scan %s: %w", s.path, err)
			}
			if n := was.of(dataDir, s.path); n > s.size {
				s.flaws = append(s.flaws, flaw{offset: s.size, reason: fmt.Sprintf("cut here, it had %d bytes", n), records: s.records})
			}
		}
	}
	return wal, wbl, nil
}

// listWAL finds the newest checkpoint and the segments behind it.
func listWAL(dataDir string, was extent) (*segmentLog, error) {
	l := &segmentLog{kind: WAL, noCheckpoint: -1}
	dir, last := filepath.Join(dataDir, "wal"), was.last("wal")
	checkpoint, index, err := wlog.LastCheckpoint(dir)
	if errors.Is(err, record.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		l.segments, err = listSegments(dir, -1, last)
		if err == nil && len(l.segments) > 0 && l.segments[0].index > 0 {
			// The TSDB takes segments away only when a checkpoint has replaced them.
			l.noCheckpoint = l.segments[0].index - 1
		}
		return l, err
	}
	if err != nil {
		return nil, err
	}
	rel := filepath.Join("wal", filepath.Base(checkpoint))
	if l.segments, err = listSegments(checkpoint, 0, max(0, was.last(rel))); err != nil {
		return nil, err
	}
	rest, err := listSegments(dir, index+1, max(index+1, last))
	l.segments = append(l.segments, rest...)
	return l, err
}

// listSegments lists the segments from first on (-1: the first there is), at least up to
// atLeast, and fills gaps by missing ones.
func listSegments(dir string, first, atLeast int) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var there []*segment
	for _, e := range entries {
		i, ok := indexOf(e.Name())
		if !ok || i < first || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		there = append(there, &segment{path: filepath.Join(dir, e.Name()), index: i, size: info.Size(), written: info.ModTime()})
	}
	slices.SortFunc(there, func(a, b *segment) int { return cmp.Compare(a.index, b.index) })
	if first < 0 {
		first = max(0, atLeast)
		if len(there) > 0 {
			first = there[0].index
		}
	}
	if len(there) > 0 {
		atLeast = max(atLeast, there[len(there)-1].index)
	}
	const most = 10_000
	if atLeast-first-len(there) > most {
		return nil, fmt.Errorf("%s: more than %d segments are missing between %d and %d; restore the directory from a backup, or move it away", dir, most, first, atLeast)
	}
	var all []*segment
	for i := first; i <= atLeast; i++ {
		if len(there) > 0 && there[0].index == i {
			all, there = append(all, there[0]), there[1:]
			continue
		}
		all = append(all, &segment{path: wlog.SegmentName(dir, i), index: i, missing: true})
	}
	return all, nil
}

// indexOf reads the number that a segment, or a file of head chunks, has for a name.
func indexOf(name string) (int, bool) {
	i, err := strconv.ParseUint(name, 10, 31)
	return int(i), err == nil
}

// whole tells that nothing is wrong with the log.
func (l *segmentLog) whole() bool {
	return l.noCheckpoint < 0 && !slices.ContainsFunc(l.segments, (*segment).flawed)
}

// tornTail tells that all that is wrong is the end of the last record, behind which nothing
// was written: what a crash in the middle of a write leaves.
func (l *segmentLog) tornTail() bool {
	last := slices.IndexFunc(l.segments, (*segment).flawed)
	if l.noCheckpoint >= 0 || last < 0 {
		return false
	}
	s := l.segments[last]
	if s.missing || len(s.undecodable) > 0 || strings.HasPrefix(filepath.Base(filepath.Dir(s.path)), "checkpoint.") {
		return false
	}
	for _, f := range s.flaws {
		if !f.torn || f.records < s.records {
			return false
		}
	}
	return !slices.ContainsFunc(l.segments[last+1:], func(s *segment) bool { return s.flawed() || s.records > 0 })
}

// name and detail describe the first flaw, and how many there are.
func (l *segmentLog) name(dataDir string) string {
	if l.noCheckpoint >= 0 {
		return fmt.Sprintf("wal/checkpoint.%08d", l.noCheckpoint)
	}
	path := l.segments[slices.IndexFunc(l.segments, (*segment).flawed)].path
	if rel, err := filepath.Rel(dataDir, path); err == nil {
		return filepath.ToSlash(rel)
	}
	return path
}

func (l *segmentLog) detail() string {
	var all []string
	if l.noCheckpoint >= 0 {
		all = append(all, "the checkpoint is missing")
	}
	for _, s := range l.segments {
		if s.missing {
			all = append(all, fmt.Sprintf("segment %d is missing", s.index))
		}
		for _, f := range s.flaws {
			all = append(all, fmt.Sprintf("segment %d at byte %d: %s", s.index, f.offset, f.reason))
		}
		if n := len(s.undecodable); n > 0 {
			all = append(all, fmt.Sprintf("segment %d: %d records cannot be decoded", s.index, n))
		}
	}
	if len(all) > 1 {
		return fmt.Sprintf("%s; and %d more", all[0], len(all)-1)
	}
	return all[0]
}
