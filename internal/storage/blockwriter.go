package storage

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/tsdb/tombstones"

	"github.com/starling-tsdb/starling/internal/statefile"
)

const (
	// creationSuffix and deletionSuffix mark directories that the TSDB removes when it is
	// opened.
	creationSuffix = ".tmp-for-creation"
	deletionSuffix = ".tmp-for-deletion"
	// spoolName is the file that holds the series of a block until all symbols are known.
	spoolName = "series.spool"
	// maxSegment bounds a file of chunks, which is allocated as a whole beforehand. The
	// TSDB's own have 512 MiB, as much as the reserve of a disk.
	maxSegment = 64 << 20
	// roomStep is how many bytes of chunks are written between two looks at the disk.
	roomStep = 1 << 20
)

// blockWriter writes one block of the TSDB, series by series. The index begins with all
// symbols in order, so the series wait in a file until the last one is there; in memory are
// the symbols, as with any writer of an index, and one series. It is used by one goroutine.
type blockWriter struct {
	dir     string // of the data
	meta    tsdb.BlockMeta
	fsync   func(*os.File) error
	room    func() error // tells, now and then, whether to go on
	logger  *slog.Logger
	written int   // bytes of chunks since the last look at the disk
	bytes   int64 // of the finished block

	chunks    *chunks.Writer // nil when closed
	spoolFile *os.File       // nil when closed
	spool     *bufio.Writer
	last      labels.Labels
	numbers   map[string]uint32 // of symbols, in the order in which they came
	symbols   []string
	buf       encoding.Encbuf
}

// newBlock starts a block with the range, level, sources, parents and hints of meta.
// The caller discards it in the end, also after it was committed.
func (s *Store) newBlock(meta tsdb.BlockMeta, segment int64, room func() error) (*blockWriter, error) {
	meta.ULID = ulid.MustNew(ulid.Now(), rand.Reader)
	meta.Version = 1
	meta.Stats = tsdb.BlockStats{}
	w := &blockWriter{
		dir: s.opts.Dir, meta: meta, fsync: s.hooks.fsync, room: room, logger: s.opts.Logger,
		numbers: make(map[string]uint32),
	}
	if err := os.Mkdir(w.temporary(), 0o777); err != nil {
		return nil, err
	}
	var err error
	uncached := chunks.WithUncachedIO(s.opts.tsdbOptions().UseUncachedIO)
	if w.chunks, err = chunks.NewWriter(filepath.Join(w.temporary(), "chunks"), chunks.WithSegmentSize(segment), uncached); err == nil {
		w.spoolFile, err = os.Create(filepath.Join(w.temporary(), spoolName))
	}
	if err != nil {
		w.discard()
		return nil, err
	}
	w.spool = bufio.NewWriter(w.spoolFile)
	return w, nil
}

// segmentSize is how large files of chunks may be.
func (u usage) segmentSize() int64 { return int64(min(max(u.reserve()/8, 1<<20), maxSegment)) }

func (w *blockWriter) path() string      { return filepath.Join(w.dir, w.meta.ULID.String()) }
func (w *blockWriter) temporary() string { return w.path() + creationSuffix }
func (w *blockWriter) empty() bool       { return w.meta.Stats.NumSeries == 0 }

// add writes a series that sorts behind the last one, with chunks in order that do not
// overlap. It sets the chunks' references.
func (w *blockWriter) add(ls labels.Labels, chks []chunks.Meta) error {
	if labels.Compare(ls, w.last) <= 0 {
		return fmt.Errorf("series %s does not sort behind %s", ls, w.last)
	}
	w.last.CopyFrom(ls)
	for _, c := range chks {
		if err := w.count(c.Chunk); err != nil {
			return fmt.Errorf("series %s: %w", ls, err)
		}
	}
	w.meta.Stats.NumSeries++
	if w.written >= roomStep {
		w.written = 0
		if err := w.room(); err != nil {
			return err
		}
	}
	if err := w.chunks.WriteChunks(chks...); err != nil {
		return err
	}
	return w.spoolSeries(ls, chks)
}

func (w *blockWriter) count(c chunkenc.Chunk) error {
	n := uint64(c.NumSamples())
	switch c.Encoding() {
	case chunkenc.EncXOR, chunkenc.EncXOR2:
		w.meta.Stats.NumFloatSamples += n
	case chunkenc.EncHistogram, chunkenc.EncFloatHistogram, chunkenc.EncHistogramST, chunkenc.EncFloatHistogramST:
		w.meta.Stats.NumHistogramSamples += n
	default:
		return fmt.Errorf("chunk of encoding %s", c.Encoding())
	}
	w.meta.Stats.NumSamples += n
	w.meta.Stats.NumChunks++
	w.written += len(c.Bytes())
	return nil
}

