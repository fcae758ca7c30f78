package storage

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/series"
)

// breakChunkFiles makes the TSDB's next write of a chunk fail, as a full disk does: the
// number of its file is not the one that it reckons with.
func breakChunkFiles(t *testing.T, s *Store) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.opts.Dir, "chunks_head", "000100"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
}

// manyLate fills an out-of-order chunk of a series, so that it is written.
func manyLate(n string) *series.Batch {
	sr := series.Series{Labels: name(n)}
	for i := range 2 * tsdb.DefaultOutOfOrderCapMax {
		sr.Samples = append(sr.Samples, series.Sample{T: at(-time.Hour) + i, V: float64(i)})
	}
	return batch(sr)
}

// within fails the test if f hangs.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal(what + " hangs")
	}
}

// TestPanicInCommit lets the TSDB panic with a series locked: queries of that series, and
// closing the TSDB, would hang.
func TestPanicInCommit(t *testing.T) {
	var log bytes.Buffer
	o := testOptions(t.TempDir())
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
	select {
	case err := <-s.Fatal():
		t.Fatalf("fatal in a healthy store: %v", err)
	default:
	}
	breakChunkFiles(t, s)
	_, err := s.Append(context.Background(), manyLate("a"))
	if !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "panic") {
		t.Errorf("append: %v", err)
	}
	if cause := <-s.Fatal(); !errors.Is(cause, ErrFenced) || cause.Error() != err.Error() {
		t.Errorf("fatal: %v, want %v", cause, err)
	}
	for _, b := range []*series.Batch{manyLate("a"), manyLate("b")} {
		within(t, "append", func() {
			if _, err := s.Append(context.Background(), b); !errors.Is(err, ErrFenced) {
				t.Errorf("append to a dead store: %v", err)
			}
		})
	}
	if err := s.Ready(); !errors.Is(err, ErrFenced) {
		t.Errorf("ready: %v", err)
	}
	within(t, "Close", func() {
		if err := s.Close(); !errors.Is(err, ErrFenced) {
			t.Errorf("close: %v", err)
		}
	})
	select {
	case err := <-s.Fatal():
		t.Errorf("a second fatal error: %v", err)
	default:
	}
	if got := log.String(); !strings.Contains(got, "stack=") || !strings.Contains(got, "mmapCurrentOOOHeadChunk") {
		t.Errorf("the log does not tell where it happened:\n%s", got)
	}
}

// TestDeathEndsEveryWait lets appends wait for all there is to wait for while another one
// panics. What that one holds is never given back.
func TestDeathEndsEveryWait(t *testing.T) {
	for _, tc := range waits() {
		t.Run(tc.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
				mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
				release := tc.block(s, d)
				done := make(chan error)
				go func() {
					_, err := s.Append(context.Background(), tc.batch)
					done <- err
				}()
				synctest.Wait()
				err := s.fence.guard("commit", func() error { panic("no space left on device") })
				if !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "no space left on device") {
					t.Errorf("the panic's own append: %v", err)
				}
				if tc.what == "sync" {
					release() // a sync under way is waited for
				}
				if err := <-done; !errors.Is(err, ErrFenced) {
					t.Errorf("got %v", err)
				}
				if tc.what != "sync" {
					release()
				}
				if err := s.Close(); !errors.Is(err, ErrFenced) {
					t.Errorf("close: %v", err)
				}
				if err := s.db.Close(); err != nil { // nothing is locked in truth
					t.Error(err)
				}
			})
		})
	}
}

// A panic while Close waits for another append, which hangs because of it.
func TestCloseDoesNotWaitForAppendsOfADeadStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, testOptions(t.TempDir()), hooks{})
		if err := s.appends.enter(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Querier(0, 1); err != nil { // never closed: it hangs, too
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- s.Close() }()
		synctest.Wait()
		before := time.Now()
		_ = s.fence.guard("commit", func() error { panic("no space left on device") })
		if err := <-done; !errors.Is(err, ErrFenced) {
			t.Errorf("close: %v", err)
		}
		if waited := time.Since(before); waited > 0 {
			t.Errorf("Close waited for %s", waited)
		}
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
}
