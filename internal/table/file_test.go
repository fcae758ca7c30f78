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
	t := moving(3, "aB-", Switching, "a-x")
	t.Epoch, t.Paused = 7, true
	t.Current.Slots[0].Zone, t.Transition.Target.Slots[0].Zone = "east <1>", "east <1>"
	t.Waiting = []Command{
		{Kind: Join, Member: &Member{Node: "y", Zone: "west"}},
		{Kind: Replace, Nodes: []NodeID{"a", "y"}, Lost: true},
	}
	return t
}

// The format of the file is what nodes find after an upgrade.
const golden = `starling-table v1 crc32c=%s
{
  "clusterId": "flock",
  "epoch": 7,
  "keyVersion": 1,
  "current": {
    "replicationFactor": 3,
    "slots": [
      {
        "node": "a",
        "zone": "east \u003c1\u003e"
      },
      {
        "node": "b",
        "removed": true
      },
      {}
    ]
  },
  "transition": {
    "phase": "switching",
    "began": 5,
    "target": {
      "replicationFactor": 3,
      "slots": [
        {
          "node": "a",
          "zone": "east \u003c1\u003e"
        },
        {},
        {
          "node": "x"
        }
      ]
    }
  },
  "waiting": [
    {
      "kind": "join",
      "member": {
        "node": "y",
        "zone": "west"
      }
    },
    {
      "kind": "replace",
      "nodes": [
        "a",
        "y"
      ],
      "lost": true
    }
  ],
  "paused": true
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

func bodyOf(file string) string {
	_, body, _ := strings.Cut(file, "\n")
	return body
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
		{"a field of a later version", sealed(`{"clusterId":"flock","settled":true}`), ErrInvalid, "settled"},
		{"a phase of a later version", sealed(strings.Replace(bodyOf(good), "switching", "resting", 1)), ErrInvalid, "unknown phase"},
		{"a command of a later version", sealed(strings.Replace(bodyOf(good), `"replace"`, `"merge"`, 1)), ErrInvalid, "kind is unknown"},
		{"a target without slots", sealed(strings.Replace(bodyOf(good), `"target": {`, `"target": {"slots": []}, "was": {`, 1)), ErrInvalid, "was"},
		{"two tables", sealed(bodyOf(good) + "{}"), ErrInvalid, "more follows"},
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
	f.Add([]byte(`{"clusterId":"c","epoch":1,"keyVersion":1,"current":{"replicationFactor":1,"slots":[{"node":"a"},{"node":"a"}]}}`), true)
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
		same, err := Decode(again)
		if err != nil {
			t.Fatalf("decoded %+v, and not what it is encoded as: %v", got, err)
		}
		if last, err := Encode(same); err != nil || !bytes.Equal(last, again) {
			t.Fatalf("encoded as\n%s, then as\n%s, %v", again, last, err)
		}
	})
}
