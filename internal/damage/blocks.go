package damage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
)

// verified is what is remembered of a block that was read as a whole and found intact. Of
// the files of a block, meta.json has no checksum, and a wrong digit in it makes the TSDB
// overlook samples, or delete blocks as expired. That a file has been cut shows only when
// its end is read.
type verified struct {
	ULID    ulid.ULID `json:"ulid"`
	MinTime int64     `json:"minTime"`
	MaxTime int64     `json:"maxTime"` // exclusive, as in meta.json
	Hints   []string  `json:"hints,omitempty"`
	Index   int64     `json:"index"`  // bytes
	Chunks  []int64   `json:"chunks"` // bytes, by file
}

// inspectBlocks takes every block that cannot be used into quarantine, and returns the end
// of the in-order ones that remain.
func (l *Ledger) inspectBlocks() (end int64, err error) {
	dirs, err := l.blockDirs()
	if err != nil {
		return 0, err
	}
	known := l.loadVerified()
	end = math.MinInt64
	replaced := make(map[ulid.ULID]bool)
	broken := make(map[ulid.ULID]error)
	for _, id := range dirs {
		meta, err := l.checkBlock(id, known[id])
		if err != nil {
			broken[id] = err
			continue
		}
		for _, p := range meta.Compaction.Parents {
			replaced[p.ULID] = true
		}
		if c := &meta.Compaction; !c.FromOutOfOrder() && !c.FromStaleSeries() && !c.FromSelectedSeries() {
			end = max(end, meta.MaxTime)
		}
	}
	for id, cause := range broken {
		if err := l.quarantine(id, cause, known[id], replaced[id]); err != nil {
			return 0, err
		}
	}
	// What had been found in a block that is whole, after all, came from elsewhere: the
	// disk's controller, or it has been put back from a backup.
	return end, l.Drop(func(r Range) bool {
		id, err := ulid.ParseStrict(r.Name)
		return r.Kind == Block && err == nil && slices.Contains(dirs, id) && broken[id] == nil
	})
}

func (l *Ledger) blockDirs() ([]ulid.ULID, error) {
	entries, err := os.ReadDir(l.opts.DataDir)
	if err != nil {
		return nil, err
	}
	var ids []ulid.ULID
	for _, e := range entries {
		if id, err := ulid.ParseStrict(e.Name()); err == nil && e.IsDir() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// checkBlock tells whether a block can be opened and is what it was. What has been verified
// as a whole before is not read again, unless damage was noted since.
func (l *Ledger) checkBlock(id ulid.ULID, known *verified) (*tsdb.BlockMeta, error) {
	dir := filepath.Join(l.opts.DataDir, id.String())
	meta, err := readMeta(dir, id)
	if err != nil {
		return nil, err
	}
	if err := openable(dir); err != nil {
		return nil, err
	}
	if known != nil {
		if err := known.compare(dir, meta); err != nil {
			return nil, err
		}
	}
	noted := l.noted(id)
	if known != nil && !noted {
		return meta, nil
	}
	_, err = verify(dir, meta, unpaced, noted)
	return meta, err
}

func readMeta(dir string, id ulid.ULID) (*tsdb.BlockMeta, error) {
	b, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		return nil, err
	}
	meta := new(tsdb.BlockMeta)
	if err := json.Unmarshal(b, meta); err != nil {
		return nil, fmt.Errorf("meta.json: %w", err)
	}
	if meta.Version != 1 || meta.ULID != id || meta.MinTime >= meta.MaxTime {
		return nil, fmt.Errorf("meta.json: version %d, block %s, time %d to %d", meta.Version, meta.ULID, meta.MinTime, meta.MaxTime)
	}
	return meta, nil
}

// openable tells whether the TSDB can open the block, which checks headers, tables and
// tombstones.
func openable(dir string) error {
	return safely(func() error {
		b, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), dir, nil, nil)
		if err != nil {
			return err
		}
		return b.Close()
	})
}

func (v *verified) compare(dir string, meta *tsdb.BlockMeta) error {
	now, err := describe(dir, meta)
	if err != nil {
		return err
	}
	if !slices.Equal(v.Hints, now.Hints) || v.MinTime != now.MinTime || v.MaxTime != now.MaxTime {
		return fmt.Errorf("meta.json: time %d to %d, hints %q, where it had %d to %d, %q",
			now.MinTime, now.MaxTime, now.Hints, v.MinTime, v.MaxTime, v.Hints)
	}
	if v.Index != now.Index || !slices.Equal(v.Chunks, now.Chunks) {
		return fmt.Errorf("index and chunks have %d and %d bytes, where they had %d and %d", now.Index, now.Chunks, v.Index, v.Chunks)
	}
	return nil
}

// describe returns what is to be remembered of a block.
func describe(dir string, meta *tsdb.BlockMeta) (*verified, error) {
	info, err := os.Stat(filepath.Join(dir, "index"))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "chunks"))
	if err != nil {
		return nil, err
	}
	v := &verified{ULID: meta.ULID, MinTime: meta.MinTime, MaxTime: meta.MaxTime, Hints: meta.Compaction.Hints, Index: info.Size()}
	for _, e := range entries { // sorted by name
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		v.Chunks = append(v.Chunks, info.Size())
	}
	return v, nil
}

