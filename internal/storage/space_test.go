package storage

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestReserve(t *testing.T) {
	const mb, gb = 1 << 20, 1 << 30
	for _, tc := range []struct {
		total, free uint64
		was         bool
		full, opens bool
	}{
		{total: 1000 * gb, free: 513 * mb, opens: true},
		{total: 1000 * gb, free: 511 * mb, full: true, opens: true},
		{total: 1000 * gb, free: 639 * mb, was: true, full: true, opens: true},
		{total: 1000 * gb, free: 640 * mb, was: true, opens: true},
		{total: 1000 * gb, free: 127 * mb, full: true},
		{total: 60 * mb, free: 7 * mb, opens: true},
		{total: 60 * mb, free: 5 * mb, full: true, opens: true},
		{total: 60 * mb, free: 1 * mb, full: true},
		{total: 60 * mb, free: 0, was: true, full: true},
	} {
		u := usage{free: tc.free, total: tc.total}
		if got := u.full(tc.was); got != tc.full {
			t.Errorf("%+v: full %v", tc, got)
		}
		err := checkOpening("dir", func(string) (usage, error) { return u, nil })
		if (err == nil) != tc.opens || (err != nil && !errors.Is(err, ErrDiskFull)) {
			t.Errorf("%+v: opening: %v", tc, err)
		}
	}
	if err := checkOpening("dir", func(string) (usage, error) { return usage{}, errors.ErrUnsupported }); err != nil {
		t.Errorf("a file system that does not tell: %v", err)
	}
	if u, err := measure(t.TempDir()); err != nil || u.total == 0 || u.free > u.total {
		t.Errorf("this file system: %+v, %v", u, err)
	}
}

func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Uint64
		free.Store(1 << 40)
		reg := prometheus.NewRegistry()
		o := testOptions(t.TempDir())
		o.Registerer = reg
		s := mustOpen(t, o, hooks{fsync: newDisk().fsync, usage: func(string) (usage, error) {
			return usage{free: free.Load(), total: 1 << 41}, nil
		}})
		db := s.db
		expect := func(full bool) {
			t.Helper()
			time.Sleep(spaceInterval + time.Millisecond)
			synctest.Wait()
			_, err := s.Append(context.Background(), one("a", 0))
			ready := s.Ready()
			if !full {
				if err != nil || ready != nil {
					t.Errorf("append: %v, ready: %v", err, ready)
				}
			} else if !errors.Is(err, ErrDiskFull) || !errors.Is(err, ErrFenced) || !strings.Contains(ready.Error(), "640.0 MiB") {
				t.Errorf("append: %v, ready: %v", err, ready)
			}
			if v := gauge(t, reg, "starling_storage_fenced disk_full"); v != map[bool]float64{true: 1}[full] {
				t.Errorf("metric: %v", v)
			}
			for name, want := range map[string]uint64{"free": free.Load(), "size": 1 << 41, "reserve": maxReserve} {
				if v := gauge(t, reg, "starling_storage_disk_"+name+"_bytes"); v != float64(want) {
					t.Errorf("%s: the metric is %v, want %d", name, v, want)
				}
			}
			if got := read(t, s); len(got) != 1 {
				t.Errorf("stored: %v", got)
			}
		}
		expect(false)
		free.Store(maxReserve - 1)
		expect(true)
		free.Store(maxReserve)
		expect(true)
		free.Store(0)
		expect(true)
		free.Store(maxReserve + maxReserve/4)
		expect(false)
		free.Store(maxReserve)
		expect(false)
		if s.db != db || gauge(t, reg, "starling_storage_reopenings_total") != 0 {
			t.Error("the storage was opened again though nothing had failed")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestFullDiskSettles: the chunks that are complete are written while there is room, so
// that the TSDB, which panics when it cannot write one, has none left to write.
func TestFullDiskSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Uint64
		free.Store(1 << 40)
		reg := prometheus.NewRegistry()
		o := testOptions(t.TempDir())
		o.Registerer = reg
		s := mustOpen(t, o, hooks{fsync: newDisk().fsync, usage: func(string) (usage, error) {
			return usage{free: free.Load(), total: 1 << 41}, nil
		}})
		for i := range 500 {
			mustAppend(t, s, one("a", time.Duration(i)*time.Second))
		}
		written := func() float64 { return gauge(t, reg, "prometheus_tsdb_mmap_chunks_total") }
		if n := written(); n != 0 {
			t.Fatalf("%v chunks are written already", n)
		}
		free.Store(maxReserve - 1)
		time.Sleep(2 * spaceInterval)
		synctest.Wait()
		if n := written(); n < 3 {
			t.Errorf("%v chunks are written", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenOnAFullDisk(t *testing.T) {
	_, err := open(testOptions(t.TempDir()), hooks{fsync: newDisk().fsync, usage: func(string) (usage, error) {
		return usage{free: 1 << 20, total: 1 << 40}, nil
	}})
	if !errors.Is(err, ErrDiskFull) || !strings.HasPrefix(err.Error(), "--storage.tsdb.path") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
