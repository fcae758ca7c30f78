package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// errDamaged marks a file whose checksum or form is wrong.
var errDamaged = errors.New("file is damaged")

// errLost marks a part of the directory that is missing while others show that it was
// there.
var errLost = errors.New("part of the directory is missing")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeFile returns v as JSON below a line that names the kind and the checksum.
func encodeFile(kind string, v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	head := fmt.Sprintf("starling %s 1 crc32c=%08x\n", kind, crc32.Checksum(body, castagnoli))
	return append([]byte(head), body...), nil
}

func decodeFile(kind string, b []byte, v any) error {
	head, body, found := bytes.Cut(b, []byte("\n"))
	if !found {
		return fmt.Errorf("%w: no header", errDamaged)
	}
	want := fmt.Sprintf("starling %s 1 crc32c=%08x", kind, crc32.Checksum(body, castagnoli))
	if string(head) != want {
		return fmt.Errorf("%w: its header is %.60q where its content asks for %q", errDamaged, head, want)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// load reads a file of encodeFile into v. A missing file is os.ErrNotExist.
func load(dir, kind string, v any) error {
	path := filepath.Join(dir, kind)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := decodeFile(kind, b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// save writes v so that load reads either it or what was there before, also after a
// power failure.
func save(dir, kind string, v any) error {
	b, err := encodeFile(kind, v)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, kind), b)
}

// replaceFile writes a file aside, syncs it, renames it into place and syncs the
// directory.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// makeDir makes a directory and syncs its parent.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
