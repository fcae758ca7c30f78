package damage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// writeSegment has the TSDB's own package write records of many sizes, some over several
// pages, and returns the file and the records.
func writeSegment(t *testing.T, how compression.Type, seed uint64) (file []byte, records []string) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	w, err := wlog.NewSize(nil, nil, dir, 64*pageSize, how)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		size := rnd.IntN(300)
		if i%10 == 5 {
			size = rnd.IntN(3 * pageSize)
		}
		rec := fmt.Appendf(nil, "record %d ", i)
		for len(rec) < size {
			if i%2 == 0 {
				rec = append(rec, "abcabc"...)
			} else {
				rec = append(rec, byte(rnd.Uint32()))
			}
		}
		if err := w.Log(rec); err != nil {
			t.Fatal(err)
		}
		records = append(records, string(rec))
	}
	name := wlog.SegmentName(dir, 0)
	info, err := os.Stat(name) // before Close, which fills the page
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if file, err = os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
	return file[:info.Size()], records
}

func scanned(t *testing.T, file []byte) (records []string, flaws []flaw) {
	t.Helper()
	flaws, err := scanSegment(bytes.NewReader(file), int64(len(file)), func(rec []byte) error {
		records = append(records, string(rec))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records, flaws
}

// likeTSDB reads a segment as the TSDB does, up to the first error.
func likeTSDB(t *testing.T, file []byte) (records []string, err error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(wlog.SegmentName(dir, 0), file, 0o666); err != nil {
		t.Fatal(err)
	}
	s, err := wlog.OpenReadSegment(wlog.SegmentName(dir, 0))
	if err != nil {
		t.Fatal(err)
	}
	buf := wlog.NewSegmentBufReader(s)
	defer buf.Close()
	r := wlog.NewReader(buf)
	for r.Next() {
		records = append(records, string(r.Record()))
	}
	return records, r.Err()
}

// isSubsequence tells whether got are some of want, in order.
func isSubsequence(got, want []string) bool {
	for _, g := range got {
		i := slices.Index(want, g)
		if i < 0 {
			return false
		}
		want = want[i+1:]
	}
	return true
}

func TestSegmentLikeTSDB(t *testing.T) {
	for _, how := range []compression.Type{compression.None, compression.Snappy, compression.Zstd} {
		for seed := range uint64(10) {
			file, want := writeSegment(t, how, seed)
			got, flaws := scanned(t, file)
			if len(flaws) > 0 || !slices.Equal(got, want) {
				t.Fatalf("%s: %d of %d records, %+v", how, len(got), len(want), flaws)
			}
			if theirs, err := likeTSDB(t, file); err != nil || !slices.Equal(theirs, want) {
				t.Fatalf("%s: the TSDB reads %d of %d records: %v", how, len(theirs), len(want), err)
			}
		}
	}
}

// A plain record begins with its type, a small number, and may happen to be what snappy makes of
// so few bytes. The TSDB keeps no such record compressed, since it is no shorter.
func TestPlainRecordLikeSnappy(t *testing.T) {
	dir := t.TempDir()
	w, err := wlog.NewSize(nil, nil, dir, 64*pageSize, compression.Snappy)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for n := 1; n < 40; n++ {
		rec := snappy.Encode(nil, bytes.Repeat([]byte{7}, n))
		if plain := len(rec) >= n; plain != (n < shortestShrunk) {
			t.Fatalf("%d bytes, of which all are the same, become %d", n, len(rec))
		}
		if n < shortestShrunk {
			want = append(want, string(rec))
			if err := w.Log(rec); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(wlog.SegmentName(dir, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, flaws := scanned(t, file); len(flaws) > 0 || !slices.Equal(got, want) {
		t.Errorf("%d of %d records, %+v", len(got), len(want), flaws)
	}
}

// A record that begins where a page has room for little more than a header, or for less,
// is read as the TSDB reads it.
func TestRecordsAtTheEndOfAPage(t *testing.T) {
	for room := range 20 {
		dir := t.TempDir()
		w, err := wlog.NewSize(nil, nil, dir, 64*pageSize, compression.None)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{strings.Repeat("a", pageSize-headerSize-room), "the next record", "one more"}
		for _, rec := range want {
			if err := w.Log([]byte(rec)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(wlog.SegmentName(dir, 0))
		if err != nil {
			t.Fatal(err)
		}
		if got, flaws := scanned(t, file); len(flaws) > 0 || !slices.Equal(got, want) {
			t.Errorf("room for %d bytes: %d of %d records, %+v", room, len(got), len(want), flaws)
		}
		if theirs, err := likeTSDB(t, file); err != nil || !slices.Equal(theirs, want) {
			t.Errorf("room for %d bytes: the TSDB reads %d of %d records: %v", room, len(theirs), len(want), err)
		}
	}
}

// TestSegmentFlips flips single bits: nothing is invented, what the TSDB would stumble over
// is noticed, what is lost is noticed, and little is lost.
func TestSegmentFlips(t *testing.T) {
	for _, how := range []compression.Type{compression.None, compression.Snappy} {
		file, want := writeSegment(t, how, 3)
		rnd := rand.New(rand.NewPCG(3, 3))
		positions := make([]int, 0, 3000)
		for i := range 100 { // where the headers of the first records are
			positions = append(positions, i)
		}
		for range 200 {
			positions = append(positions, rnd.IntN(len(file)))
		}
		most := 0
		for _, pos := range positions {
			bad := slices.Clone(file)
			bad[pos] ^= 1 << rnd.IntN(8)
			got, flaws := scanned(t, bad)
			if !isSubsequence(got, want) {
				t.Fatalf("%s: byte %d: a record that was not written", how, pos)
			}
			if len(flaws) == 0 && len(got) != len(want) {
				t.Fatalf("%s: byte %d: %d of %d records, and no flaw", how, pos, len(got), len(want))
			}
			if theirs, err := likeTSDB(t, bad); len(flaws) == 0 && (err != nil || !slices.Equal(theirs, want)) {
				t.Fatalf("%s: byte %d: the TSDB reads %d records: %v", how, pos, len(theirs), err)
			}
			most = max(most, len(want)-len(got))
			for _, f := range flaws {
				if f.torn && f.records < len(got) {
					t.Errorf("%s: byte %d: torn, with records behind it: %+v", how, pos, f)
				}
			}
		}
		if most > 2 {
			t.Errorf("%s: one bit takes %d records", how, most)
		}
	}
}

// TestSegmentCuts ends a segment at every byte of its last records: what is whole is read,
// and the rest is a torn record, nothing worse.
func TestSegmentCuts(t *testing.T) {
	file, want := writeSegment(t, compression.Snappy, 5)
	for end := len(file) - 3000; end < len(file); end += 7 {
		for _, zeros := range []int{0, 5000} {
			bad := append(slices.Clone(file[:end]), make([]byte, zeros)...)
			got, flaws := scanned(t, bad)
			if !slices.Equal(got, want[:len(got)]) {
				t.Fatalf("cut to %d bytes: a record that was not written", end)
			}
			for _, f := range flaws {
				// Beside a boundary of sectors a few missing bytes are no sign of a crash.
				if !f.torn && zeros == 0 {
					t.Errorf("cut to %d bytes, %d zeros: %+v", end, zeros, f)
				}
			}
		}
	}
}

// TestFlippedLengthIsNotTorn flips the length of the last record, so that it seems to go on
// beyond the end of the file.
func TestFlippedLengthIsNotTorn(t *testing.T) {
	file, want := writeSegment(t, compression.None, 7)
	last := want[len(want)-1]
	at := len(file) - len(last) - headerSize
	if got := string(file[at+headerSize:]); got != last || at/pageSize != (len(file)-1)/pageSize {
		t.Fatal("the last record is not where it is expected")
	}
	file[at+1] ^= 1 << 4
	got, flaws := scanned(t, file)
	if len(got) != len(want)-1 || len(flaws) != 1 || flaws[0].torn {
		t.Errorf("%d of %d records, flaws %+v", len(got), len(want), flaws)
	}
}
