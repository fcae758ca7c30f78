package storage

import (
	"context"
	"fmt"
	"hash/crc32"
	"path/filepath"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/fileutil"
	"github.com/prometheus/prometheus/tsdb/index"
)

// indexEntries reads what the index of a block says of the chunks of a series. The TSDB's own
// reader looks the symbols of all labels up for that, which takes ten times as long.
//
// The format is that of https://github.com/prometheus/prometheus/blob/main/tsdb/docs/format/index.md.
type indexEntries struct {
	*fileutil.MmapFile
	decoder index.Decoder
}

// openEntries opens the index of the block in a directory.
func openEntries(dir string) (*indexEntries, error) {
	f, err := fileutil.OpenMmapFile(filepath.Join(dir, "index"))
	if err != nil {
		return nil, err
	}
	return &indexEntries{f, index.Decoder{LookupSymbol: noSymbol}}, nil
}

func noSymbol(context.Context, uint32) (string, error) { return "", nil }

// entryAlign is how many bytes a number counts, since version 2 of the format.
const entryAlign = 16

// aligned tells whether it is of such a version.
func (e *indexEntries) aligned() bool {
	b := e.Bytes()
	return len(b) >= index.HeaderLen && b[index.HeaderLen-1] != index.FormatV1
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chunks replaces metas by those of a series. The builder is scratch.
func (e *indexEntries) chunks(ref promstorage.SeriesRef, scratch *labels.ScratchBuilder, metas *[]chunks.Meta) error {
	d := encoding.NewDecbufUvarintAt(byteSlice(e.Bytes()), int(ref)*entryAlign, castagnoli)
	if err := d.Err(); err != nil {
		return fmt.Errorf("entry of the index: %w", err)
	}
	return e.decoder.Series(d.Get(), scratch, metas)
}

type byteSlice []byte

// Len implements encoding.ByteSlice.
func (b byteSlice) Len() int { return len(b) }

// Range implements encoding.ByteSlice.
func (b byteSlice) Range(start, end int) []byte { return b[start:end] }
