//go:build linux

package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// metrics are sums of the series of each name that is wanted.
type metrics map[string]float64

// wanted are the names that readings are made of.
var wanted = []string{
	"go_memstats_heap_inuse_bytes", "go_cpu_classes_gc_total_cpu_seconds_total",
	"process_cpu_seconds_total", "process_resident_memory_bytes",
	"prometheus_tsdb_head_series", "prometheus_tsdb_head_min_time", "prometheus_tsdb_head_max_time",
	"starling_peer_sent_bytes_total", "starling_peer_received_bytes_total",
}

// of is a sum, or -1 if there is no such metric.
func (m metrics) of(name string) float64 {
	if v, ok := m[name]; ok {
		return v
	}
	return -1
}

func (s *Server) metrics(ctx context.Context) (metrics, error) {
	b, err := s.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics(b)
}

// parseMetrics reads the text format.
func parseMetrics(text []byte) (metrics, error) {
	m := metrics{}
	for line := range strings.Lines(string(text)) {
		for _, name := range wanted {
			rest, ok := strings.CutPrefix(line, name)
			if !ok || rest[0] != ' ' && rest[0] != '{' {
				continue
			}
			fields := strings.Fields(rest[strings.LastIndexByte(rest, '}')+1:])
			if len(fields) == 0 {
				return nil, fmt.Errorf("metric %q has no value", line)
			}
			v, err := strconv.ParseFloat(fields[0], 64)
			if err != nil {
				return nil, fmt.Errorf("metric %q: %w", line, err)
			}
			m[name] += v
		}
	}
	return m, nil
}

// gcLog sums up what GODEBUG=gctrace=1 writes, for servers that have no metric of it.
type gcLog struct {
	offset int64
	total  time.Duration
}

// read returns the CPU time of all collections so far.
func (g *gcLog) read(path string) (time.Duration, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Seek(g.offset, io.SeekStart); err != nil {
		return 0, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1] // a line may be half written
	g.offset += int64(len(b))
	for line := range strings.Lines(string(b)) {
		g.total += collection(line)
	}
	return g.total, nil
}

// collection is the CPU time that a line tells of, 0 if it is one of something else:
//
//	gc 7 @1.5s 2%: 0.03+1.2+0.01 ms clock, 0.06+0.5/1.1/0.2+0.02 ms cpu, …
func collection(line string) time.Duration {
	_, rest, ok := strings.Cut(line, " ms clock, ")
	if !ok || !strings.HasPrefix(line, "gc ") {
		return 0
	}
	parts, _, ok := strings.Cut(rest, " ms cpu")
	if !ok {
		return 0
	}
	sum := 0.0
	for part := range strings.FieldsFuncSeq(parts, func(r rune) bool { return r == '+' || r == '/' }) {
		v, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return 0
		}
		sum += v
	}
	return time.Duration(sum * float64(time.Millisecond))
}
