// Package evaluate is how an owner evaluates a fragment of a query over its own series: each
// chunk is decoded once, windows slide over the samples, and what comes out is what
// Prometheus's engine gives, but for the rounding of sums that are put together in another
// order.
package evaluate

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// Options bound an evaluation.
type Options struct {
	Fragment *pushdown.Fragment
	Grid     pushdown.Grid
	// MaxSamples bounds the samples that are held at once: the steps of all values of the
	// answer, and the samples of the series that are being evaluated. It is positive.
	MaxSamples int
	// Workers is how many goroutines decode and evaluate at once; at least 1. Each holds
	// groups of its own.
	Workers int
}

// run is what the workers of one evaluation share.
type run struct {
	Options
	steps int
	// mint and maxt are the times of the oldest and the newest sample to look at, in
	// milliseconds, both inclusive.
	mint, maxt int64
	// held counts samples against MaxSamples.
	held atomic.Int64
}

func newRun(o Options) *run {
	r := &run{Options: o, steps: o.Grid.Len()}
	r.mint, r.maxt = o.Fragment.Span(o.Grid)
	return r
}

// hold counts samples that are held from now on until the evaluation ends.
func (r *run) hold(samples int) error {
	if r.held.Add(int64(samples)) > int64(r.MaxSamples) {
		return promql.ErrTooManySamples("query execution")
	}
	return nil
}

// Series evaluates a fragment over the series of a set, in whatever order they come, each with
// other labels. The chunks of a series are ordered by time. Its labels, and the bytes of its
// chunks, stay valid until Series returns: with more than one worker they are read after the
// set has moved on. It is the caller's goroutine that reads the set. XOR chunks are decoded from
// their bytes, as they are sent to other nodes, so that samples of an append that is being
// committed may count, other than by their iterators. Sets do best not to cut chunks
// (storage.SelectHints.DisableTrimming), which would encode them anew.
//
// The values of the answer are in no order, share no memory with the set, and do not depend on
// the number of workers but for rounding. An error is
//
//   - an *pushdown.UnprovenError for what the answer is not known to be equal for: chunks that
//     overlap, types and units as labels, a warning of a function, floats and histograms that
//     meet, histograms that cannot be added up in any order;
//   - the cause of ctx if it is done, looked at for each series and every 131,072 samples;
//   - that of the set or of a chunk;
//   - promql.ErrTooManySamples;
//   - what a worker panicked with. The caller's own goroutine works too where there is no more
//     than one batch of series, or one worker: whether it may panic is up to the caller.
func Series(ctx context.Context, set storage.ChunkSeriesSet, o Options) (*pushdown.Partial, error) {
	r := newRun(o)
	read := &reader{set: set, mint: r.mint, maxt: r.maxt}
	first := &batch{}
	more, err := read.fill(first)
	if err != nil {
		return nil, err
	}
	evaluate := r.together
	if !more || o.Workers <= 1 {
		evaluate = r.alone
	}
	part, err := evaluate(ctx, read, first, more)
	if err == nil && o.Fragment.Top > 0 {
		o.Fragment.Prune(part)
	}
	return part, err
}

// alone evaluates everything in the caller's goroutine.
func (r *run) alone(ctx context.Context, read *reader, b *batch, more bool) (*pushdown.Partial, error) {
	w := newWorker(r)
	for {
		if err := w.evaluate(ctx, b); err != nil {
			return nil, err
		}
		if !more {
			return w.partial(), nil
		}
		var err error
		if more, err = read.fill(b); err != nil {
			return nil, err
		}
	}
}

// together has workers evaluate what the caller's goroutine reads. All of them have ended when
// it returns.
func (r *run) together(ctx context.Context, read *reader, first *batch, _ bool) (*pushdown.Partial, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := newFeed(r.Workers)
	workers := make([]*worker, r.Workers)
	var running sync.WaitGroup
	for i := range workers {
		workers[i] = newWorker(r)
		running.Go(func() {
			if err := workers[i].drain(ctx, f); err != nil {
				cancel(err)
			}
		})
	}
	// Deferred, as reading may panic.
	func() {
		defer running.Wait()
		defer close(f.full)
		if err := f.feed(ctx, read, first); err != nil {
			cancel(err)
		}
	}()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	parts := make([]*pushdown.Partial, len(workers))
	for i, w := range workers {
		parts[i] = w.partial()
	}
	return r.Fragment.Merge(r.Grid, parts)
}

// drain evaluates what is fed to it. A fault, as where a file that is mapped has been cut or
// cannot be read, ends the evaluation, not the process.
func (w *worker) drain(ctx context.Context, f *feed) (err error) {
	debug.SetPanicOnFault(true)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("evaluate series: panic: %v", p)
		}
	}()
	for b := range f.full {
		if err := w.evaluate(ctx, b); err != nil {
			return err
		}
		f.empty <- b
	}
	return nil
}
