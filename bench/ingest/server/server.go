//go:build linux

// Package server runs what the ingest benchmark measures, as processes of this machine or in
// containers, and reads what it uses.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/bench/proc"
)

// Server is one process.
type Server struct {
	Name, URL string
	// PID is 0 if it is not a process that this one sees: its CPU and memory are then read
	// from its metrics.
	PID int
	// Dir is where its data lies, empty if unknown.
	Dir string
	// Log is where it writes what the garbage collector did, empty if it does not.
	Log string

	gc gcLog
}

// Cluster is servers that hold the same data together, or one alone.
type Cluster struct {
	Servers []*Server
	// Copies is how many of them hold each series.
	Copies int

	stop []func() error
	// logs prints what the servers said last.
	logs func() string
}

// Stop ends all servers and removes what they left.
func (c *Cluster) Stop() error {
	var err error
	for i := len(c.stop) - 1; i >= 0; i-- {
		err = errors.Join(err, c.stop[i]())
	}
	return err
}

// Logs are the last lines of what the servers wrote, for whoever reads a failure.
func (c *Cluster) Logs() string {
	if c.logs == nil {
		return ""
	}
	return c.logs()
}

// URLs are where the servers are reached.
func (c *Cluster) URLs() (urls []string) {
	for _, s := range c.Servers {
		urls = append(urls, s.URL)
	}
	return urls
}

// Remote are servers that run already; nothing is done to them but to send and ask.
func Remote(urls []string, copies int) *Cluster {
	c := &Cluster{Copies: copies}
	for _, u := range urls {
		u = strings.TrimSuffix(u, "/")
		c.Servers = append(c.Servers, &Server{Name: strings.TrimPrefix(u, "http://"), URL: u})
	}
	return c
}

// Reading is what a server has used up to a time. What it does not tell is negative.
type Reading struct {
	CPU time.Duration
	// Waited is how long it was ready to run and had no CPU, 0 if unknown.
	Waited time.Duration
	// GC is what garbage collection took, by the clock of its workers: a worker that waits
	// for a CPU counts too, so it is a part of CPU and Waited together.
	GC time.Duration
	// Resident is memory now, Peak at most, Heap what Go's heap has in use.
	Resident, Peak, Heap int64
	// Disk is the size of its files.
	Disk int64
	// Sent is how many bytes it has written to the connections that it opened to other nodes,
	// Received how many it has read from them.
	Sent, Received float64
	// Series are those that it has in memory.
	Series float64
	// Head is from the oldest to the newest sample that is not in a block.
	Head time.Duration
}

// Read reads all of it.
func (s *Server) Read(ctx context.Context) (r Reading, err error) {
	m, err := s.metrics(ctx)
	if err != nil {
		return r, err
	}
	r.Heap, r.Series = int64(m.of("go_memstats_heap_inuse_bytes")), m.of("prometheus_tsdb_head_series")
	r.Head = time.Duration(m.of("prometheus_tsdb_head_max_time")-m.of("prometheus_tsdb_head_min_time")) * time.Millisecond
	r.Sent, r.Received = m.of("starling_peer_sent_bytes_total"), m.of("starling_peer_received_bytes_total")
	r.CPU = seconds(m.of("process_cpu_seconds_total"))
	r.Resident, r.Peak = int64(m.of("process_resident_memory_bytes")), -1
	if s.PID != 0 {
		cpu, err := proc.CPU(s.PID)
		now, peak, err2 := proc.Memory(s.PID)
		if err := errors.Join(err, err2); err != nil {
			return r, fmt.Errorf("%s: %w", s.Name, err)
		}
		r.CPU, r.Resident, r.Peak = cpu, now, peak
		if waited, err := proc.Waited(s.PID); err == nil {
			r.Waited = waited
		}
	}
	r.GC = -1
	if total := m.of("go_cpu_classes_gc_total_cpu_seconds_total"); total >= 0 {
		r.GC = seconds(total)
	} else if s.Log != "" {
		if r.GC, err = s.gc.read(s.Log); err != nil {
			return r, err
		}
	}
	r.Disk = -1
	if s.Dir != "" {
		r.Disk = size(s.Dir)
	}
	return r, nil
}

func seconds(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }

// size is that of all files below a directory. Those that go away meanwhile do not count, nor
// do blocks that are not complete: their files have a size in advance that is far too large.
func size(dir string) (sum int64) {
	// The callback returns no error but SkipDir, so the walk returns none.
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		switch {
		case err == nil && e.IsDir() && strings.Contains(e.Name(), ".tmp"):
			return fs.SkipDir
		case err != nil || e.IsDir():
			return nil
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// Read reads all servers.
func (c *Cluster) Read(ctx context.Context) (all []Reading, err error) {
	for _, s := range c.Servers {
		r, err := s.Read(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// CollectGarbage has each server collect garbage, so that what it has in use is what it needs.
func (c *Cluster) CollectGarbage(ctx context.Context) error {
	for _, s := range c.Servers {
		if _, err := s.get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
	}
	return nil
}

// Profile writes a profile of /debug/pprof into a file.
func (s *Server) Profile(ctx context.Context, path, file string) error {
	b, err := s.get(ctx, "/debug/pprof/"+path)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(file), 0o777), os.WriteFile(file, b, 0o666))
}

// get reads an answer of status 200.
func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s answered %d: %s", s.URL, path, resp.StatusCode, b[:min(len(b), 200)])
	}
	return b, err
}

// Ready waits until a server says that it serves.
func (s *Server) Ready(ctx context.Context, limit time.Duration) error {
	return Await(ctx, s.Name+" is ready", limit, func(ctx context.Context) error {
		_, err := s.get(ctx, "/-/ready")
		return err
	})
}

// Await polls until check returns nil.
func Await(ctx context.Context, what string, limit time.Duration, check func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	for {
		err := check(limited)
		if err == nil {
			return nil
		}
		select {
		case <-ticks.C:
		case <-limited.Done():
			return fmt.Errorf("not within %s: %s: %w", limit, what, errors.Join(ctx.Err(), err))
		}
	}
}

// Answered reads all servers shortly after the last answer, when the copies that it did not
// wait for are likely to be made.
func (c *Cluster) Answered(ctx context.Context) ([]Reading, error) {
	if err := kit.Pause(ctx, 100*time.Millisecond); err != nil {
		return nil, err
	}
	return c.Read(ctx)
}

// idle is how much of a CPU servers use together that have nothing to do.
const idle = 0.1

// Settle waits until the servers have done what they do after the last answer: a write is
// confirmed before all of its copies are. It gives up after a time, as some upkeep takes
// longer and belongs to the cost.
func (c *Cluster) Settle(ctx context.Context) error {
	const every, most, quiet = 250 * time.Millisecond, 120, 3
	last := time.Duration(-1)
	for n, calm := 0, 0; n < most && calm < quiet; n++ {
		sum := time.Duration(0)
		for _, s := range c.Servers {
			if s.PID == 0 {
				return kit.Pause(ctx, 2*time.Second) // reading metrics costs as much as it tells
			}
			cpu, err := proc.CPU(s.PID)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			sum += cpu
		}
		if last >= 0 && (sum-last).Seconds() < idle*every.Seconds() {
			calm++
		} else {
			calm = 0
		}
		last = sum
		if err := kit.Pause(ctx, every); err != nil {
			return err
		}
	}
	return nil
}
