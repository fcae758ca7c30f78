package acceptance

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBackup backs three nodes up one after the other, as docs/operations.md says, destroys them,
// and restores all of them. What was acknowledged before the backup is answered by every node.
func TestBackup(t *testing.T) {
	requireAcceptance(t)
	t.Parallel()
	program, backup := buildStarling(t), t.TempDir()
	processes := newProcesses(t, 3)
	startAll(t, processes, program, nil)
	at := time.Now()
	mustWrite(t, processes[0].base, "acceptance_backed_up", at, 42)
	for i, p := range processes {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s exited with %d", p.base, code)
		}
		copyDir(t, p.dataDir(), filepath.Join(backup, string(rune('a'+i))))
		p.start(t, program)
		for _, p := range processes {
			awaitSettled(t, time.Minute, p.base, p.base, len(processes))
		}
		mustWrite(t, p.base, "acceptance_since", at.Add(time.Duration(i)*time.Second), float64(i))
	}
	for i, p := range processes {
		p.stop(t, syscall.SIGKILL)
		if err := os.RemoveAll(p.dataDir()); err != nil {
			t.Fatal(err)
		}
		copyDir(t, filepath.Join(backup, string(rune('a'+i))), p.dataDir())
		// Those that were copied last have seen later starts of the others.
		if err := os.Remove(filepath.Join(p.dataDir(), "cluster/peers")); err != nil {
			t.Fatal(err)
		}
	}
	startAll(t, processes, program, nil)
	for _, p := range processes {
		awaitSettled(t, 2*time.Minute, p.base, p.base, len(processes))
		mustRead(t, p.base, "acceptance_backed_up", at, "42")
	}
	mustWrite(t, processes[1].base, "acceptance_restored", time.Now(), 43)
	stopCleanly(t, processes)
}

func (p *process) dataDir() string { return strings.TrimPrefix(p.args[4], "--storage.tsdb.path=") }

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	mustRun(t, command{args: []string{"cp", "-a", from, to}})
}
