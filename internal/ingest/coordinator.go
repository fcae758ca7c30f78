// Package ingest coordinates writes. A batch is cut into one part per owner, the parts
// are appended on all owners at once, and a write is answered by what its owners said:
// guarantee by write quorum, per sample.
//
// Coordinator is the side that a client's request reaches, Owner the side that stores.
// The rules are in decide, which is pure.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/workers"
)

// firstBackoff is how long a write waits before it is planned anew by the same table: a
// node that is behind learns the table meanwhile, or this node adopts the newer one. It
// doubles with each further plan, up to maxBackoff.
const (
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = 200 * time.Millisecond
)

// Replica is the way to one owner.
type Replica interface {
	// Append stores a batch. It is shared and must not be changed or kept after the call
	// returns.
	Append(ctx context.Context, t *table.Table, b *series.Batch) (proof.Confirmation, error)
	// Note returns when the owner has noted durably that a peer may lack samples since a
	// time, in milliseconds.
	Note(ctx context.Context, t *table.Table, peer table.NodeID, since int64) error
	// NoteLate is Note for a peer that may yet confirm what it is noted for. The ticket is
	// for Withdraw; 0 says that the note cannot be withdrawn.
	NoteLate(ctx context.Context, t *table.Table, peer table.NodeID, since int64) (ticket uint64, err error)
	// Withdraw tells the owner that the peer has confirmed what a late note was for.
	Withdraw(ctx context.Context, t *table.Table, peer table.NodeID, ticket uint64) error
}

// Options are what a Coordinator works with. All are required but Registerer.
type Options struct {
	// Table returns the current table with the placements of the assignments that it writes
	// by; nil before the cluster is formed.
	Table func() (*table.Table, []Placement)
	// Replica returns the way to an owner, this node included.
	Replica func(id table.NodeID) Replica
	// Timeout bounds how long owners are waited for.
	Timeout time.Duration
	// Grace is how long the remaining owners are waited for at least once the answer is
	// certain, so that copies seldom differ.
	Grace      time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Coordinator writes batches to their owners.
type Coordinator struct {
	opts       Options
	duration   prometheus.Histogram
	unanswered *prometheus.CounterVec
	replans    prometheus.Counter
	notes      *prometheus.CounterVec
	workers    *workers.Pool
}

// New returns a coordinator.
func New(opts Options) *Coordinator {
	factory := promauto.With(opts.Registerer)
	return &Coordinator{
		opts:    opts,
		workers: workers.New(),
		duration: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "starling_ingest_quorum_duration_seconds",
			Help:    "Time from a batch's arrival until its outcome was certain.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}),
		unanswered: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_ingest_unconfirmed_total",
			Help: "Parts of batches that an owner did not confirm before the write was answered, by owner.",
		}, []string{"node"}),
		replans: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_ingest_replans_total",
			Help: "Writes planned anew because the table had changed.",
		}),
		notes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_ingest_gap_notes_total",
			Help: "Owners asked to note what another one misses, and notes withdrawn because it was only late, by what came of it.",
		}, []string{"result"}),
	}
}

// Close ends what waits for further writes. Those under way go on.
func (c *Coordinator) Close() { c.workers.Close() }

// ShortError means that samples lack their write quorum, or a note for an owner that misses
// them. A retry may help.
type ShortError struct {
	// Samples counts those that are short, of Total.
	Samples, Total int
	// Causes holds one line per owner that did not confirm.
	Causes []string
}

// Error implements error.
func (e *ShortError) Error() string {
	msg := fmt.Sprintf("%d of %d samples are not stored safely on a write quorum", e.Samples, e.Total)
	if len(e.Causes) > 0 {
		msg += ": " + strings.Join(e.Causes, "; ")
	}
	return msg
}

// Write stores a batch on its owners, and retains it while one of them reads it. Without an
// error, every sample not refused in the result is confirmed by its write quorum. An error means
// that some valid sample is not, or that ctx ended first.
func (c *Coordinator) Write(ctx context.Context, b *series.Batch) (series.Result, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	ctx, span := startWrite(ctx, b)
	res, err := c.writeByTables(ctx, b)
	endWrite(span, &res, err)
	c.duration.Observe(time.Since(start).Seconds())
	var short *ShortError
	if errors.As(err, &short) {
		c.opts.Logger.Warn("Write is short of its quorum", "samples", short.Samples, "of", short.Total, "causes", strings.Join(short.Causes, "; "))
	}
	return res, err
}

// writeByTables writes, and plans anew while the table changes.
func (c *Coordinator) writeByTables(ctx context.Context, b *series.Batch) (series.Result, error) {
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		res, err := c.write(ctx, b)
		var mismatch *table.MismatchError
		if errors.As(err, &mismatch) && c.awaitTable(ctx, mismatch.Want, backoff) {
			c.replans.Inc()
			continue
		}
		return res, err
	}
}

// awaitTable waits before another plan, unless the table has changed already. It returns
// false if ctx ends first.
func (c *Coordinator) awaitTable(ctx context.Context, epoch uint64, backoff time.Duration) bool {
	if t, _ := c.opts.Table(); t != nil && t.Epoch > epoch {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(backoff):
		return true
	case <-ctx.Done():
		return false
	}
}

