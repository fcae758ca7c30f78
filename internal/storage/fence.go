package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// fence stops a store from confirming anything after the first failed write or sync.
// What was written behind a torn record is not replayed, and a page that could not be
// written is marked clean by the kernel: nothing but a replay of the logs tells what is
// really stored.
//
// A panic within the TSDB, as on a full disk when it writes a chunk file, leaves more
// behind: locks that are never released. Whoever needs one of them hangs, so the store is
// dead then: it calls the TSDB for no write again, and the process has to end.
type fence struct {
	dir      string
	failures *failureCounters
	logger   *slog.Logger
	gauge    prometheus.Gauge
	dead     chan struct{} // closed after the first panic, when killer is set
	report   chan error    // receives killer, once

	mu     sync.Mutex
	cause  error
	killer error
}

func newFence(dir string, failures *failureCounters, logger *slog.Logger, gauge prometheus.Gauge) *fence {
	return &fence{
		dir: dir, failures: failures, logger: logger, gauge: gauge,
		dead: make(chan struct{}), report: make(chan error, 1),
	}
}

// guard runs f, which writes to the TSDB. A panic of f becomes an error and kills the store.
func (f *fence) guard(operation string, write func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = f.kill(fmt.Errorf("%s: panic: %v", operation, p), debug.Stack())
		}
	}()
	return write()
}

// kill declares the store dead and returns what death does from now on.
func (f *fence) kill(cause error, stack []byte) error {
	f.logger.Error("Write to the TSDB panicked: its locks may be held for ever, so the process must end", "err", cause, "stack", string(stack))
	_ = f.raise(cause)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.killer == nil {
		f.killer = fmt.Errorf("%w: %w; the process must be restarted with a usable disk at --storage.tsdb.path=%s", ErrFenced, cause, f.dir)
		f.report <- f.killer
		close(f.dead)
	}
	return f.killer
}

// death returns why the TSDB's locks cannot be trusted, or nil. It wraps ErrFenced.
func (f *fence) death() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.killer
}

// raise fences the store, for the first cause it is given, and returns what check does
// from now on.
func (f *fence) raise(cause error) error {
	f.mu.Lock()
	first := f.cause == nil
	if first {
		f.cause = fmt.Errorf("%w: %w; nothing is confirmed until the process is restarted with a usable disk at --storage.tsdb.path=%s", ErrFenced, cause, f.dir)
	}
	err := f.cause
	f.mu.Unlock()
	if first {
		f.gauge.Set(1)
		f.logger.Error("Storage fenced itself: writes are refused, reads go on", "err", err)
	}
	return err
}

// check returns why nothing may be confirmed, or nil. It also finds the failed writes that
// the TSDB does not return to the caller.
func (f *fence) check() error {
	f.mu.Lock()
	err := f.cause
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if err := f.failures.failed(); err != nil {
		return f.raise(err)
	}
	return nil
}

// The TSDB answers a failed write to the out-of-order log by a line in its own log and by
// this counter only; a failed write to the other log may have been somebody else's. It
// tells of a repair while it opens by a counter, too.
const (
	walFailures = "prometheus_tsdb_wal_writes_failed_total"
	wblFailures = "prometheus_tsdb_out_of_order_wbl_writes_failed_total"
	corruptions = "prometheus_tsdb_wal_corruptions_total"
)

func watched() []string { return []string{walFailures, wblFailures, corruptions} }

// failureCounters is the registerer that the TSDB gets. It passes everything on and keeps
// some counters at hand, so that reading them costs no gathering.
// It is filled while the TSDB opens, by one goroutine, and only read afterwards.
type failureCounters struct {
	outer    prometheus.Registerer // may be nil
	counters map[string]prometheus.Metric
	// registered is what unregister takes back: the TSDB leaves most of it when it is
	// closed.
	registered []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (r *failureCounters) Register(c prometheus.Collector) error {
	for _, name := range watched() {
		if describes(c, name) {
			if r.counters == nil {
				r.counters = make(map[string]prometheus.Metric)
			}
			r.counters[name] = only(c)
		}
	}
	if r.outer == nil {
		return nil
	}
	r.registered = append(r.registered, c)
	return r.outer.Register(c)
}

// MustRegister implements prometheus.Registerer.
func (r *failureCounters) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (r *failureCounters) Unregister(c prometheus.Collector) bool {
	return r.outer != nil && r.outer.Unregister(c)
}

// unregister takes all metrics of a TSDB that has been closed out of the outer registerer.
func (r *failureCounters) unregister() {
	for _, c := range r.registered {
		r.outer.Unregister(c)
	}
	r.registered = nil
}

// complete tells whether the TSDB registered what is watched: a version of it that renames
// its counters must not switch the checks off unnoticed.
func (r *failureCounters) complete() error {
	for _, name := range watched() {
		if r.counters[name] == nil {
			return fmt.Errorf("the TSDB has no metric %s, so failures would go unnoticed", name)
		}
	}
	return nil
}

// value returns what a counter stands at.
func (r *failureCounters) value(name string) float64 {
	var m dto.Metric
	if err := r.counters[name].Write(&m); err != nil {
		return 1 // a counter without labels cannot fail; if it does, that is a failure
	}
	return m.GetCounter().GetValue()
}

// failed returns an error if any write to a log has failed since the TSDB was opened.
func (r *failureCounters) failed() error {
	if r.value(wblFailures) > 0 {
		return errors.New("a write to the out-of-order log (wbl) failed")
	}
	if r.value(walFailures) > 0 {
		return errors.New("a write to the write-ahead log (wal) failed")
	}
	return nil
}

// describes tells whether c is the single metric of that name. A description does not give
// its name away except in print.
func describes(c prometheus.Collector, name string) bool {
	descs := make(chan *prometheus.Desc)
	go func() {
		c.Describe(descs)
		close(descs)
	}()
	n, found := 0, false
	for d := range descs {
		n++
		found = found || strings.Contains(d.String(), fmt.Sprintf("fqName: %q", name))
	}
	return found && n == 1
}

// only returns the metric of a collector that has just one.
func only(c prometheus.Collector) prometheus.Metric {
	ch := make(chan prometheus.Metric, 1)
	c.Collect(ch)
	return <-ch
}
