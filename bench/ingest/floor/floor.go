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
	"golang.org/x/sync/errgroup"

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
	// Concurrent is PerSample with as many senders at once as the load has: what they share
	// costs more then, as it does in a server.
	Concurrent float64
	// Beside is PerSample, and SeriesBeside PerSeries, of each of as many processes at once as
	// there are copies of a sample: they share the memory and the caches of one machine, as nodes
	// on it do.
	Beside       float64
	SeriesBeside time.Duration
	// Resident and Heap are the memory of the process afterwards, the latter once garbage
	// was collected, and Peak the most resident.
	Resident, Peak, Heap int64
	Series               int
}

// Hidden is the flag by which the program runs itself as a child.
const Hidden = "run-floor"

// work is what a process that measures is told.
type work struct {
	workload.Shape
	Senders int
}

// Copies is how many processes are measured at once for Result.Beside.
const Copies = 3

// Measure runs this program again, for processes that do nothing else, with their data below a
// directory: one sender appends all, then so many do at once, and then several processes do what the
// first did, at once.
func Measure(ctx context.Context, s workload.Shape, senders int, below string) (r Result, err error) {
	r, err = measure(ctx, work{s, 1}, below)
	if err != nil {
		return r, err
	}
	concurrent, err := measure(ctx, work{s, senders}, below)
	if err != nil {
		return r, err
	}
	r.Concurrent = concurrent.PerSample
	var beside [Copies]Result
	measuring, ctx := errgroup.WithContext(ctx)
	for i := range beside {
		measuring.Go(func() (err error) {
			beside[i], err = measure(ctx, work{s, 1}, below)
			return err
		})
	}
	if err := measuring.Wait(); err != nil {
		return r, err
	}
	for _, b := range beside {
		r.Beside += b.PerSample / Copies
		r.SeriesBeside += b.PerSeries / Copies
	}
	return r, nil
}

func measure(ctx context.Context, w work, below string) (r Result, err error) {
	dir, err := os.MkdirTemp(below, "floor-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	text, err := json.Marshal(w)
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

// Child is a process that Measure starts.
func Child(dir string) error {
	var w work
	if err := json.NewDecoder(os.Stdin).Decode(&w); err != nil {
		return err
	}
	r, err := Run(context.Background(), w.Shape, w.Senders, dir)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// engine is a database with the references of its series.
type engine struct {
	shape   workload.Shape
	senders int
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

// Run appends the whole workload in this process, by so many senders at once. What it takes to
// make samples and labels is not counted.
func Run(ctx context.Context, s workload.Shape, senders int, dir string) (r Result, err error) {
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = (3 * time.Hour).Milliseconds()
	db, err := tsdb.Open(dir, slog.New(slog.DiscardHandler), nil, opts, nil)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	e := &engine{shape: s, senders: senders, db: db, refs: map[int]storage.SeriesRef{}}
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
		if err := e.send(ctx, batches); err != nil {
			return 0, 0, err
		}
		used += proc.OwnCPU() - before
		for _, points := range batches {
			samples += len(points)
			e.learn(points)
		}
	}
	return used, samples, nil
}

// send has each sender commit its share of the batches, the same ones in each scrape.
func (e *engine) send(ctx context.Context, batches [][]point) error {
	sending, ctx := errgroup.WithContext(ctx)
	for first := range e.senders {
		sending.Go(func() error {
			for i := first; i < len(batches); i += e.senders {
				if err := e.append(ctx, batches[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return sending.Wait()
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
