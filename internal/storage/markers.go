package storage

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/starling-tsdb/starling/internal/statefile"
)

// dropMarkers takes the markers out of the out-of-order log in dir.
//
// A marker says that the samples of a series before it lie in a file of chunks, so that a
// replay need not keep them. The TSDB does not sync these files, and buffers them, so that a
// crash takes chunks whose markers are safe; and it takes a marker for true when any chunk
// at its place or behind has been read, which is so as soon as a later process has written
// chunks of its own. The marked samples are lost then. Without markers all samples of the
// log are kept; those that are in a file as well are merged when they are read.
func dropMarkers(dir string, fsync func(*os.File) error, logger *slog.Logger) error {
	segments, err := filesIn(dir, isSegment)
	if err != nil {
		return err
	}
	for i, path := range segments {
		records, marked, err := unmarked(path)
		var torn *wlog.CorruptionErr
		if errors.As(err, &torn) && lastWithContent(segments, i) {
			// Ordinary after a crash: behind it is nothing that was confirmed.
			logger.Warn("The out-of-order log ends within a record, which is cut off", "segment", path, "err", err)
			marked, err = true, nil
		}
		if err != nil && !errors.As(err, &torn) {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if !marked || err != nil {
			continue // damage is left to the TSDB to report
		}
		content, err := encodeSegment(dir, records)
		if err != nil {
			return fmt.Errorf("take markers out of %s: %w", path, err)
		}
		if err := statefile.ReplaceWith(path, bytes.NewReader(content), fsync); err != nil {
			return err
		}
	}
	return nil
}

// lastWithContent tells whether all segments behind the i-th are empty.
func lastWithContent(segments []string, i int) bool {
	return !slices.ContainsFunc(segments[i+1:], func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || info.Size() > 0
	})
}

// unmarked returns the records of a segment but for its markers, and whether there are any.
// With a *wlog.CorruptionErr come the records before the damage.
func unmarked(path string) (records [][]byte, marked bool, err error) {
	segment, err := wlog.OpenReadSegment(path)
	if err != nil {
		return nil, false, err
	}
	r := wlog.NewReader(wlog.NewSegmentBufReader(segment))
	dec := record.NewDecoder(labels.NewSymbolTable(), slog.New(slog.DiscardHandler))
	for r.Next() {
		if dec.Type(r.Record()) == record.MmapMarkers {
			marked = true
			continue
		}
		records = append(records, bytes.Clone(r.Record()))
	}
	return records, marked, errors.Join(r.Err(), segment.Close())
}

// encodeSegment returns the content of a segment with these records.
func encodeSegment(dir string, records [][]byte) ([]byte, error) {
	const largest = 1 << 30 // one segment for them all
	tmp, err := os.MkdirTemp(dir, "markers-*.tmp")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	w, err := wlog.NewSize(slog.New(slog.DiscardHandler), nil, tmp, largest, compression.Snappy)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.Log(records...), w.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(tmp, "00000000"))
}
