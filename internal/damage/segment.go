package damage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/prometheus/prometheus/util/compression"
)

// The format of a log segment, as wlog writes it: pages of 32 KiB, filled with fragments,
// the rest zeros. A fragment is a byte of type and compression, the length (u16) and the
// CRC-32C (u32) of its bytes, and these. A record is one full fragment, or a first one,
// middle ones and a last one, all in one segment. TestSegmentLikeTSDB compares with wlog.
const (
	pageSize   = 32 << 10
	headerSize = 7

	typeMask   = 1<<3 - 1
	snappyMask = 1 << 3
	zstdMask   = 1 << 4

	typePad    = 0
	typeFull   = 1
	typeFirst  = 2
	typeMiddle = 3
	typeLast   = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// flaw is a place in a segment where bytes are not what was written.
type flaw struct {
	offset int64
	reason string
	// torn is set if the bytes end there or are zeros to the end of the file: what a
	// write leaves that a crash cut short.
	torn bool
	// records is the number of whole records before it in the segment.
	records int
}

// scanner reads a segment as far as it can be read, in spite of flaws.
// It is used by one goroutine, for one segment.
type scanner struct {
	src  io.ReaderAt
	size int64
	// visit gets each whole record, which is valid until it returns.
	visit func(record []byte) error

	flaws   []flaw
	records int

	page    [pageSize]byte
	at      int64 // offset of page
	n       int   // bytes of the file in page
	partial []byte
	started int64 // offset of the record that partial is the beginning of
	active  bool  // partial holds a first fragment
	flags   byte  // compression of the record in partial
	lost    bool  // the flaw noted last may have been part of a record that goes on
	decode  compression.DecodeBuffer
}

// scanSegment calls visit for each whole record in order and returns what else is there.
// An error of visit ends it. A page that the disk does not give back is a flaw.
func scanSegment(src io.ReaderAt, size int64, visit func(record []byte) error) ([]flaw, error) {
	s := &scanner{src: src, size: size, visit: visit, decode: compression.NewSyncDecodeBuffer()}
	for s.at = 0; s.at < size; s.at += pageSize {
		s.n = int(min(pageSize, size-s.at))
		if n, err := src.ReadAt(s.page[:s.n], s.at); err != nil && (!errors.Is(err, io.EOF) || n < s.n) {
			s.flaw(0, fmt.Sprintf("read: %v", err))
			continue
		}
		clear(s.page[s.n:]) // as the TSDB does with a short page
		if err := s.scanPage(); err != nil {
			return s.flaws, err
		}
	}
	if s.active {
		s.active = false
		s.flaws = append(s.flaws, flaw{offset: s.started, reason: "the last record is torn", torn: true, records: s.records})
	}
	return s.flaws, nil
}

// flaw notes that the bytes at a position of the page are wrong, and with them the record
// that they were part of.
func (s *scanner) flaw(pos int, reason string) {
	f := flaw{offset: s.at + int64(pos), reason: reason, torn: s.tornAt(pos), records: s.records}
	if s.active {
		f.offset = s.started
	}
	s.active, s.lost = false, true
	s.flaws = append(s.flaws, f)
}

// tornAt tells whether a write that began at a position of the page was cut short: the file
// ends in its midst, or from a sector's boundary within it on there are only zeros.
func (s *scanner) tornAt(pos int) bool {
	if s.at+int64(s.n) < s.size {
		return s.zerosFrom(s.at + pageSize)
	}
	_, _, end := s.fragment(pos)
	if pos+headerSize > s.n {
		return true
	}
	if end > s.n {
		return s.endBySum(pos) < 0
	}
	if end == pos+headerSize {
		return allZero(s.page[end:s.n])
	}
	// Of a torn sector more than a few bytes are missing; and a few zeros may be data.
	const sector, least = 512, 16
	last := end - 1
	for last >= pos && s.page[last] == 0 {
		last--
	}
	boundary := (last + sector) / sector * sector
	return boundary+least <= end && allZero(s.page[end:s.n])
}

// endBySum finds the end of the fragment at pos by its checksum alone, for the case that its
// length is what is wrong. It is -1 if there is none.
func (s *scanner) endBySum(pos int) int {
	want := binary.BigEndian.Uint32(s.page[pos+3:])
	sum := uint32(0)
	for end := pos + headerSize; end < s.n; end++ {
		if sum = crc32.Update(sum, castagnoli, s.page[end:end+1]); sum == want {
			return end + 1
		}
	}
	return -1
}

// zerosFrom tells whether the file holds zeros only, and at least one, from an offset on.
func (s *scanner) zerosFrom(offset int64) bool {
	buf := make([]byte, pageSize)
	for ; offset < s.size; offset += pageSize {
		n := int(min(pageSize, s.size-offset))
		if got, err := s.src.ReadAt(buf[:n], offset); got < n || (err != nil && !errors.Is(err, io.EOF)) || !allZero(buf[:n]) {
			return false
		}
	}
	return true
}

// fragment reads the header at pos. end is behind the fragment, which may lie outside the
// page; sound tells that it does not and that its checksum is right.
func (s *scanner) fragment(pos int) (head byte, sound bool, end int) {
	if pos+headerSize > s.n {
		return s.page[pos], false, pageSize + 1
	}
	length := int(binary.BigEndian.Uint16(s.page[pos+1:]))
	end = pos + headerSize + length
	if end > pageSize {
		return s.page[pos], false, end
	}
	sum := binary.BigEndian.Uint32(s.page[pos+3:])
	if length == 0 {
		// Nobody logs an empty record, but zeros look like one; where just a header fits
		// into the page, a record begins with an empty fragment.
		return s.page[pos], end == pageSize && s.page[pos]&typeMask == typeFirst && sum == 0, end
	}
	return s.page[pos], crc32.Checksum(s.page[pos+headerSize:end], castagnoli) == sum, end
}

func (s *scanner) scanPage() error {
	for pos := 0; pos < s.n; {
		head, sound, end := s.fragment(pos)
		if head&typeMask == typePad {
			if allZero(s.page[pos+1:]) {
				return nil // the rest of the page is padding
			}
			s.flaw(pos, "something else than zeros in the padding of a page")
		} else if !sound {
			s.flaw(pos, fmt.Sprintf("checksum of a fragment of %d bytes does not match", end-pos-headerSize))
		} else if err := s.take(pos, head, s.page[pos+headerSize:end]); err != nil {
			return err
		}
		if !sound && !s.soundBehind(end) {
			if pos+headerSize > s.n {
				return nil
			}
			if end = s.endBySum(pos); end < 0 {
				return nil // the next page begins with a fragment for certain
			}
		}
		pos = end
	}
	return nil
}

// soundBehind tells whether the page goes on at pos behind a fragment that is not sound, so
// that its length can be relied on.
func (s *scanner) soundBehind(pos int) bool {
	if pos >= s.n {
		return false
	}
	if allZero(s.page[pos:]) {
		return true
	}
	_, sound, _ := s.fragment(pos)
	return sound
}

// take adds a sound fragment to its record, and hands the record on when it is whole.
func (s *scanner) take(pos int, head byte, data []byte) error {
	flags, typ := head&(snappyMask|zstdMask), head&typeMask
	switch typ {
	case typeFirst, typeFull:
		if s.active {
			// Not taken either: it may be a part of the other one.
			s.flaw(pos, "a record does not end")
			return nil
		}
		s.partial, s.active, s.flags, s.lost = s.partial[:0], true, flags, false
		s.started = s.at + int64(pos)
	case typeMiddle, typeLast:
		if s.lost && !s.active {
			return nil // the rest of a record that is known to be lost
		}
		if !s.active || flags != s.flags {
			s.flaw(pos, "a fragment does not belong to the one before it")
			return nil
		}
	default:
		s.flaw(pos, fmt.Sprintf("unknown type %d of a fragment", typ))
		return nil
	}
	s.partial = append(s.partial, data...)
	if typ == typeFirst || typ == typeMiddle {
		return nil
	}
	record, err := s.decompress()
	if err != nil {
		s.flaw(pos, err.Error())
		return nil
	}
	s.active = false
	s.records++
	return s.visit(record)
}

// shortestShrunk is how many bytes snappy needs before it looks for repetitions: what is shorter it
// makes longer, and the TSDB writes such a record as it is.
const shortestShrunk = 17

// decompress returns the record in partial. The bits that say how it is compressed are not
// covered by a checksum: bytes that are said to be plain, and are a whole snappy or zstd
// stream, are not plain.
func (s *scanner) decompress() ([]byte, error) {
	how := compression.None
	switch {
	case s.flags&snappyMask != 0:
		how = compression.Snappy
	case s.flags&zstdMask != 0:
		how = compression.Zstd
	default:
		if s.compressed() {
			return nil, errors.New("a record is marked as not compressed, and is")
		}
	}
	record, err := compression.Decode(how, s.partial, s.decode)
	if err != nil {
		return nil, fmt.Errorf("decompress a record: %w", err)
	}
	return record, nil
}

// compressed tells whether the bytes in partial are a whole compressed stream.
func (s *scanner) compressed() bool {
	if bytes.HasPrefix(s.partial, []byte{0x28, 0xb5, 0x2f, 0xfd}) { // zstd
		_, err := compression.Decode(compression.Zstd, s.partial, s.decode)
		return err == nil
	}
	// Snappy begins with the length. A plain record begins with its type, which no length of
	// a compressed one is as small as. And nothing shrinks to less than a fiftieth: the look
	// at a plain record must not reserve gigabytes.
	n, used := binary.Uvarint(s.partial)
	if used <= 0 || n < shortestShrunk || n > 50*uint64(len(s.partial)) {
		return false
	}
	_, err := compression.Decode(compression.Snappy, s.partial, s.decode)
	return err == nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
