package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// fence stops a store from confirming anything after a failed write or sync, until the
// storage has been opened again. What was written behind a torn record is not replayed, and
// a page that could not be written is marked clean by the kernel: nothing but a replay of
// logs that have been made durable anew tells what is really stored.
//
// A full disk closes it, too, before the TSDB runs into that; nothing has failed then, so
// what is under way is confirmed, and no replay is needed.
//
// A panic within the TSDB, as on a full disk when it writes a chunk file, leaves more
// behind: locks that are never released. Whoever needs one of them hangs, so the store is
// dead then: it calls the TSDB for no write again, and the process has to end.
type fence struct {
	dir    string
	logger *slog.Logger
	gauge  *prometheus.GaugeVec // by reason
	raised chan struct{}        // holds a token after a failure
	dead   chan struct{}        // closed after the first panic, when killer is set
	report chan error           // receives killer, once

	mu       sync.Mutex
	failures *failureCounters // of the TSDB that is open, or nil
	cause    error
	since    time.Time // when cause was set
	full     error
	killer   error
}

// The reasons that the metric of the fence tells apart.
const (
	reasonFailure  = "failure"
	reasonDiskFull = "disk_full"
)

func newFence(dir string, logger *slog.Logger, gauge *prometheus.GaugeVec) *fence {
	return &fence{
		dir: dir, logger: logger, gauge: gauge,
		raised: make(chan struct{}, 1), dead: make(chan struct{}), report: make(chan error, 1),
	}
}

// watch makes f ask the counters of another TSDB. With nil it asks none.
func (f *fence) watch(failures *failureCounters) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = failures
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

// raise fences the store, for the first cause it is given that says more than that a write was
// counted as failed, and returns what check does from now on.
func (f *fence) raise(cause error) error {
	f.mu.Lock()
	first := f.cause == nil
	// Whoever looks at the counter may be faster than the write that failed, which knows why.
	explained := !first && errors.Is(f.cause, errCounted) && !errors.Is(cause, errCounted)
	if first || explained {
		f.cause = fmt.Errorf("%w: %w; nothing is confirmed until the disk at --storage.tsdb.path=%s is usable and the storage has been opened again", ErrFenced, cause, f.dir)
	}
	if first {
		f.since = time.Now()
	}
	err := f.cause
	f.mu.Unlock()
	switch {
	case first:
		f.gauge.WithLabelValues(reasonFailure).Set(1)
		f.logger.Error("Storage fenced itself: writes are refused, reads go on", "err", err)
		f.raised <- struct{}{} // taken before the next first cause: by who lowers the fence
	case explained:
		f.logger.Error("Storage is fenced: this is why a write to its log failed", "err", err)
	}
	return err
}

// lower ends what raise began, for a storage that has been opened again, and returns how
// long that lasted.
func (f *fence) lower() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cause = nil
	f.gauge.WithLabelValues(reasonFailure).Set(0)
	return time.Since(f.since)
}

// setFull refuses appends for a full disk, or with nil takes them again.
func (f *fence) setFull(err error) {
	f.mu.Lock()
	f.full = err
	f.mu.Unlock()
	if err != nil {
		f.gauge.WithLabelValues(reasonDiskFull).Set(1)
		f.logger.Error("Disk is nearly full: writes are refused, reads go on", "err", err)
		return
	}
	f.gauge.WithLabelValues(reasonDiskFull).Set(0)
	f.logger.Info("Disk has space again: writes are taken")
}

// check returns why nothing may be confirmed, or nil. It also finds the failed writes that
// the TSDB does not return to the caller.
func (f *fence) check() error {
	f.mu.Lock()
	err, failures := f.cause, f.failures
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if failures == nil {
		return nil
	}
	if err := failures.failed(); err != nil {
		return f.raise(err)
	}
	return nil
}

// admit returns why no append may begin, or nil.
func (f *fence) admit() error {
	if err := f.check(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.full
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

// errCounted is all that a counter tells of a failed write.
var errCounted = errors.New("a write failed")

// failed returns an error, which wraps errCounted, if any write to a log has failed since the TSDB was
// opened.
func (r *failureCounters) failed() error {
	if r.value(wblFailures) > 0 {
		return fmt.Errorf("%w to the out-of-order log (wbl), the TSDB has logged why", errCounted)
	}
	if r.value(walFailures) > 0 {
		return fmt.Errorf("%w to the write-ahead log (wal)", errCounted)
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
