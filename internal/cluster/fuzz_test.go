package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// FuzzFile: the JSON in each file of a node's directory, its checksum right or not. What
// is refused is refused as damage, and by no panic.
func FuzzFile(f *testing.F) {
	kinds := []string{identityFile, foundingFile, peersFile, ownerFile, logFile}
	for i, v := range []any{
		identity{Node: "n", Boots: 3},
		founding{Cluster: "c", Founders: []founder{{ID: "n"}}, VouchFor: "n", Seq: 1, Dropped: map[table.NodeID]uint64{"m": 1}},
		[]peer{{ID: "m", Gossip: "10.0.0.1:7946", RPC: "10.0.0.1:9081"}},
		table.NodeID("n"),
		logData{Stable: map[string][]byte{"CurrentTerm": []byte("7")}, Entries: []*raft.Log{{Index: 4, Term: 7}, {Index: 5, Term: 7, Data: []byte("{}")}}},
	} {
		whole, err := statefile.Encode(kinds[i], v)
		if err != nil {
			f.Fatal(err)
		}
		_, body, _ := bytes.Cut(whole, []byte("\n"))
		f.Add(uint8(i), whole, false)
		f.Add(uint8(i), body, true)
		f.Add(uint8(i), whole[:len(whole)/2], false)
		f.Add(uint8(i), []byte("null"), true)
	}
	f.Add(uint8(4), []byte(`{"entries":[null]}`), true)
	f.Add(uint8(4), []byte(`{"entries":[{"Index":18446744073709551615},{"Index":0}]}`), true)
	f.Add(uint8(1), []byte(`{"dropped":null,"founders":[{}]}`), true)
	log := slog.New(slog.DiscardHandler)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, n uint8, content []byte, sum bool) {
		kind := kinds[int(n)%len(kinds)]
		if sum {
			content = append(fmt.Appendf(nil, "starling %s 1 crc32c=%08x\n", kind, crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli))), content...)
		}
		if err := os.WriteFile(filepath.Join(dir, kind), content, 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind {
		case peersFile:
			var r *registry
			if r, err = loadPeers(dir, log); err == nil {
				_ = r.sightings()
				r.forget(func(peer) bool { return true })
			}
		case logFile:
			err = openFuzzedLog(dir)
		case identityFile:
			var id identity
			err = statefile.Load(dir, kind, &id)
		case foundingFile:
			fm := formation{self: "n", expect: 1, newCluster: "new", granted: map[table.NodeID]founder{}}
			if err = statefile.Load(dir, kind, &fm.founding); err == nil {
				_, _ = fm.look(map[table.NodeID]sighting{"m": {Alive: true, Expect: 1}})
				_, _ = fm.receive("m", vouch{Seq: 1, Expect: 1})
			}
		default:
			var owner table.NodeID
			err = statefile.Load(dir, kind, &owner)
		}
		if err != nil && !errors.Is(err, statefile.ErrDamaged) {
			t.Fatalf("%s: an error that is no damage: %v", kind, err)
		}
	})
}

// openFuzzedLog reads all of a log.
func openFuzzedLog(dir string) error {
	s, err := openLogStore(dir, noSnapshot)
	if err != nil {
		return err
	}
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	m := &machine{offer: func(*table.Table) {}}
	for i := first; i <= last && i > 0; i++ {
		var entry raft.Log
		if err := s.GetLog(i, &entry); err != nil {
			return err
		}
		m.Apply(&entry)
	}
	_, err = s.GetUint64([]byte("CurrentTerm"))
	return err
}

// FuzzGossipMetadata: what another says of itself is read or refused.
func FuzzGossipMetadata(f *testing.F) {
	f.Add("01ABC-7", []byte(`{"r":9081,"h":9080,"c":"x","e":3}`), []byte{10, 0, 0, 1})
	f.Add("-", []byte(`null`), []byte{})
	f.Add("a-18446744073709551616", []byte(`[]`), []byte{1, 2, 3})
	g := &gossip{}
	f.Fuzz(func(t *testing.T, name string, meta, ip []byte) {
		p, _, err := g.read(&memberlist.Node{Name: name, Meta: meta, Addr: ip, Port: 7946})
		if err == nil && p.ID == "" {
			t.Fatalf("%q has no ID", name)
		}
	})
}
