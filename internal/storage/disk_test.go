package storage

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// disk is what a power loss would leave: of each file the bytes of its last sync, and of
// each directory the entries of its last sync, whatever has been renamed or removed since.
// What the TSDB syncs by itself does not count, so the image may hold less than a disk
// would, and never more. It syncs nothing for real.
type disk struct {
	mu    sync.Mutex
	files map[uint64]*inode            // by number
	dirs  map[uint64]map[string]uint64 // by number: the numbers of the entries by name
	syncs int
	// before runs ahead of each sync, unlocked; its error fails the sync.
	before func() error
}

// inode is a file or directory whatever its names. Its descriptor keeps it, and its number,
// alive.
type inode struct {
	file   *os.File
	dir    bool
	synced int64
	// lost is set by a failed sync: as in a kernel, later ones succeed, and what was not
	// on the disk by then never gets there.
	lost bool
}

func newDisk() *disk {
	return &disk{files: make(map[uint64]*inode), dirs: make(map[uint64]map[string]uint64)}
}

func (d *disk) fsync(f *os.File) error {
	var failure error
	if d.before != nil {
		failure = d.before()
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	if info.IsDir() {
		if failure != nil {
			return failure
		}
		return d.syncDir(f.Name(), info)
	}
	_, file, err := d.inodeOf(f.Name(), info)
	if err != nil {
		return err
	}
	if failure != nil {
		file.lost = true
		return failure
	}
	if !file.lost {
		file.synced = info.Size()
	}
	return nil
}

func (d *disk) syncDir(path string, info fs.FileInfo) error {
	self, _, err := d.inodeOf(path, info)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	names := make(map[string]uint64, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		number, _, err := d.inodeOf(filepath.Join(path, e.Name()), info)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		names[e.Name()] = number
	}
	d.dirs[self] = names
	return nil
}

func (d *disk) inodeOf(path string, info fs.FileInfo) (uint64, *inode, error) {
	number := info.Sys().(*syscall.Stat_t).Ino
	if file := d.files[number]; file != nil {
		return number, file, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	d.files[number] = &inode{file: f, dir: info.IsDir()}
	return number, d.files[number], nil
}

// image writes what a power loss at this moment would leave of from to a new directory.
func (d *disk) image(t testing.TB, from string) string {
	t.Helper()
	d.mu.Lock()
	dirs := maps.Clone(d.dirs)
	files := make(map[uint64]inode, len(d.files))
	for number, file := range d.files {
		files[number] = *file
	}
	d.mu.Unlock()
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	var restore func(dir uint64, to string)
	restore = func(dir uint64, to string) {
		for name, number := range dirs[dir] {
			path, file := filepath.Join(to, name), files[number]
			if file.dir {
				if err := os.Mkdir(path, 0o777); err != nil {
					t.Fatal(err)
				}
				restore(number, path)
				continue
			}
			content, err := io.ReadAll(io.NewSectionReader(file.file, 0, file.synced))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore(info.Sys().(*syscall.Stat_t).Ino, to)
	return to
}
