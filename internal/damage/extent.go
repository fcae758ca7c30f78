package damage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// extentFile remembers how long the logs and the files of head chunks were when all of them
// had been synced: when the store was opened, and when it was closed. A log that was cut
// between two records, or whose last segment is gone, looks like one that was written no
// further, and only this tells.
const extentFile = "extent"

// extent is bytes by path below the data directory, with slashes.
type extent map[string]int64

// folders are what an extent speaks of, beside the newest checkpoint.
func folders() []string { return []string{"wal", "wbl", "chunks_head"} }

// NoteExtent remembers how long the logs are. The caller has synced them and lets nobody
// write to them meanwhile.
func (l *Ledger) NoteExtent() error {
	e := make(extent)
	for _, dir := range folders() {
		if err := e.add(l.opts.DataDir, dir); err != nil {
			return err
		}
	}
	return l.opts.write(extentFile, e)
}

func (e extent) add(dataDir, dir string) error {
	entries, err := os.ReadDir(filepath.Join(dataDir, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range entries {
		name := filepath.Join(dir, f.Name())
		if f.IsDir() {
			if err := e.add(dataDir, name); err != nil {
				return err
			}
			continue
		}
		info, err := f.Info()
		if err != nil {
			return err
		}
		e[filepath.ToSlash(name)] = info.Size()
	}
	return nil
}

// loadExtent reads what was remembered. Without it nothing is known.
func (l *Ledger) loadExtent() extent {
	var e extent
	if err := l.opts.read(extentFile, &e); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.opts.Logger.Warn("The file of the logs' lengths cannot be read; whether they were cut at their ends is not known", "file", l.opts.path(extentFile), "err", err)
		return nil
	}
	return e
}

// dropExtent forgets the lengths of logs that are about to be written anew.
func (l *Ledger) dropExtent() error {
	if err := os.Remove(l.opts.path(extentFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return l.opts.sync(l.opts.path())
}

// last returns the highest index of a file that dir had, or -1.
func (e extent) last(dir string) int {
	last := -1
	for name := range e {
		if i, ok := indexOf(filepath.Base(name)); ok && filepath.ToSlash(filepath.Dir(name)) == filepath.ToSlash(dir) {
			last = max(last, i)
		}
	}
	return last
}

// of returns how long a file was, 0 if that is not known.
func (e extent) of(dataDir, path string) int64 {
	rel, err := filepath.Rel(dataDir, path)
	if err != nil {
		return 0
	}
	return e[filepath.ToSlash(rel)]
}
