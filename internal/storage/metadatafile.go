package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/statefile"
)

// The metadata file, written as a whole: the magic, then of each entry its
// family, type, unit and help, each as a length in unsigned varint and its bytes,
// families in order and of each family the oldest entry first; then the CRC-32C of all
// that, big-endian.
const (
	metadataFile  = "metadata.starling"
	metadataMagic = "STRLMD\x00\x01"
	flushInterval = 30 * time.Second
)

// encode returns the file's content and the version it stands for.
func (f *families) encode() ([]byte, uint64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	names := make([]string, 0, len(f.entries))
	for name := range f.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	b := append(make([]byte, 0, f.bytes+f.bytes/4+64), metadataMagic...)
	for _, name := range names {
		for _, m := range slices.Backward(f.entries[name]) {
			for _, s := range []string{name, string(m.Type), m.Unit, m.Help} {
				b = binary.AppendUvarint(b, uint64(len(s)))
				b = append(b, s...)
			}
		}
	}
	return binary.BigEndian.AppendUint32(b, checksum(b)), f.version
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func decodeMetadata(b []byte) ([]series.Metadata, error) {
	if len(b) < len(metadataMagic)+4 || string(b[:len(metadataMagic)]) != metadataMagic {
		return nil, errors.New("not a metadata file of this version")
	}
	body := b[:len(b)-4]
	if checksum(body) != binary.BigEndian.Uint32(b[len(body):]) {
		return nil, errors.New("checksum does not match")
	}
	body = body[len(metadataMagic):]
	var ms []series.Metadata
	for len(body) > 0 {
		var fields [4]string
		for i := range fields {
			n, used := binary.Uvarint(body)
			if used <= 0 || n > uint64(len(body)-used) {
				return nil, errors.New("an entry is cut short")
			}
			fields[i] = string(body[used : used+int(n)])
			body = body[used+int(n):]
		}
		ms = append(ms, series.Metadata{Family: fields[0], Metadata: metadata.Metadata{
			Type: model.MetricType(fields[1]), Unit: fields[2], Help: fields[3],
		}})
	}
	return ms, nil
}

// flusher keeps the metadata file up to date: at most every 30 s, and when it is stopped.
type flusher struct {
	families *families
	path     string
	fsync    func(*os.File) error
	logger   *slog.Logger
	saved    uint64 // version in the file
	quit     chan struct{}
	done     chan struct{}
}

func newFlusher(f *families, path string, fsync func(*os.File) error, logger *slog.Logger) *flusher {
	return &flusher{
		families: f, path: path, fsync: fsync, logger: logger,
		quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// load reads the file. Metadata is best effort and senders repeat it, so a damaged file is
// moved aside and does not stop the node.
func (fl *flusher) load() {
	ms, err := fl.read()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		aside := fl.path + ".damaged"
		fl.logger.Warn("Metadata file cannot be used; starting without metadata", "file", fl.path, "moved_to", aside, "err", err)
		if err := os.Rename(fl.path, aside); err != nil {
			fl.logger.Warn("Metadata file cannot be moved aside", "file", fl.path, "err", err)
		}
		return
	}
	fl.families.add(ms)
	fl.saved = fl.families.current()
}

func (fl *flusher) read() ([]series.Metadata, error) {
	info, err := os.Stat(fl.path)
	if err != nil {
		return nil, err
	}
	if info.Size() > 2*maxMetadataBytes {
		return nil, fmt.Errorf("%d bytes are more than the limit allows", info.Size())
	}
	b, err := os.ReadFile(fl.path)
	if err != nil {
		return nil, err
	}
	return decodeMetadata(b)
}

func (fl *flusher) start() {
	go func() {
		defer close(fl.done)
		t := time.NewTicker(flushInterval)
		defer t.Stop()
		for {
			select {
			case <-fl.quit:
				return
			case <-t.C:
			}
			if err := fl.flush(); err != nil {
				fl.logger.Warn("Metadata could not be saved; trying again", "err", err)
			}
		}
	}()
}

func (fl *flusher) stop() error {
	close(fl.quit)
	<-fl.done
	return fl.flush()
}

func (fl *flusher) flush() error {
	if fl.families.current() == fl.saved {
		return nil
	}
	b, version := fl.families.encode()
	if err := statefile.ReplaceWith(fl.path, bytes.NewReader(b), fl.fsync); err != nil {
		return fmt.Errorf("save metadata: %w", err)
	}
	fl.saved = version
	return nil
}

func (f *families) current() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.version
}
