package table

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
)

func fileTable() *Table {
	t := members(3, "a-b")
	t.Epoch, t.WrittenQuorum = 7, 2
	t.Slots[0].Zone, t.Slots[2].Incarnation = "east <1>", 4
	return t
}

// The format of the file is what nodes find after an upgrade.
const golden = `starling-table v1 crc32c=%s
{
  "clusterId": "flock",
  "epoch": 7,
  "keyVersion": 1,
  "replicationFactor": 3,
  "writtenQuorum": 2,
  "slots": [
    {
      "node": "a",
      "zone": "east \u003c1\u003e"
    },
    {},
    {
      "node": "b",
      "incarnation": 4
    }
  ]
}
`

func TestEncodeDecode(t *testing.T) {
	want := fileTable()
	b, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	if _, body, _ := strings.Cut(golden, "\n"); string(b) != fmt.Sprintf(golden, checksum("v1", body)) {
		t.Errorf("encoded:\n%s", b)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v, want %+v", got, want)
	}
	if _, err := Encode(&Table{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("encoding an empty table: %v, want %v", err, ErrInvalid)
	}
}

func checksum(version, body string) string {
	covered := "starling-table " + version + body
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(covered), crc32.MakeTable(crc32.Castagnoli)))
}

func TestDecodeRefuses(t *testing.T) {
	sealedAs := func(version, body string) string {
		return "starling-table " + version + " crc32c=" + checksum(version, body) + "\n" + body
	}
	sealed := func(body string) string { return sealedAs("v1", body) }
	b, err := Encode(fileTable())
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	tests := []struct {
		name  string
		bytes string
		want  error
		says  string
	}{
		{"empty", "", ErrCorrupt, "0 bytes"},
		{"header only, torn", good[:20], ErrCorrupt, "20 bytes"},
		{"zeroes", strings.Repeat("\x00", 50) + "\n", ErrCorrupt, "not a header"},
		{"another file", "wal v1\n{}", ErrCorrupt, "not a header"},
		{"a later version", sealedAs("v2", "{}"), ErrInvalid, "version unknown"},
		{"a damaged version", strings.Replace(good, "v1", "v3", 1), ErrCorrupt, "crc32c="},
		{"a damaged space", strings.Replace(good, "v1 ", "v1\xa0", 1), ErrCorrupt, "crc32c="},
		{"torn", good[:len(good)-5], ErrCorrupt, "crc32c="},
		{"longer", good + "\n", ErrCorrupt, "crc32c="},
		{"checksum in capitals", "starling-table v1 crc32c=" + strings.ToUpper(checksum("v1", "x")) + "\nx", ErrCorrupt, "crc32c="},
		{"not JSON", sealed("starling"), ErrInvalid, "invalid character"},
		{"no table", sealed("{}"), ErrInvalid, "cluster ID"},
		{"a field of a later version", sealed(`{"clusterId":"flock","moving":true}`), ErrInvalid, "moving"},
		{"two tables", sealed(strings.SplitN(good, "\n", 2)[1] + "{}"), ErrInvalid, "more follows"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decode([]byte(tt.bytes))
			if got != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("table %v, error %v, want %v with %q", got, err, tt.want, tt.says)
			}
		})
	}
}

// Any flipped bit must show.
func TestDecodeNoticesFlippedBits(t *testing.T) {
	b, err := Encode(fileTable())
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := Decode(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit %d of byte %d flipped: %v, want %v", bit%8, bit/8, err, ErrCorrupt)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(fileTable())
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(b, []byte("\n"))
	f.Add(b, false)
	f.Add(body, true)
	f.Add([]byte(`{"slots":[{"node":"a"},{"node":"a"}]}`), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = append([]byte(header(fileVersion, b)), b...)
		}
		got, err := Decode(b)
		if err != nil {
			if got != nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrInvalid) {
				t.Fatalf("table %v, error %v", got, err)
			}
			return
		}
		again, err := Encode(got)
		if err != nil {
			t.Fatalf("decoded a table that cannot be encoded: %v", err)
		}
		if same, err := Decode(again); err != nil || !reflect.DeepEqual(same, got) {
			t.Fatalf("decoded %+v, then %+v, %v", got, same, err)
		}
	})
}
