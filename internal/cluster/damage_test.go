package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/statefile"
)

// TestAnyDamageToAFile flips a bit of each file of a node's directory, or cuts it, at many
// places. Without its identity or what it promised to Raft a node does not start, and says
// so in one line that names the file; without its table or its peers it starts.
func TestAnyDamageToAFile(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.start("n", ip(1), nil)
		w.eventually(time.Minute, "a table", func() bool { return n.c.Table() != nil })
		time.Sleep(time.Second)
		n.stop()
		dir := w.dirs["n"]
		if err := statefile.Save(dir, peersFile, []peer{{ID: "other", Gossip: "h:1"}}); err != nil {
			w.Fatal(err)
		}
		whole := filepath.Join(w.TempDir(), "whole")
		if err := os.CopyFS(whole, os.DirFS(dir)); err != nil {
			w.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		for _, f := range []struct {
			name   string
			starts bool
		}{
			{identityFile, false}, {foundingFile, false}, {raftDir + "/" + ownerFile, false}, {raftDir + "/" + logFile, false},
			{tableFile, true}, {peersFile, true},
		} {
			name, starts := f.name, f.starts
			file, err := os.ReadFile(filepath.Join(whole, name))
			if err != nil {
				w.Fatal(err)
			}
			for i := range 40 {
				bad, at := append([]byte(nil), file...), rnd.IntN(len(file))
				how := fmt.Sprintf("bit flipped in byte %d", at)
				if bad[at] ^= 1 << rnd.IntN(8); i%4 == 0 {
					bad, how = file[:at], fmt.Sprintf("cut to %d bytes", at)
				}
				err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(whole)), os.WriteFile(filepath.Join(dir, name), bad, 0o644))
				if err != nil {
					w.Fatal(err)
				}
				err = w.broken("n")
				if starts && err != nil {
					w.Errorf("%s, %s: %v", name, how, err)
				}
				if !starts && (!errors.Is(err, statefile.ErrDamaged) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), filepath.Base(name))) {
					w.Errorf("%s, %s: error %v, want one line that names the file", name, how, err)
				}
			}
		}
	})
}
