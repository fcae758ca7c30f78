package damage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// inspectHeadChunks removes the files of head chunks from the first one on that does not
// have the right shape. The TSDB makes them anew from the logs, as it does when a checksum
// is wrong; but it does not start when a header is wrong or a file is missing, and does not
// notice when a file is cut between two chunks or zeroed, and takes the chunks that its logs
// speak of for granted. whole says that the logs hold everything; if not, the files are kept
// for the operator, as they may hold what the logs have lost.
func (l *Ledger) inspectHeadChunks(whole bool) error {
	dir := filepath.Join(l.opts.DataDir, "chunks_head")
	files, err := headChunkFiles(dir)
	if err != nil {
		return err
	}
	was := l.loadExtent()
	bad, cause := len(files), error(nil)
	for i, f := range files {
		if cause = checkHeadChunks(f, files[0].seq+i, was.of(l.opts.DataDir, f.path)); cause != nil {
			bad = i
			break
		}
	}
	if cause != nil {
		// Ordinary for the last file after a crash, since nobody syncs it.
		l.opts.Logger.Warn("Removing head chunks, which are made anew from the logs", "file", files[bad].path, "files", len(files)-bad, "err", cause)
		if bad < len(files)-1 {
			l.found.WithLabelValues(string(HeadChunks)).Inc()
		}
		// From the end, so that no file is ever missing between others.
		for _, f := range slices.Backward(files[bad:]) {
			if err := l.removeHeadChunks(f.path, !whole); err != nil {
				return err
			}
		}
		if err := errors.Join(l.opts.sync(dir), l.removeSnapshots()); err != nil {
			return err
		}
	}
	if !whole {
		return nil
	}
	// What was found while they were read is mended by the replay of the logs.
	return l.Drop(func(r Range) bool { return r.Kind == HeadChunks })
}

func (l *Ledger) removeHeadChunks(path string, keep bool) error {
	if !keep {
		return os.Remove(path)
	}
	rel, err := filepath.Rel(l.opts.DataDir, path)
	if err != nil {
		return err
	}
	to, err := l.opts.free(rel)
	if err != nil {
		return err
	}
	return os.Rename(path, to)
}

type headChunkFile struct {
	path string
	seq  int
}

func headChunkFiles(dir string) ([]headChunkFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var files []headChunkFile
	for _, e := range entries {
		if seq, ok := indexOf(e.Name()); ok {
			files = append(files, headChunkFile{filepath.Join(dir, e.Name()), seq})
		}
	}
	slices.SortFunc(files, func(a, b headChunkFile) int { return cmp.Compare(a.seq, b.seq) })
	return files, nil
}

// checkHeadChunks walks through a file from header to header; the checksums are left to
// the TSDB, which checks them all when it opens.
func checkHeadChunks(f headChunkFile, seq int, least int64) error {
	if f.seq != seq {
		return fmt.Errorf("file %d is missing", seq)
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if info.Size() < max(least, 1) {
		return fmt.Errorf("cut to %d bytes, it had %d", info.Size(), least)
	}
	m, err := fileutil.OpenMmapFile(f.path)
	if err != nil {
		return err
	}
	return errors.Join(safely(func() error { return checkShape(m.Bytes()) }), m.Close())
}

func checkShape(b []byte) error {
	if len(b) < chunks.HeadChunkFileHeaderSize {
		return fmt.Errorf("%d bytes are less than a header", len(b))
	}
	if magic := binary.BigEndian.Uint32(b); magic != chunks.MagicHeadChunks || b[chunks.MagicChunksSize] != 1 {
		return fmt.Errorf("the header is % x", b[:chunks.HeadChunkFileHeaderSize])
	}
	if int64(len(b)) < chunks.HeadChunkFilePreallocationSize {
		return fmt.Errorf("%d bytes are less than a new file has", len(b))
	}
	const fixed = chunks.SeriesRefSize + 2*chunks.MintMaxtSize
	for at := chunks.HeadChunkFileHeaderSize; at < len(b); {
		rest := b[at:]
		if len(rest) < fixed || allZero(rest[:fixed]) {
			if !allZero(rest) {
				return fmt.Errorf("at byte %d: something else than zeros behind the last chunk", at)
			}
			return nil
		}
		size, n := uint64(0), 0
		if len(rest) > fixed+chunks.ChunkEncodingSize {
			lengthAt := fixed + chunks.ChunkEncodingSize
			size, n = binary.Uvarint(rest[lengthAt:min(len(rest), lengthAt+chunks.MaxChunkLengthFieldSize)])
		}
		if n <= 0 || size > math.MaxInt32 || fixed+chunks.ChunkEncodingSize+n+int(size)+chunks.CRCSize > len(rest) {
			return fmt.Errorf("at byte %d: a chunk goes beyond the end", at)
		}
		at += fixed + chunks.ChunkEncodingSize + n + int(size) + chunks.CRCSize
	}
	return nil
}
