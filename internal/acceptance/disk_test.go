package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
)

// These tests run a node on a file system of its own, which they fill, break and cut the
// power of.

// requireMounts skips the test unless it was asked for and may mount file systems.
func requireMounts(t *testing.T) {
	t.Helper()
	requireAcceptance(t)
	if os.Getuid() != 0 {
		t.Skip("mounts file systems, which needs root")
	}
	probe := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", probe).CombinedOutput(); err != nil {
		t.Skipf("may not mount: %v: %s", err, out)
	}
	mustRun(t, command{args: []string{"umount", probe}})
}

// mount mounts a file system until the function that it returns is called, or to the end of
// the test.
func mount(t *testing.T, dir string, args ...string) (unmount func()) {
	t.Helper()
	mustRun(t, command{args: append(append([]string{"mount"}, args...), dir)})
	unmount = sync.OnceFunc(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	t.Cleanup(unmount)
	return unmount
}

// makeImage makes an image with an ext4 file system.
func makeImage(t *testing.T, image string, args ...string) {
	t.Helper()
	if out, err := exec.Command("losetup", "--find").CombinedOutput(); err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	mustRun(t, command{args: []string{"truncate", "-s", "512M", image}})
	mustRun(t, command{args: append([]string{"mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"}, append(args, image)...)})
}

// senders write to a node and remember what was acknowledged.
type senders struct {
	base string
	quit chan struct{}
	wg   sync.WaitGroup

	acked, refused atomic.Int64
	unexpected     atomic.Pointer[string] // neither a success nor 503 with Retry-After

	mu    sync.Mutex
	known map[string]map[int64]float64 // by series and milliseconds
}

// startSenders runs eight senders. Each sends in order and out of order, new series now and
// then, and one request after the other.
func startSenders(base string) *senders {
	s := &senders{base: base, quit: make(chan struct{}), known: make(map[string]map[int64]float64)}
	start := time.Now().Add(-5 * time.Minute)
	for w := range 8 {
		s.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-s.quit:
					return
				default:
				}
				s.send(start, w, n)
			}
		})
	}
	return s
}

