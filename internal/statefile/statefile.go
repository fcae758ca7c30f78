// Package statefile keeps small pieces of state in files that are either as they were or
// as they were meant to be: written aside, synced and renamed into place, with a checksum
// that tells damage.
package statefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// ErrDamaged marks a file whose checksum or form is wrong.
var ErrDamaged = errors.New("file is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns v as JSON below a line that names the name and the checksum.
func Encode(name string, v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	head := fmt.Sprintf("starling %s 1 crc32c=%08x\n", name, crc32.Checksum(body, castagnoli))
	return append([]byte(head), body...), nil
}

// Decode reads what Encode wrote. Errors wrap ErrDamaged.
func Decode(name string, b []byte, v any) error {
	head, body, found := bytes.Cut(b, []byte("\n"))
	if !found {
		return fmt.Errorf("%w: no header", ErrDamaged)
	}
	want := fmt.Sprintf("starling %s 1 crc32c=%08x", name, crc32.Checksum(body, castagnoli))
	if string(head) != want {
		return fmt.Errorf("%w: its header is %.60q where its content asks for %q", ErrDamaged, head, want)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// ErrName is the error of a name that is no name of a file, but leads elsewhere.
var ErrName = errors.New("not the name of a file")

// Path is that of a file in a directory, whose name may come from elsewhere. It is ErrName if
// it would be outside of it, or below.
func Path(dir, name string) (string, error) {
	if !filepath.IsLocal(name) || filepath.Base(name) != name || name == "." {
		return "", fmt.Errorf("%w: %.80q", ErrName, name)
	}
	return filepath.Join(dir, name), nil
}

// Load reads what Save wrote. A missing file is os.ErrNotExist, a damaged one ErrDamaged. It
// follows no link that leads out of the directory.
func Load(dir, name string, v any) error {
	path, err := Path(dir, name)
	if err != nil {
		return err
	}
	f, err := os.OpenInRoot(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if err := Decode(name, b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Save writes v into the file of that name in dir, so that Load reads either it or what was
// there before, also after a power failure.
func Save(dir, name string, v any) error {
	path, err := Path(dir, name)
	if err != nil {
		return err
	}
	b, err := Encode(name, v)
	if err != nil {
		return err
	}
	return Replace(path, b)
}

// Replace writes a file aside, syncs it, renames it into place and syncs the directory.
func Replace(path string, content []byte) error {
	return ReplaceWith(path, bytes.NewReader(content), (*os.File).Sync)
}

// ReplaceWith is Replace with another way to make a file or directory durable.
func ReplaceWith(path string, content io.Reader, fsync func(*os.File) error) error {
	return replace(path, content, 0o666, fsync)
}

// ReplacePrivate is Replace for what nobody but the owner of the file may read, whatever the
// file before allowed.
func ReplacePrivate(path string, content []byte) error {
	// One that a crash left may allow more.
	if err := os.Remove(path + ".tmp"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return replace(path, bytes.NewReader(content), 0o600, (*os.File).Sync)
}

// replace opens nothing outside of the file's directory, whatever links there are in it.
func replace(path string, content io.Reader, mode os.FileMode, fsync func(*os.File) error) error {
	dir, name := filepath.Dir(path), filepath.Base(path)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer root.Close()
	tmp := name + ".tmp"
	err = write(root, tmp, content, mode, fsync)
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err == nil {
		err = SyncPath(dir, fsync)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func write(root *os.Root, name string, content io.Reader, mode os.FileMode, fsync func(*os.File) error) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = fsync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, root.Remove(name)) // a full disk needs the space
	}
	return nil
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error { return SyncPath(dir, (*os.File).Sync) }

// SyncPath makes the file or directory at path durable, in the given way.
func SyncPath(path string, fsync func(*os.File) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fsync(f); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// MakeDir makes a directory and syncs its parent.
func MakeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}
