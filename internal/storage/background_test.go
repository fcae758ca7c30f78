package storage

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/series"
)

// manyChunks completes chunks of a series, which the TSDB writes within a minute.
func manyChunks(n string) *series.Batch {
	sr := series.Series{Labels: name(n)}
	for i := range int64(3 * tsdb.DefaultSamplesPerChunk) {
		sr.Samples = append(sr.Samples, series.Sample{T: at(0) + i, V: float64(i)})
	}
	return batch(sr)
}

// TestFencedTSDBDoesNothing takes the disk away for minutes. The TSDB's own goroutine must
// neither write a chunk, which would end the process, nor forget the blocks.
func TestFencedTSDBDoesNothing(t *testing.T) {
	t.Run("no directory", func(t *testing.T) { testFencedTSDB(t, false) })
	t.Run("an empty directory", func(t *testing.T) { testFencedTSDB(t, true) })
}

func testFencedTSDB(t *testing.T, mountPoint bool) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(filepath.Join(t.TempDir(), "data"))
		mustMkdir(t, o.Dir)
		_, err := tsdb.CreateBlock([]promstorage.Series{
			promstorage.NewListSeries(name("block"), chunks.GenerateSamples(int(at(-24*time.Hour)), 1)),
		}, o.Dir, 0, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, o, hooks{})
		mustAppend(t, s, manyChunks("a"))
		want := 1 + 3*tsdb.DefaultSamplesPerChunk
		_ = s.fence.raise(errors.New("read-only file system"))
		away := o.Dir + ".away"
		if err := os.Rename(o.Dir, away); err != nil {
			t.Fatal(err)
		}
		if mountPoint {
			mustMkdir(t, o.Dir)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := len(read(t, s)); got != want {
			t.Errorf("a fenced store reads %d samples, want %d", got, want)
		}
		if err := errors.Join(os.RemoveAll(o.Dir), os.Rename(away, o.Dir)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lastPause + time.Second)
		synctest.Wait()
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if got := len(read(t, s)); got != want {
			t.Errorf("opened again it reads %d samples, want %d", got, want)
		}
		time.Sleep(2 * time.Minute) // the next TSDB's goroutine works
		if files, err := os.ReadDir(filepath.Join(o.Dir, "chunks_head")); err != nil || len(files) == 0 {
			t.Errorf("files of chunks: %v, %v", files, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestReopensAfterAPanicInClose closes a TSDB whose last chunks cannot be written.
func TestReopensAfterAPanicInClose(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	mustAppend(t, s, manyChunks("a"))
	breakChunkFiles(t, s)
	_ = s.fence.raise(errors.New("read-only file system"))
	deadline := time.Now().Add(time.Minute)
	for s.Ready() != nil && time.Now().Before(deadline) {
		select {
		case err := <-s.Fatal():
			t.Fatalf("fatal: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	if got := len(read(t, s)); got != 3*tsdb.DefaultSamplesPerChunk {
		t.Errorf("%d samples are stored", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
