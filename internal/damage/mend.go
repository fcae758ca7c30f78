package damage

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/tombstones"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// mendDir holds segments while they are written anew.
const mendDir = "mend.tmp"

// mender writes logs anew, without their flaws.
type mender struct {
	opts        *Options
	compression compression.Type
	// last is the highest number of a series that anything readable refers to.
	last chunks.HeadSeriesRef
}

// mend replaces the flawed segments of a log, each by one rename. With keep it leaves a copy
// of the old ones for the operator.
func (m *mender) mend(l *segmentLog, keep bool) error {
	if l.noCheckpoint >= 0 {
		dir := filepath.Join(filepath.Dir(l.segments[0].path), fmt.Sprintf("checkpoint.%08d", l.noCheckpoint))
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		s := &segment{path: wlog.SegmentName(dir, 0), missing: true}
		if err := m.replace(s, l.kind); err != nil {
			return err
		}
	}
	for _, s := range l.segments {
		if !s.flawed() {
			continue
		}
		if keep && !s.missing {
			if err := m.keep(s.path); err != nil {
				return err
			}
		}
		if err := m.replace(s, l.kind); err != nil {
			return fmt.Errorf("write %s anew: %w", s.path, err)
		}
	}
	return nil
}

// keep links a file into the folder of this package, under a name of its own.
func (m *mender) keep(path string) error {
	rel, err := filepath.Rel(m.opts.DataDir, path)
	if err != nil {
		return err
	}
	to, err := m.opts.free(rel)
	if err != nil {
		return err
	}
	if err := os.Link(path, to); err != nil {
		return fmt.Errorf("keep the damaged %s: %w", path, err)
	}
	return m.opts.sync(m.opts.path())
}

// replace writes a segment that holds the whole records of s, and puts it in its place.
func (m *mender) replace(s *segment, kind Kind) error {
	dir := m.opts.path(mendDir)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o777); err != nil {
		return err
	}
	if err := m.write(dir, s, kind); err != nil {
		return err
	}
	written := wlog.SegmentName(dir, 0)
	if more, err := exists(wlog.SegmentName(dir, 1)); err != nil || more {
		return errors.Join(err, fmt.Errorf("%d bytes of records do not fit in one segment", s.size))
	}
	if err := m.opts.sync(written); err != nil {
		return err
	}
	if !s.missing {
		if err := os.Chtimes(written, s.written, s.written); err != nil {
			return err
		}
	}
	if err := os.Rename(written, s.path); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return errors.Join(m.opts.sync(filepath.Dir(s.path)), m.opts.sync(filepath.Dir(filepath.Dir(s.path))))
}

// write makes a log in dir whose only segment holds the whole records of s.
func (m *mender) write(dir string, s *segment, kind Kind) error {
	// Records may compress less well than before, if that was done by another version.
	size := (3*s.size/pageSize + 4) * pageSize
	w, err := wlog.NewSize(nil, nil, dir, int(size), m.compression)
	if err != nil {
		return err
	}
	err = m.copyRecords(w, s, kind)
	return errors.Join(err, w.Close())
}

func (m *mender) copyRecords(w *wlog.WL, s *segment, kind Kind) error {
	if kind == WAL && m.last > 0 {
		// The TSDB numbers series on from the highest record of a series that it
		// reads. If that is lost, a new series would get the number of an old one,
		// and the old one's samples in the other log and in head chunks with it. A
		// tombstone is how the TSDB itself marks a number as used.
		var enc record.Encoder
		stone := tombstones.Stone{
			Ref:       storage.SeriesRef(m.last + 1),
			Intervals: tombstones.Intervals{{Mint: math.MinInt64, Maxt: math.MaxInt64}},
		}
		if err := w.Log(enc.Tombstones([]tombstones.Stone{stone}, nil)); err != nil {
			return err
		}
	}
	if s.missing {
		return nil
	}
	n := 0
	_, err := s.scan(func(rec []byte) error {
		n++
		if s.undecodable[n-1] {
			return nil
		}
		return w.Log(rec)
	})
	return err
}

// free returns a path in the folder of this package at which nothing is yet, for what was
// at rel in the data directory.
func (o *Options) free(rel string) (string, error) {
	name := filepath.Base(rel)
	if parent := filepath.Dir(rel); parent != "." {
		name = filepath.Base(parent) + "-" + name
	}
	stamp := o.Now().UTC().Format("20060102T150405")
	for i := 0; ; i++ {
		path := o.path(fmt.Sprintf("%s-%s", name, stamp))
		if i > 0 {
			path = fmt.Sprintf("%s-%d", path, i)
		}
		there, err := exists(path)
		if err != nil || !there {
			return path, err
		}
	}
}
