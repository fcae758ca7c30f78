//go:build linux

// Package floor measures what the storage engine alone takes for a workload: Prometheus's
// TSDB with its log on and a window for late samples, appended to by reference in the batches
// that the requests have. No server can do with less, so its costs are given as multiples.
package floor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/bench/ingest/workload"
	"github.com/starling-tsdb/starling/bench/proc"
)

// Result is what one run has measured.
type Result struct {
	// PerSeries is CPU time of the first scrape for each series.
	PerSeries time.Duration
	// PerSample is CPU time of all later scrapes for each sample, in ns, as it is well
	// below a microsecond.
	PerSample float64
	// Resident and Heap are the memory of the process afterwards, the latter once garbage
	// was collected, and Peak the most resident.
	Resident, Peak, Heap int64
	Series               int
}

// Hidden is the flag by which the program runs itself as a child.
const Hidden = "run-floor"

// Measure runs this program again, for a process that does nothing else, with its data below a
// directory.
func Measure(ctx context.Context, s workload.Shape, work string) (r Result, err error) {
	dir, err := os.MkdirTemp(work, "floor-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, self, "-"+Hidden, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("floor: %w: %s", err, stderr.String())
	}
	return r, json.Unmarshal(stdout.Bytes(), &r)
}

// Child is the process that Measure starts.
func Child(dir string) error {
	var s workload.Shape
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return err
	}
	r, err := Run(context.Background(), s, dir)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// engine is a database with the references of its series.
type engine struct {
	shape   workload.Shape
	db      *tsdb.DB
	refs    map[int]storage.SeriesRef
	created int
}

// point is a sample that is ready to be appended.
type point struct {
	id  int
	ref storage.SeriesRef
	// labels are empty where the reference is known.
	labels    labels.Labels
	t         int64
	value     float64
	histogram *histogram.Histogram
}

// Run appends the whole workload in this process. What it takes to make samples and labels is
// not counted.
func Run(ctx context.Context, s workload.Shape, dir string) (r Result, err error) {
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = (3 * time.Hour).Milliseconds()
	db, err := tsdb.Open(dir, slog.New(slog.DiscardHandler), nil, opts, nil)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	e := &engine{shape: s, db: db, refs: map[int]storage.SeriesRef{}}
	first, _, err := e.scrapes(ctx, 0, 1)
	if err != nil {
		return r, err
	}
	r.PerSeries = first / time.Duration(s.Series)
	used, samples, err := e.scrapes(ctx, 1, s.Scrapes)
	if err != nil {
		return r, err
	}
	r.PerSample = float64(used.Nanoseconds()) / float64(samples)
	r.Series = e.created
	if r.Resident, r.Peak, err = proc.Memory(os.Getpid()); err != nil {
		return r, err
	}
	e.refs = nil
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.Heap = int64(m.HeapInuse)
	return r, nil
}

// scrapes appends some scrapes and returns the CPU time of that, without that of what makes
// the samples, and how many there were.
func (e *engine) scrapes(ctx context.Context, from, to int) (used time.Duration, samples int, err error) {
	var list []workload.Sample
	batches := make([][]point, e.shape.Batches())
	for scrape := from; scrape < to; scrape++ {
		for batch := range batches {
			list = e.shape.Samples(list[:0], batch, scrape)
			batches[batch] = e.points(batches[batch][:0], list)
		}
		if scrape == 0 {
			runtime.GC() // of the garbage that making all labels has left
		}
		before := proc.OwnCPU()
		for _, points := range batches {
			if err := e.append(ctx, points); err != nil {
				return 0, 0, err
			}
			samples += len(points)
		}
		used += proc.OwnCPU() - before
		for _, points := range batches {
			e.learn(points)
		}
	}
	return used, samples, nil
}

// points fills in labels, references and values.
func (e *engine) points(dst []point, list []workload.Sample) []point {
	for _, x := range list {
		p := point{id: x.ID, ref: e.refs[x.ID], t: x.T}
		if p.ref == 0 {
			p.labels = e.shape.Labels(x.ID)
		}
		if e.shape.Native(x.ID) {
			p.histogram = workload.Histogram(x.ID, x.Scrape)
		} else {
			p.value = workload.Value(x.ID, x.Scrape)
		}
		dst = append(dst, p)
	}
	return dst
}

// append commits one batch.
func (e *engine) append(ctx context.Context, points []point) (err error) {
	app := e.db.Appender(ctx)
	for i := range points {
		p := &points[i]
		if p.histogram != nil {
			p.ref, err = app.AppendHistogram(p.ref, p.labels, p.t, p.histogram, nil)
		} else {
			p.ref, err = app.Append(p.ref, p.labels, p.t, p.value)
		}
		if err != nil {
			return errors.Join(err, app.Rollback())
		}
	}
	return app.Commit()
}

// learn keeps the references of new series.
func (e *engine) learn(points []point) {
	for _, p := range points {
		if p.labels.Len() > 0 {
			e.refs[p.id] = p.ref
			e.created++
		}
	}
}
