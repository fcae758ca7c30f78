package node

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// join has the cluster agree on a new node, by whichever of the members leads.
func (i intruder) join(ctx context.Context, members []*member, name string) error {
	var refused error
	for _, to := range members {
		command, err := json.Marshal(map[string]any{
			"cluster": i.table.ClusterID, "from": i.knows.cluster.Self(), "to": to.cluster.Self(), "op": "propose",
			"body": table.Command{Kind: table.Join, Member: &table.Member{Node: table.NodeID(name)}},
		})
		if err != nil {
			return err
		}
		err = i.peers(func(peers *transport.Peers) error {
			address, _ := i.knows.cluster.Address(to.cluster.Self())
			b, err := peers.Call(ctx, address, command)
			if err != nil {
				return err
			}
			var answer struct{ Code, Error string }
			if err := json.Unmarshal(b, &answer); err != nil || answer.Code == "" {
				return err
			}
			return errors.New(answer.Code + ": " + answer.Error)
		})
		if err == nil {
			return nil
		}
		refused = errors.Join(refused, err)
	}
	return refused
}

// note has a node note that another one misses samples.
func (i intruder) note(ctx context.Context, at *member, peer table.NodeID) error {
	return i.peers(func(peers *transport.Peers) error {
		return peers.Peer(at.cluster.Self()).Note(ctx, i.table, peer, time.Now().UnixMilli())
	})
}

// files are all below a directory.
func (f *flock) files(dir string) []string {
	f.Helper()
	var all []string
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}); err != nil {
		f.Fatal(err)
	}
	return all
}

// TestNodesAreNoPaths: whoever reaches the port for peers can have a node join by any name, and have
// notes made of it, whose files have its name. No name leads out of the directory of notes.
func TestNodesAreNoPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		members := f.secured(func(string, *config.Cluster) {})
		m := members[0]
		at := filepath.Join(f.TempDir(), "escaped")
		intruder := func() intruder { return f.intruder(m).by(f.net.Host(stranger).Dial) }
		for _, name := range []string{
			"../escaped", "../../escaped", "x/../../../escaped", at, "gap\x00", "..", ".", "a/b", `a\b`, " ", strings.Repeat("n", 300),
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if err := intruder().join(ctx, members, name); err == nil {
				t.Errorf("the node %.20q has joined", name)
			}
			// By a table that has come to the node meanwhile, if need be.
			for range 3 {
				if err := intruder().note(ctx, m, table.NodeID(name)); err == nil {
					t.Errorf("it is noted that %.20q misses samples", name)
				}
				time.Sleep(time.Second)
			}
			cancel()
		}
		for _, path := range append(f.files(f.dir), f.files(filepath.Dir(at))...) {
			if strings.Contains(path, "escaped") {
				t.Errorf("there is a file %s", path)
			}
		}
		// What may name a node is taken, and a note of it is a file of the directory of notes.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := intruder().join(ctx, members, "01HONEST"); err != nil {
			t.Fatalf("a node with a name joins: %v", err)
		}
		f.eventually(time.Minute, "the node is noted", func() error { return intruder().note(ctx, m, "01HONEST") })
		if !slices.ContainsFunc(f.files(f.dir), func(path string) bool { return strings.HasSuffix(path, "/gaps/gap-01HONEST") }) {
			t.Error("no note was written")
		}
	})
}
