package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
)

// TestReadOnlyDiskOfAProcess makes the file system give up under load, as ext4 does after an
// error: it is read-only with all files open, and cannot be made writable again. A mended
// copy takes its place while the node runs.
func TestReadOnlyDiskOfAProcess(t *testing.T) {
	requireMounts(t)
	program := buildStarling(t)
	dir, image := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "image")
	makeImage(t, image)
	mustRun(t, command{args: []string{"mkdir", dir}})
	mount(t, dir, "-o", "loop", image)
	// The directory below the mount is there to be mistaken for the disk.
	p := newProcessOn(t, filepath.Dir(dir))
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready", ready(p.base))
	s := startSenders(p.base)
	s.await(t, 50_000)
	completeChunks(t, p.base)

	// The kernel can answer a sync with success that the abort has overtaken, so that none
	// may be under way.
	p.halt(t)
	mustRun(t, command{args: []string{"mount", "-o", "remount,abort", dir}})
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the node refuses writes", fenced(p.base, "failure"))
	// Whoever raises the fence may know no more than that some write failed. Warnings tell of attempts
	// to open it again.
	eventually(t, 10*time.Second, "the log tells why", func(context.Context) error {
		log := p.output.String()
		for line := range strings.Lines(log) {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, "read-only file system") {
				return nil
			}
		}
		return fmt.Errorf("no error tells of a read-only file system:\n%s", log)
	})
	s.mustBeThere(t, p.base, "while the disk is read-only")

	mended := copyImage(t, image)
	mend(t, mended)
	mustRun(t, command{args: []string{"umount", "-l", dir}})
	// Longer than between two looks at the disk, and than between two writes of chunks.
	pause(t, 65*time.Second)
	if err := fenced(p.base, "failure")(t.Context()); err != nil {
		t.Errorf("without the disk: %v", err)
	}
	s.mustBeThere(t, p.base, "without the disk")
	// What was mounted before is unmounted at the end, by its path.
	mustRun(t, command{args: []string{"mount", "-o", "loop", mended, dir}})
	eventually(t, time.Minute, "the node is ready again by itself", ready(p.base))
	if v, err := metric(t.Context(), p.base, "starling_storage_reopenings_total"); err != nil || v != "1" {
		t.Errorf("opened again %s times: %v", v, err)
	}
	s.mustBeThere(t, p.base, "on the mended disk")
	s.await(t, 10_000)
	p.stop(t, syscall.SIGKILL)
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready after kill -9", ready(p.base))
	s.await(t, 1000)
	s.stop()
	s.mustBeThere(t, p.base, "read-only, mended, killed")
	p.stop(t, syscall.SIGKILL)
}

// completeChunks writes more chunks than the TSDB has a buffer for. Within a minute it wants
// to write them to a file.
func completeChunks(t *testing.T, base string) {
	t.Helper()
	const (
		buffer  = 4 << 20
		samples = 250 // two chunks, and the beginning of one
	)
	start := time.Now().Add(-5 * time.Minute).UnixMilli()
	for sent, n := 0, 0; sent < 2*buffer; n++ {
		var m prompb.WriteRequest
		for i := range 100 {
			ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: fmt.Sprintf("chunks_%d_%d", n, i)}}}
			for j := range int64(samples) {
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: start + 1000*j, Value: rand.Float64()})
			}
			m.Timeseries = append(m.Timeseries, ts)
		}
		status, body, err := postWrite(t.Context(), base, &m)
		if err != nil || status/100 != 2 {
			t.Fatalf("%d, %v: %s", status, err, body)
		}
		sent += 100 * samples * 8 // random values do not compress
	}
}
