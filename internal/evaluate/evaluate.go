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

// Divisible is a set that can be read by several goroutines.
type Divisible interface {
	// Divide returns at most so many sets, each for one goroutine, that together hold the
	// series to come; the set that is divided has none of them any more. It returns nothing if that
	// does not help.
	Divide(most int) []storage.ChunkSeriesSet
}

// Series evaluates a fragment over the series of a set, in whatever order they come, each with
// other labels. The chunks of a series are ordered by time. Its labels, and the bytes of its
// chunks, stay valid until Series returns: with more than one worker they are read after the
// set has moved on. A Divisible set is read by the workers, any other by the caller's goroutine. XOR chunks are decoded from
// their bytes, as they are sent to other nodes, so that samples of an append that is being
// committed may count, other than by their iterators. Sets do best not to cut chunks
// (storage.SelectHints.DisableTrimming), which would encode them anew.
//
// The values of the answer are in no order, share no memory with the set, and do not depend on
// the number of workers but for rounding. An error is
//
//   - an *pushdown.UnprovenError for what the answer is not known to be equal for: chunks that
//     overlap, types and units as labels, a warning of a function, floats and histograms that
//     meet, histograms that cannot be added up in any order, a quantile that is warned of;
//   - the cause of ctx if it is done, looked at for each series and every 131,072 samples;
//   - that of the set or of a chunk;
//   - promql.ErrTooManySamples;
//   - what a worker panicked with. The caller's own goroutine works too where there is no more
//     than one batch of series, or one worker: whether it may panic is up to the caller.
func Series(ctx context.Context, set storage.ChunkSeriesSet, o Options) (*pushdown.Partial, error) {
	part, err := newRun(o).evaluate(ctx, set)
	switch {
	case err != nil:
		return nil, err
	case o.Fragment.Quantile != nil:
		return part, takeQuantiles(*o.Fragment.Quantile, part, o.Grid.Len())
	case o.Fragment.Top > 0:
		o.Fragment.Prune(part)
	}
	return part, nil
}

func (r *run) evaluate(ctx context.Context, set storage.ChunkSeriesSet) (*pushdown.Partial, error) {
	if d, ok := set.(Divisible); ok && r.Workers > 1 {
		if parts := d.Divide(r.Workers); len(parts) > 1 {
			return r.divided(ctx, parts)
		}
	}
	read := r.reader(set, fedSeries)
	first := &batch{}
	more, err := read.fill(first)
	if err != nil {
		return nil, err
	}
	if !more || r.Workers <= 1 {
		w := newWorker(r)
		if err := w.finish(ctx, read, first, more); err != nil {
			return nil, err
		}
		return w.partial(), nil
	}
	return r.fed(ctx, read, first)
}

// divided has each worker read a set of its own.
func (r *run) divided(ctx context.Context, sets []storage.ChunkSeriesSet) (*pushdown.Partial, error) {
	return r.together(ctx, len(sets), func(ctx context.Context, i int, w *worker) error {
		return w.finish(ctx, r.reader(sets[i], ownSeries), &batch{}, true)
	}, func(context.Context) error { return nil })
}

// fed has workers evaluate what the caller's goroutine reads.
func (r *run) fed(ctx context.Context, read *reader, first *batch) (*pushdown.Partial, error) {
	f := newFeed(r.Workers)
	return r.together(ctx, r.Workers, func(ctx context.Context, _ int, w *worker) error {
		return w.drain(ctx, f)
	}, func(ctx context.Context) error {
		defer close(f.full) // deferred, as reading may panic
		return f.feed(ctx, read, first)
	})
}

// together has n workers work, and the caller's goroutine meanwhile. All of them have ended when
// it returns. An error of one ends the others.
func (r *run) together(ctx context.Context, n int, work func(ctx context.Context, i int, w *worker) error, meanwhile func(ctx context.Context) error) (*pushdown.Partial, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := make([]*worker, n)
	var running sync.WaitGroup
	for i := range workers {
		workers[i] = newWorker(r)
		running.Go(func() {
			if err := safely(func() error { return work(ctx, i, workers[i]) }); err != nil {
				cancel(err)
			}
		})
	}
	func() {
		defer running.Wait()
		if err := meanwhile(ctx); err != nil {
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
	return r.Fragment.Merge(r.Grid, parts, func() error { return context.Cause(ctx) })
}

// safely makes an error of a panic, and of a fault, as where a file that is mapped has been cut or
// cannot be read: they end the evaluation, not the process.
func safely(f func() error) (err error) {
	debug.SetPanicOnFault(true)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("evaluate series: panic: %v", p)
		}
	}()
	return f()
}

// finish evaluates a batch, and what more there may be to read.
func (w *worker) finish(ctx context.Context, read *reader, b *batch, more bool) error {
	for {
		if err := w.evaluate(ctx, b); err != nil || !more {
			return err
		}
		var err error
		if more, err = read.fill(b); err != nil {
			return err
		}
	}
}

// drain evaluates what is fed to it.
func (w *worker) drain(ctx context.Context, f *feed) error {
	for b := range f.full {
		if err := w.evaluate(ctx, b); err != nil {
			return err
		}
		f.empty <- b
	}
	return nil
}