// verify reads the index of a block, and with deep its chunks, and holds meta.json against
// them. pace is told how many bytes were read, and can end it by an error.
func verify(dir string, meta *tsdb.BlockMeta, pace func(int) error, deep bool) (content span, err error) {
	content = noTime()
	err = safely(func() error {
		ir, err := index.NewFileReader(filepath.Join(dir, "index"), index.DecodePostingsRaw)
		if err != nil {
			return err
		}
		defer ir.Close()
		cr, err := chunks.NewDirReader(filepath.Join(dir, "chunks"), nil)
		if err != nil {
			return err
		}
		defer cr.Close()
		if err := pace(int(ir.Size())); err != nil {
			return err
		}
		if v := ir.Version(); v != index.FormatV2 && v != index.FormatV1 {
			return fmt.Errorf("index: version %d is not written by this program", v)
		}
		if _, err := ir.PostingsRanges(); err != nil { // checks all checksums
			return fmt.Errorf("index: %w", err)
		}
		if !deep {
			cr = nil
		}
		content, err = readSeries(ir, cr, meta, pace)
		return err
	})
	return content, err
}

// unpaced reads as fast as it goes.
func unpaced(int) error { return nil }

// readSeries reads all series, and their chunks if cr is not nil.
func readSeries(ir *index.Reader, cr *chunks.Reader, meta *tsdb.BlockMeta, pace func(int) error) (span, error) {
	content := noTime()
	name, value := index.AllPostingsKey()
	all, err := ir.Postings(context.Background(), name, value)
	if err != nil {
		return content, fmt.Errorf("index: %w", err)
	}
	var (
		builder labels.ScratchBuilder
		metas   []chunks.Meta
		stats   tsdb.BlockStats
	)
	for all.Next() {
		if err := ir.Series(all.At(), &builder, &metas); err != nil {
			return content, fmt.Errorf("index: series %d: %w", all.At(), err)
		}
		stats.NumSeries++
		for _, m := range metas {
			stats.NumChunks++
			content.extend(m.MinTime)
			content.extend(m.MaxTime)
			if cr == nil {
				continue
			}
			chk, _, err := cr.ChunkOrIterable(m)
			if err != nil {
				return content, fmt.Errorf("chunk %d: %w", m.Ref, err)
			}
			if err := pace(len(chk.Bytes())); err != nil {
				return content, err
			}
		}
	}
	if err := all.Err(); err != nil {
		return content, fmt.Errorf("index: %w", err)
	}
	if stats.NumSeries != meta.Stats.NumSeries || stats.NumChunks != meta.Stats.NumChunks {
		return content, fmt.Errorf("the index has %d series and %d chunks, meta.json speaks of %d and %d",
			stats.NumSeries, stats.NumChunks, meta.Stats.NumSeries, meta.Stats.NumChunks)
	}
	if !content.empty() && (content.min < meta.MinTime || content.max >= meta.MaxTime) {
		return content, fmt.Errorf("the index has chunks from %d to %d, meta.json speaks of %d to %d (exclusive)",
			content.min, content.max, meta.MinTime, meta.MaxTime)
	}
	return content, nil
}

// quarantine notes a block as damaged and moves it into the folder of this package. With
// replaced its samples are in a block that is whole, too, and nothing is missing.
func (l *Ledger) quarantine(id ulid.ULID, cause error, known *verified, replaced bool) error {
	if !replaced {
		if err := l.Add(l.blockRange(id, cause, known)); err != nil {
			return err
		}
	}
	l.opts.Logger.Warn("Moving a damaged block out of the way", "block", id, "replaced", replaced, "err", oneLine(cause))
	return l.SetAside(id)
}

// SetAside moves a block into the folder of this package, durably. The TSDB is closed, or
// is told.
func (l *Ledger) SetAside(id ulid.ULID) error {
	to, err := l.opts.free(id.String())
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(l.opts.DataDir, id.String()), to); err != nil {
		return err
	}
	return errors.Join(l.opts.sync(l.opts.path()), l.opts.sync(l.opts.DataDir))
}

// blockRange is the time range of a damaged block: what it was when it was verified, or
// what meta.json and the index say now, as far as they can be read.
func (l *Ledger) blockRange(id ulid.ULID, cause error, known *verified) Range {
	r := Range{Kind: Block, Name: id.String(), Detail: oneLine(cause), Found: l.opts.Now()}
	if known != nil {
		r.MinTime, r.MaxTime = known.MinTime, known.MaxTime-1
		return r
	}
	said := noTime()
	dir := filepath.Join(l.opts.DataDir, id.String())
	meta, err := readMeta(dir, id)
	if err == nil {
		said.extend(meta.MinTime)
		said.extend(meta.MaxTime - 1)
	} else {
		meta = &tsdb.BlockMeta{}
	}
	// An error that meta.json does not fit is expected here.
	content, _ := verify(dir, meta, unpaced, false)
	if !content.empty() {
		said.extend(content.min)
		said.extend(content.max)
	}
	r.MinTime, r.MaxTime = said.min, said.max
	if said.empty() {
		r.MinTime, r.MaxTime = math.MinInt64, math.MaxInt64
	}
	return r
}

// loadVerified reads the list of verified blocks. Without it they are read once more.
func (l *Ledger) loadVerified() map[ulid.ULID]*verified {
	var list []*verified
	known := make(map[ulid.ULID]*verified)
	if err := l.opts.read(verifiedFile, &list); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.opts.Logger.Warn("The list of verified blocks cannot be read; verifying them again", "file", l.opts.path(verifiedFile), "err", err)
		return known
	}
	for _, v := range list {
		known[v.ULID] = v
	}
	return known
}

func (l *Ledger) saveVerified(known map[ulid.ULID]*verified) error {
	list := make([]*verified, 0, len(known))
	for _, v := range known {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b *verified) int { return a.ULID.Compare(b.ULID) })
	return l.opts.write(verifiedFile, list)
}

// errPanic is what a panic over damaged bytes becomes.
var errPanic = errors.New("panic while reading")

// safely runs f, which may panic over damaged bytes, or fault when the disk does not give a
// mapped page back.
func safely(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return f()
}

// oneLine prints an error, which may have come from deep below, on one line.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