func (s *senders) send(start time.Time, w, n int) {
	var m prompb.WriteRequest
	at := start.Add(time.Duration(n) * 10 * time.Millisecond).UnixMilli()
	for j := range 20 {
		m.Timeseries = append(m.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: fmt.Sprintf("disk_w%d_%d_%d", w, n/500, j)}},
			Samples: []prompb.Sample{{Timestamp: at, Value: float64(n*j) * 1.1}, {Timestamp: at - 60_000, Value: float64(n + j)}},
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := newWrite(ctx, s.base, &m)
	if err != nil {
		answer := err.Error()
		s.unexpected.Store(&answer)
		return
	}
	status, header, body, err := answerTo(req)
	if err != nil || status/100 != 2 {
		s.refused.Add(1)
		if err == nil && (status != http.StatusServiceUnavailable || header.Get("Retry-After") == "") {
			answer := fmt.Sprintf("%d, Retry-After %q: %s", status, header.Get("Retry-After"), body)
			s.unexpected.Store(&answer)
		}
		select {
		case <-s.quit:
		case <-time.After(20 * time.Millisecond):
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ts := range m.Timeseries {
		name := ts.Labels[0].Value
		if s.known[name] == nil {
			s.known[name] = make(map[int64]float64)
		}
		for _, p := range ts.Samples {
			s.known[name][p.Timestamp] = p.Value
			s.acked.Add(1)
		}
	}
}

func (s *senders) stop() {
	close(s.quit)
	s.wg.Wait()
}

// await waits until n more samples were acknowledged.
func (s *senders) await(t *testing.T, n int64) {
	t.Helper()
	want := s.acked.Load() + n
	eventually(t, time.Minute, fmt.Sprintf("%d more samples are acknowledged", n), func(context.Context) error {
		if got := s.acked.Load(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// snapshot copies what has been acknowledged so far.
func (s *senders) snapshot() map[string]map[int64]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[string]map[int64]float64, len(s.known))
	for name, samples := range s.known {
		known[name] = maps.Clone(samples)
	}
	return known
}

// lost returns how many of the samples that were acknowledged before the call a node does
// not answer with, and how many there are.
func (s *senders) lost(t *testing.T, base string) (lost, acked int) {
	t.Helper()
	known := s.snapshot()
	got := samplesOf(t, base, `{__name__=~"disk_.+"}[1h]`, "__name__")
	for name, samples := range known {
		for at, want := range samples {
			acked++
			if v, err := strconv.ParseFloat(got[name][at], 64); err != nil || v != want {
				lost++
			}
		}
	}
	return lost, acked
}

func (s *senders) mustBeThere(t *testing.T, base, when string) {
	t.Helper()
	lost, acked := s.lost(t, base)
	t.Logf("%s: %d samples acknowledged, %d lost; %d requests were refused", when, acked, lost, s.refused.Load())
	if answer := s.unexpected.Load(); answer != nil {
		t.Errorf("%s: a write was answered %s", when, *answer)
	}
	if lost > 0 || acked == 0 {
		t.Errorf("%s: %d of %d acknowledged samples are lost", when, lost, acked)
	}
}

// newProcessOn prepares a single node with its data below a mounted directory.
func newProcessOn(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := newProcesses(t, 1)[0]
	for i, a := range p.args {
		if strings.HasPrefix(a, "--storage.tsdb.path=") {
			p.args[i] = "--storage.tsdb.path=" + filepath.Join(dir, "data")
		}
	}
	p.args = append(p.args, args...)
	return p
}

// fill writes a file until the file system is full, and returns how to free it.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// metric reads one metric of a node, written as in its exposition.
func metric(ctx context.Context, base, name string) (string, error) {
	_, body, err := fetch(ctx, base+"/metrics")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(body)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("no metric %s", name)
}

// fenced is a check for eventually: the node refuses writes for that reason.
func fenced(base, reason string) func(context.Context) error {
	return func(ctx context.Context) error {
		v, err := metric(ctx, base, `starling_storage_fenced{reason="`+reason+`"}`)
		if err != nil || v != "1" {
			return fmt.Errorf("fenced %s: %w", v, err)
		}
		if err := ready(base)(ctx); err == nil || !strings.Contains(err.Error(), "storage is fenced") {
			return fmt.Errorf("readiness says %w", err)
		}
		return nil
	}
}

// TestPowerLossOfAProcess copies the image of a node's file system while the node is
// stopped: what the node and the kernel have not written to the device is not in it.
func TestPowerLossOfAProcess(t *testing.T) {
	requireMounts(t)
	program := buildStarling(t)
	for _, mode := range []string{"commit", "off"} {
		t.Run(mode, func(t *testing.T) {
			dir, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
			makeImage(t, image)
			// The journal is written by syncs, not by the clock.
			unmount := mount(t, dir, "-o", "loop,commit=300", image)
			p := newProcessOn(t, dir, "--storage.wal-sync="+mode)
			p.start(t, program)
			eventually(t, 30*time.Second, "the node is ready", ready(p.base))
			s := startSenders(p.base)
			s.await(t, 50_000)
			copied := p.losePower(t, image)
			s.stop()
			unmount()

			mount(t, dir, "-o", "loop", copied)
			p.start(t, program)
			eventually(t, time.Minute, "the node is ready on the copy", ready(p.base))
			if mode == "commit" {
				s.mustBeThere(t, p.base, "after a power loss")
			} else if lost, acked := s.lost(t, p.base); lost == 0 {
				t.Errorf("without syncs none of %d samples is lost: the copy holds what was not synced", acked)
			} else {
				t.Logf("without syncs %d of %d samples are lost", lost, acked)
			}
			p.stop(t, syscall.SIGKILL)
		})
	}
}

// losePower kills the node and returns a copy of its disk from before.
func (p *process) losePower(t *testing.T, image string) (copied string) {
	t.Helper()
	p.halt(t)
	copied = copyImage(t, image)
	p.stop(t, syscall.SIGKILL)
	return copied
}

// halt stops the node, and returns when it is not within any system call.
func (p *process) halt(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the node has stopped", func(context.Context) error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, name := range threads {
			stat, readErr := os.ReadFile(name)
			err = errors.Join(err, readErr)
			if !bytes.Contains(stat, []byte(") T ")) {
				err = errors.Join(err, fmt.Errorf("%s: %s", name, stat))
			}
		}
		return err
	})
}

// mend repairs the file system of an image that is not mounted.
func mend(t *testing.T, image string) {
	t.Helper()
	_, err := command{args: []string{"e2fsck", "-fy", image}}.run(t.Context())
	if code := exitCode(err); code >= 4 || err != nil && code == 0 {
		t.Fatal(err)
	}
}

func copyImage(t *testing.T, image string) string {
	t.Helper()
	from, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}

// TestFullDiskOfAProcess fills the disk under load, frees it, and kills the node, while it
// is full and afterwards.
func TestFullDiskOfAProcess(t *testing.T) {
	requireMounts(t)
	program := buildStarling(t)
	dir := t.TempDir()
	mount(t, dir, "-t", "tmpfs", "-o", "size=256m", "tmpfs")
	p := newProcessOn(t, dir)
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready", ready(p.base))
	s := startSenders(p.base)
	s.await(t, 10_000)

	free := fill(t, dir)
	eventually(t, 20*time.Second, "the node refuses writes", fenced(p.base, "disk_full"))
	s.mustBeThere(t, p.base, "while the disk is full")
	free()
	eventually(t, 30*time.Second, "the node is ready again by itself", ready(p.base))
	s.await(t, 10_000)
	p.stop(t, syscall.SIGKILL)
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready after kill -9", ready(p.base))
	s.mustBeThere(t, p.base, "filled, freed, killed")

	s.await(t, 10_000)
	free = fill(t, dir)
	eventually(t, 20*time.Second, "the node refuses writes", fenced(p.base, "disk_full"))
	p.stop(t, syscall.SIGKILL)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := command{args: append([]string{program}, p.args...)}.run(ctx)
	if code := exitCode(err); code != 1 || !hasLine(err.Error(), "disk is full") {
		t.Errorf("started on a full disk it exits with %d: %v", code, err)
	}
	free()
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready after it died on a full disk", ready(p.base))
	s.await(t, 1000)
	s.stop()
	s.mustBeThere(t, p.base, "killed on a full disk, started there, freed")
	p.stop(t, syscall.SIGKILL)
}

// TestFailingDiskOfAProcess takes the space away that backs the disk, so that writes to the
// device fail and syncs with them, gives it back, and cuts the power.
func TestFailingDiskOfAProcess(t *testing.T) {
	requireMounts(t)
	program := buildStarling(t)
	backing, dir := t.TempDir(), t.TempDir()
	mount(t, backing, "-t", "tmpfs", "-o", "size=96m", "tmpfs")
	image := filepath.Join(backing, "image")
	// Without a journal, a failed write does not end the whole file system.
	makeImage(t, image, "-O", "^has_journal")
	unmount := mount(t, dir, "-o", "loop", image)
	p := newProcessOn(t, dir)
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready", ready(p.base))
	s := startSenders(p.base)
	s.await(t, 5000)

	free := fill(t, backing)
	eventually(t, time.Minute, "the node refuses writes", fenced(p.base, "failure"))
	s.mustBeThere(t, p.base, "while the disk fails")
	free()
	eventually(t, time.Minute, "the node is ready again by itself", ready(p.base))
	if v, err := metric(t.Context(), p.base, "starling_storage_reopenings_total"); err != nil || v == "0" {
		t.Errorf("opened again %s times: %v", v, err)
	}
	s.await(t, 5000)
	copied := p.losePower(t, image)
	s.stop()
	unmount()
	mend(t, copied)
	mount(t, dir, "-o", "loop", copied)
	p.start(t, program)
	eventually(t, time.Minute, "the node is ready on the copy", ready(p.base))
	s.mustBeThere(t, p.base, "failed, mended, power lost")
	p.stop(t, syscall.SIGKILL)
}
