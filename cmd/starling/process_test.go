package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// runVariable has this program be starling in place of its tests.
const runVariable = "STARLING_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runVariable) != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// starling is a command that runs this program as starling.
func starling(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), runVariable+"=1")
	return cmd
}

// process is a node that runs on its own.
type process struct {
	*exec.Cmd
	// address is where it answers HTTP.
	address string
	ended   chan error

	mu  sync.Mutex
	log strings.Builder
}

var servingLine = regexp.MustCompile(`msg=Serving http=(\S+)`)

// serve runs a node at addresses that are free, and ends it with the test.
func serve(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{ended: make(chan error, 1)}
	p.Cmd = starling(t, append([]string{
		"--storage.tsdb.path=" + filepath.Join(t.TempDir(), "data"), "--web.listen-address=127.0.0.1:0",
		"--cluster.rpc-address=127.0.0.1:0", "--cluster.gossip-address=127.0.0.1:0", "--cluster.advertise-host=127.0.0.1",
	}, args...)...)
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan string, 1)
	go func() {
		p.read(stderr, serving)
		p.ended <- p.Wait()
	}()
	t.Cleanup(func() { p.stop(t) })
	select {
	case p.address = <-serving:
	case err := <-p.ended:
		t.Fatalf("the node ended: %v\n%s", err, p.said())
	case <-time.After(20 * time.Second):
		t.Fatalf("the node does not serve:\n%s", p.said())
	}
	return p
}

// read remembers what the node logs, and tells where it serves.
func (p *process) read(stderr io.Reader, serving chan<- string) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		if m := servingLine.FindStringSubmatch(lines.Text()); m != nil {
			serving <- m[1]
		}
	}
}

// said is what the node has logged so far.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) stop(t *testing.T) {
	t.Helper()
	// It may have ended already, which its log tells.
	_ = p.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("the node ended with %v:\n%s", err, p.said())
		}
	case <-time.After(30 * time.Second):
		t.Errorf("the node does not end:\n%s", p.said())
		_ = p.Process.Kill()
		t.Logf("killed, it ended with %v", <-p.ended)
	}
}