// write plans and writes once. A *table.MismatchError asks for another plan.
func (c *Coordinator) write(ctx context.Context, b *series.Batch) (series.Result, error) {
	t, placements := c.opts.Table()
	if t == nil {
		return series.Result{}, ErrNoTable
	}
	plan := planned(ctx, t, b, placements)
	tally := newTally(b, t.Writing(), plan.gone)
	col := c.collect(ctx, tally, plan.parts, c.send(ctx, t, b, plan.parts))
	res, err := c.conclude(ctx, tally, plan.gone, col)
	if err != nil {
		return res, err
	}
	return res, c.cover(ctx, t, tally, plan.parts, col)
}

type answer struct {
	part         *part
	confirmation proof.Confirmation
	err          error
}

// send starts the appends on all owners. They outlive the answer to the client, but not
// the time-out: a straggler still gets its copy, of the batch that the parts are of.
func (c *Coordinator) send(ctx context.Context, t *table.Table, b *series.Batch, parts []*part) <-chan answer {
	b.Retain()
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.Timeout)
	answers := make(chan answer, len(parts))
	var owners sync.WaitGroup
	owners.Add(len(parts))
	for _, p := range parts {
		c.workers.Go(func() {
			defer owners.Done()
			a := answer{part: p}
			ctx, span := startAppend(detached, p)
			a.err = c.guard(p.node, func() (err error) {
				a.confirmation, err = c.opts.Replica(p.node).Append(ctx, t, p.batch)
				return err
			})
			endAppend(span, &a)
			answers <- a
		})
	}
	c.workers.Go(func() {
		owners.Wait()
		b.Release()
		cancel()
	})
	return answers
}

// guard asks one owner. A panic is that owner's failure: no request may end the process.
func (c *Coordinator) guard(node table.NodeID, ask func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.opts.Logger.Error("Request to an owner panicked", "node", node, "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return ask()
}

// errNoAnswer is what an owner misses its part for that has not answered yet.
var errNoAnswer = errors.New("no answer in time")

// collected is what the owners said until nobody was waited for any more.
type collected struct {
	holders  []*holder
	missing  map[*part]error
	mismatch *table.MismatchError
	// late are the answers that nobody waited for.
	late <-chan answer
}

// patience is how many times as long as for a quorum the remaining owners are waited for, and
// maxGrace bounds that. Where all are busy, some take longer than others, and to note what is
// only late, and to withdraw the note, is work on machines that are busy already.
const (
	patience = 4
	maxGrace = 2 * time.Second
)

// grace is how long the remaining owners are waited for when the verdicts took so long to be
// certain.
func (c *Coordinator) grace(certain time.Duration) time.Duration {
	return max(c.opts.Grace, min(patience*certain, maxGrace))
}

// collect waits for the owners: until the verdicts are certain, and then, for the grace, for
// those that miss something that nobody has noted yet.
func (c *Coordinator) collect(ctx context.Context, t *tally, parts []*part, answers <-chan answer) collected {
	col := collected{missing: make(map[*part]error, len(parts)), late: answers}
	for _, p := range parts {
		col.missing[p] = errNoAnswer
	}
	var grace <-chan time.Time
	start := time.Now()
	for waiting := len(parts); waiting > 0; {
		if t.settled() {
			if t.offered(parts, col.holders) {
				break
			}
			if grace == nil {
				timer := time.NewTimer(c.grace(time.Since(start)))
				defer timer.Stop()
				grace = timer.C
			}
		}
		select {
		case a := <-answers:
			waiting--
			if a.err == nil {
				delete(col.missing, a.part)
				col.holders = append(col.holders, &holder{a.part, a.confirmation})
				t.confirm(a.part, a.confirmation.Outcome)
				continue
			}
			col.missing[a.part] = a.err
			t.fail(a.part)
			errors.As(a.err, &col.mismatch)
		case <-grace:
			waiting = 0
		case <-ctx.Done():
			waiting = 0
		}
	}
	for p := range col.missing {
		c.unanswered.WithLabelValues(string(p.node)).Inc()
	}
	return col
}

func (c *Coordinator) conclude(ctx context.Context, t *tally, gone []*part, col collected) (series.Result, error) {
	res, shortOf := t.result()
	if shortOf == 0 {
		return res, nil
	}
	if col.mismatch != nil {
		return res, col.mismatch
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return res, ctx.Err()
	}
	e := &ShortError{Samples: shortOf, Total: t.batch.NumSamples()}
	for _, p := range gone {
		e.Causes = append(e.Causes, fmt.Sprintf("node %s: it is removed", p.node))
	}
	for p, err := range col.missing {
		e.Causes = append(e.Causes, fmt.Sprintf("node %s: %v", p.node, err))
	}
	sort.Strings(e.Causes)
	return res, e
}

// asksForPlan tells whether an error of an owner means that the table has changed.
func asksForPlan(err error) bool {
	var mismatch *table.MismatchError
	return errors.As(err, &mismatch)
}
