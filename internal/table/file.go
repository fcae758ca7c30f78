package table

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// ErrCorrupt is wrapped by what [Decode] returns for bytes that are not what [Encode]
// wrote. The table in them must not be used.
var ErrCorrupt = errors.New("corrupt table file")

// The file is one header line and the table as JSON:
//
//	starling-table v1 crc32c=<8 hex digits>
//	{"clusterId": …}
//
// The checksum covers what stands before it in the header, so that damage is not taken for
// another version, and all that follows the header.
const (
	fileMagic   = "starling-table "
	fileVersion = "v1"
	checksumKey = " crc32c="
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the table in the format of its file.
func Encode(t *Table) ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("encode table: %w", err)
	}
	body, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode table: %w", err)
	}
	body = append(body, '\n')
	return append([]byte(header(fileVersion, body)), body...), nil
}

// Decode reads what Encode wrote, checks it and returns a valid table. Errors wrap
// [ErrCorrupt], or [ErrInvalid] if the bytes are intact and the table in them is not
// one that this program can use.
func Decode(b []byte) (*Table, error) {
	line, body, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return nil, fmt.Errorf("decode table: %w: %d bytes without a complete header line", ErrCorrupt, len(b))
	}
	if !bytes.HasPrefix(line, []byte(fileMagic)) {
		return nil, fmt.Errorf("decode table: %w: the first line is %.60q, not a header", ErrCorrupt, line)
	}
	version, _, _ := strings.Cut(string(line[len(fileMagic):]), checksumKey)
	if want := header(version, body); string(line)+"\n" != want {
		return nil, fmt.Errorf("decode table: %w: header %.60q, but it and the %d bytes after it have %.60q",
			ErrCorrupt, line, len(body), want[:len(want)-1])
	}
	if version != fileVersion {
		return nil, fmt.Errorf("decode table: %w: header %.60q is of a version unknown to this program", ErrInvalid, line)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	t := new(Table)
	if err := dec.Decode(t); err != nil {
		return nil, fmt.Errorf("decode table: %w: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decode table: %w: more follows after the table", ErrInvalid)
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("decode table: %w", err)
	}
	return t, nil
}

func header(version string, body []byte) string {
	start := fileMagic + version
	sum := crc32.Checksum([]byte(start), castagnoli)
	return fmt.Sprintf("%s%s%08x\n", start, checksumKey, crc32.Update(sum, castagnoli, body))
}
