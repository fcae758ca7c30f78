package cluster

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// fill has every write of a file fail, as on a full disk, until the returned function is
// called: where the new content would go is a directory.
func fill(t *testing.T, path string) (free func()) {
	t.Helper()
	if err := os.Mkdir(path+".tmp", 0o755); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path + ".tmp"); err != nil {
			t.Error(err)
		}
	}
}

// fill makes the disk full for a node's Raft log.
func (n *node) fill() (free func()) {
	n.w.Helper()
	return fill(n.w.T, filepath.Join(n.w.dirs[n.name], raftDir, logFile))
}

// others returns the running nodes but one.
func (w *world) others(but *node) []*node {
	var list []*node
	for _, n := range w.nodes {
		if n != but {
			list = append(list, n)
		}
	}
	return list
}

// TestFullDisksStallRaft has the disks full when the nodes have to write down a new term,
// where Raft itself would panic.
func TestFullDisksStallRaft(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		lost := w.leader()
		rest := w.others(lost)
		free := []func(){rest[0].fill(), rest[1].fill()}
		lost.crash()
		time.Sleep(5 * time.Minute)
		said := false
		for _, n := range rest {
			if n.c.consensus().leading() || n.c.Table() == nil {
				w.Errorf("%s: leading %v, table %v", n.name, n.c.consensus().leading(), n.c.Table())
			}
			said = said || n.logs.has("level=ERROR", "Raft cannot write", "log.tmp")
		}
		if !said {
			w.Error("no node says that it cannot write")
		}
		for _, f := range free {
			f()
		}
		w.Logf("a leader %v after there was space", w.eventually(30*time.Second, "a leader once there is space", func() bool {
			return rest[0].c.consensus().leading() || rest[1].c.consensus().leading()
		}))
		w.change(rest[0])
	})
}

func TestStopWithAFullDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		before := w.agree(30*time.Second, 3)
		lost := w.leader()
		rest := w.others(lost)
		free := []func(){rest[0].fill(), rest[1].fill()}
		lost.crash()
		time.Sleep(time.Minute)
		for _, n := range rest {
			start := time.Now()
			n.stop()
			if took := time.Since(start); took > 15*time.Second {
				w.Errorf("%s took %v to stop", n.name, took)
			}
		}
		for _, f := range free {
			f()
		}
		for i := 1; i <= 3; i++ {
			w.begin(i, 3)
		}
		if after := w.agree(30*time.Second, 3); after.Epoch != before.Epoch {
			w.Errorf("epoch %d became %d", before.Epoch, after.Epoch)
		}
		w.change(w.nodes[0])
	})
}

// TestFullDiskOfTheLeader: the leader cannot store an entry, and another one takes over.
func TestFullDiskOfTheLeader(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		full := w.leader()
		free := full.fill()
		start := time.Now()
		w.change(w.others(full)[0])
		w.Logf("proposed within %v", time.Since(start))
		if full.c.consensus().leading() {
			w.Error("the node with the full disk leads")
		}
		free()
		w.agree(time.Minute, 3)
	})
}

// TestFounderWithAFullDisk cannot write Raft's first entry at once.
func TestFounderWithAFullDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.start("only", ip(1), nil)
		free := n.fill() // New is done with the log; Run waits for nothing before it
		time.Sleep(time.Minute)
		if n.c.Table() != nil {
			w.Error("a table without a log")
		}
		free()
		w.agree(30*time.Second, 1)
	})
}

func newPatient(t *testing.T, dir string) *patientStore {
	t.Helper()
	s, err := openLogStore(dir, noSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	return newPatientStore(s, time.Minute, slog.New(slog.DiscardHandler))
}

func TestPatientStore(t *testing.T) {
	term, vote := []byte(termKey), []byte("LastVoteCand")
	for _, c := range []struct {
		name  string
		write func(p *patientStore) error
		// waits is whether the write waits for space, closed what it answers when the
		// store is closed meanwhile.
		waits  bool
		closed error
	}{
		{"the term", func(p *patientStore) error { return p.SetUint64(term, 7) }, true, nil},
		{"a vote", func(p *patientStore) error { return p.Set(vote, []byte("a")) }, true, errClosed},
		{"servers", func(p *patientStore) error {
			return p.StoreLogs([]*raft.Log{{Index: 1, Type: raft.LogConfiguration}})
		}, true, errClosed},
		{"an entry", func(p *patientStore) error { return p.StoreLog(&raft.Log{Index: 1}) }, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				p := newPatient(t, dir)
				free := fill(t, filepath.Join(dir, logFile))
				done := make(chan error, 1)
				write := func() { done <- c.write(p) }
				go write()
				time.Sleep(time.Hour)
				if got := len(done) == 0; got != c.waits {
					t.Fatalf("waits for space: %v, want %v", got, c.waits)
				}
				if !c.waits {
					if err := <-done; err == nil {
						t.Error("stored on a full disk")
					}
					return
				}
				free()
				time.Sleep(10 * time.Second)
				if err := <-done; err != nil {
					t.Errorf("once there is space: %v", err)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				if !c.waits {
					return
				}
				dir := t.TempDir()
				p := newPatient(t, dir)
				defer fill(t, filepath.Join(dir, logFile))()
				done := make(chan error, 1)
				go func() { done <- c.write(p) }()
				time.Sleep(time.Minute)
				p.close()
				if err := <-done; !errors.Is(err, c.closed) {
					t.Errorf("closed meanwhile: %v, want %v", err, c.closed)
				}
				if err := c.write(p); !errors.Is(err, c.closed) {
					t.Errorf("after it was closed: %v, want %v", err, c.closed)
				}
			})
		})
	}
}

// TestTruncationThatCannotBeFollowedUp: what replaces the end of the log cannot be
// written, and Raft goes on as if nothing had happened.
func TestTruncationThatCannotBeFollowedUp(t *testing.T) {
	dir := t.TempDir()
	s, err := openLogStore(dir, noSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(index, term uint64) *raft.Log { return &raft.Log{Index: index, Term: term} }
	if err := s.StoreLogs([]*raft.Log{entry(1, 1), entry(2, 1), entry(3, 1)}); err != nil {
		t.Fatal(err)
	}
	terms := func() (list []uint64) {
		last, _ := s.LastIndex()
		for i := uint64(1); i <= last; i++ {
			var l raft.Log
			if err := s.GetLog(i, &l); err != nil {
				t.Fatal(err)
			}
			list = append(list, l.Term)
		}
		return list
	}
	free := fill(t, filepath.Join(dir, logFile))
	if err := s.DeleteRange(2, 3); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLogs([]*raft.Log{entry(2, 2)}); err == nil {
		t.Fatal("stored on a full disk")
	}
	if got := terms(); len(got) != 3 {
		t.Errorf("terms %v after the failure, want those from before", got)
	}
	free()
	err = errors.Join(s.DeleteRange(2, 3), s.StoreLogs([]*raft.Log{entry(2, 2)}))
	if got := terms(); err != nil || len(got) != 2 || got[1] != 2 {
		t.Errorf("terms %v, %v", got, err)
	}
	if s, err = openLogStore(dir, noSnapshot); err != nil {
		t.Fatal(err)
	}
	if got := terms(); len(got) != 2 || got[1] != 2 {
		t.Errorf("terms %v after a restart", got)
	}
}
