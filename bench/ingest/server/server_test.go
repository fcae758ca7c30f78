//go:build linux

package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const exposition = `# HELP starling_peer_sent_bytes_total Bytes.
starling_peer_sent_bytes_total{peer="a b"} 100
starling_peer_sent_bytes_total{peer="}"} 23
starling_peer_sent_bytes_total_other 5
starling_peer_received_bytes_total{peer="a"} 456
go_memstats_heap_inuse_bytes 1.5e+06
process_cpu_seconds_total 2.5
process_resident_memory_bytes 3e+06
`

func TestParseMetrics(t *testing.T) {
	m, err := parseMetrics([]byte(exposition))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"starling_peer_sent_bytes_total": 123, "go_memstats_heap_inuse_bytes": 1.5e6, "prometheus_tsdb_head_series": -1,
	} {
		if got := m.of(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, text := range []string{"process_cpu_seconds_total x\n", "process_cpu_seconds_total{}\n"} {
		if _, err := parseMetrics([]byte(text)); err == nil {
			t.Errorf("%q is a metric", text)
		}
	}
}

func TestCollections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var g gcLog
	want := func(d time.Duration) {
		t.Helper()
		if got, err := g.read(path); err != nil || got != d {
			t.Errorf("%s, %v; want %s", got, err, d)
		}
	}
	write("level=info msg=\"10 ms clock, 7 ms cpu\"\ngc 1 @0.1s 2%: 0.5+1+2 ms clock, 1+0.5/1.5/2+3 ms cpu, 4->4->2 MB\ngc 2 @0.2s 2%: 1+1+")
	want(8 * time.Millisecond)
	write("1 ms clock, 1+0/0/0+1 ms cpu, 4->4->2 MB\n")
	want(10 * time.Millisecond)
	want(10 * time.Millisecond)
}

func TestReadRemote(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(exposition)) // a client that is gone is a failure of the test
	}))
	defer s.Close()
	c := Remote([]string{s.URL + "/"}, 3)
	all, err := c.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Reading{CPU: 2500 * time.Millisecond, GC: -1, Resident: 3e6, Peak: -1, Heap: 1.5e6, Disk: -1, Sent: 123, Received: 456, Series: -1}
	if all[0] != want {
		t.Errorf("read %+v, want %+v", all[0], want)
	}
	if err := c.CollectGarbage(t.Context()); err == nil {
		t.Error("a server without profiles has collected its garbage")
	}
}

func TestReadProcess(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(exposition)) // a client that is gone is a failure of the test
	}))
	defer web.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1000), 0o666); err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(dir, "block.tmp-for-creation")
	if err := errors.Join(os.Mkdir(unfinished, 0o777), os.WriteFile(filepath.Join(unfinished, "file"), make([]byte, 1000), 0o666)); err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: web.URL, PID: os.Getpid(), Dir: dir}
	r, err := s.Read(t.Context())
	if err != nil || r.Disk != 1000 || r.Peak < r.Resident || r.Resident == 3e6 {
		t.Errorf("read %+v, %v", r, err)
	}
	s.PID = 1 << 30
	if _, err := s.Read(t.Context()); err == nil {
		t.Error("a process that is gone was read")
	}
}

func TestAwait(t *testing.T) {
	n := 0
	err := Await(t.Context(), "three", time.Minute, func(context.Context) error {
		if n++; n < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || n != 3 {
		t.Errorf("after %d times: %v", n, err)
	}
	err = Await(t.Context(), "never", time.Millisecond, func(context.Context) error { return errors.New("no reason") })
	if err == nil || !strings.Contains(err.Error(), "never: no reason") {
		t.Errorf("%v", err)
	}
}