// spoolSeries writes, behind its length: the number of labels, for each the numbers of its
// name and value; the number of chunks, for each its first time, how much later its last one
// is, and its reference.
func (w *blockWriter) spoolSeries(ls labels.Labels, chks []chunks.Meta) error {
	w.buf.Reset()
	w.buf.PutUvarint(ls.Len())
	ls.Range(func(l labels.Label) {
		w.buf.PutUvarint32(w.number(l.Name))
		w.buf.PutUvarint32(w.number(l.Value))
	})
	w.buf.PutUvarint(len(chks))
	for _, c := range chks {
		w.buf.PutVarint64(c.MinTime)
		w.buf.PutUvarint64(uint64(c.MaxTime - c.MinTime))
		w.buf.PutUvarint64(uint64(c.Ref))
	}
	var length [binary.MaxVarintLen64]byte
	if _, err := w.spool.Write(length[:binary.PutUvarint(length[:], uint64(w.buf.Len()))]); err != nil {
		return err
	}
	_, err := w.spool.Write(w.buf.Get())
	return err
}

func (w *blockWriter) number(symbol string) uint32 {
	n, ok := w.numbers[symbol]
	if !ok {
		symbol = strings.Clone(symbol) // it may be part of something large
		n = uint32(len(w.symbols))
		w.numbers[symbol] = n
		w.symbols = append(w.symbols, symbol)
	}
	return n
}

// finish writes the rest of the block, makes all of it durable and opens it on trial.
func (w *blockWriter) finish(ctx context.Context) error {
	if err := w.closeChunks(); err != nil {
		return err
	}
	if err := w.writeIndex(ctx); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if err := errors.Join(w.closeSpool(), os.Remove(filepath.Join(w.temporary(), spoolName))); err != nil {
		return err
	}
	if _, err := tombstones.WriteFile(w.logger, w.temporary(), tombstones.NewMemTombstones()); err != nil {
		return err
	}
	meta, err := json.MarshalIndent(&w.meta, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.temporary(), "meta.json"), meta, 0o666); err != nil {
		return err
	}
	if err := filepath.WalkDir(w.temporary(), w.sync); err != nil {
		return err
	}
	// A block that the TSDB cannot open keeps it from loading any other.
	b, err := tsdb.OpenBlock(w.logger, w.temporary(), nil, nil)
	if err != nil {
		return fmt.Errorf("open the new block: %w", err)
	}
	return b.Close()
}

// sync is for filepath.WalkDir.
func (w *blockWriter) sync(path string, e fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if !e.IsDir() {
		info, err := e.Info()
		if err != nil {
			return err
		}
		w.bytes += info.Size()
	}
	return statefile.SyncPath(path, w.fsync)
}

func (w *blockWriter) writeIndex(ctx context.Context) (err error) {
	if err := w.spool.Flush(); err != nil {
		return err
	}
	if _, err := w.spoolFile.Seek(0, io.SeekStart); err != nil {
		return err
	}
	iw, err := index.NewWriter(ctx, filepath.Join(w.temporary(), "index"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iw.Close()) }()
	sorted := slices.Clone(w.symbols)
	slices.Sort(sorted)
	for _, symbol := range sorted {
		if err := iw.AddSymbol(symbol); err != nil {
			return err
		}
	}
	r := bufio.NewReader(w.spoolFile)
	var builder labels.ScratchBuilder
	var chks []chunks.Meta
	for ref := range promstorage.SeriesRef(w.meta.Stats.NumSeries) {
		if chks, err = w.unspool(r, &builder, chks[:0]); err != nil {
			return err
		}
		if err := iw.AddSeries(ref, builder.Labels(), chks...); err != nil {
			return err
		}
	}
	return nil
}

// unspool reads a series back.
func (w *blockWriter) unspool(r *bufio.Reader, builder *labels.ScratchBuilder, chks []chunks.Meta) ([]chunks.Meta, error) {
	length, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	w.buf.B = slices.Grow(w.buf.B[:0], int(length))[:length]
	if _, err := io.ReadFull(r, w.buf.B); err != nil {
		return nil, err
	}
	d := encoding.Decbuf{B: w.buf.B}
	builder.Reset()
	for range d.Uvarint() {
		name := w.symbols[d.Uvarint32()]
		builder.Add(name, w.symbols[d.Uvarint32()])
	}
	for range d.Uvarint() {
		c := chunks.Meta{MinTime: d.Varint64()}
		c.MaxTime = c.MinTime + int64(d.Uvarint64())
		c.Ref = chunks.ChunkRef(d.Uvarint64())
		chks = append(chks, c)
	}
	return chks, d.Err()
}

// commit gives the finished block its name, durably. The caller keeps the TSDB from looking
// at its directory meanwhile, so that it never sees a block that is taken back.
func (w *blockWriter) commit() error {
	if err := os.Rename(w.temporary(), w.path()); err != nil {
		return err
	}
	err := statefile.SyncPath(w.dir, w.fsync)
	if err == nil {
		return nil
	}
	return errors.Join(err, os.Rename(w.path(), w.temporary()))
}

// discard removes what was not committed.
func (w *blockWriter) discard() {
	err := errors.Join(w.closeChunks(), w.closeSpool(), os.RemoveAll(w.temporary()))
	if err != nil {
		w.logger.Warn("An unfinished block could not be removed; the next start does", "dir", w.temporary(), "err", oneLine(err))
	}
}

func (w *blockWriter) closeChunks() error {
	if w.chunks == nil {
		return nil
	}
	c := w.chunks
	w.chunks = nil
	return c.Close()
}

func (w *blockWriter) closeSpool() error {
	if w.spoolFile == nil {
		return nil
	}
	f := w.spoolFile
	w.spoolFile = nil
	return f.Close()
}
