//go:build linux

package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

const (
	senderCount = 4
	// warmUp and coolDown are how long the load runs before the fault and after the
	// cluster has healed.
	warmUp, coolDown = 4 * time.Second, 3 * time.Second
	// convergeTimeout bounds how long a healed cluster may take to agree again.
	convergeTimeout = 2 * time.Minute
	// drainTimeout bounds how long senders take to get rid of their queues.
	drainTimeout = 90 * time.Second
	// replicas and writeQuorum are what the nodes run with by default.
	replicas, writeQuorum = 3, 2
)

// Row is one fault.
type Row struct {
	Name string
	// Short rows are part of the short selection.
	Short bool
	// Nodes is the size of the cluster, 3 if 0.
	Nodes int
	// Spares is how many nodes may join later.
	Spares int
	// slowCopying bounds the rate at which nodes copy, and gives them something to copy.
	slowCopying bool
	// Injected rows need the build with the settable clock and the failing syncs.
	Injected bool
	// RefusalsAllowed tells that the fault makes valid samples look invalid to a quorum.
	RefusalsAllowed bool
	// copiesLost is how many of the copies of a sample the fault destroys for good.
	copiesLost int
	// prepare, if set, is called before the nodes start.
	prepare func(ctx context.Context, r *rig) error
	// harm does the harm, waits and heals it.
	harm func(ctx context.Context, r *rig) error
}

// Result is what came of a row.
type Result struct {
	Row    string
	Counts ledger.Counts
	// Lost, Duplicated and Invented count samples; Thin ones are kept on fewer nodes
	// than the table asks for.
	Lost, Duplicated, Invented, Thin int
	// WritesDown and ReadsDown are the longest times in which no node took a write or
	// answered a query; the Worst ones are those of the node that was worst off.
	WritesDown, ReadsDown, WorstWrites, WorstReads time.Duration
	// Converged is the time from the heal to a cluster that agrees again.
	Converged time.Duration
	Took      time.Duration
	// Failures say what is wrong, with examples. None: the row passed.
	Failures []string
}

// Config says what to run rows with.
type Config struct {
	// Dir is for data, mounts and logs of the rows.
	Dir string
	// Logs is where the nodes' logs of failed rows are kept; empty for nowhere.
	Logs string
	// Program returns the path of a build.
	Program func(ctx context.Context, injected bool) (string, error)
}

// Run runs one row. The error says that it could not be run; what the cluster did wrong is
// in the result.
func Run(ctx context.Context, c Config, row Row) (res Result, err error) {
	if row.Nodes == 0 {
		row.Nodes = 3
	}
	program, err := c.Program(ctx, row.Injected)
	if err != nil {
		return Result{}, err
	}
	began := time.Now()
	dir, err := os.MkdirTemp(c.Dir, "row-")
	if err != nil {
		return Result{}, err
	}
	r, err := newRig(ctx, dir, program, row.Nodes, row.Spares)
	defer func() {
		err = errors.Join(err, r.close(), c.keepLogs(dir, row.Name, err != nil || len(res.Failures) > 0), removeWork(dir))
	}()
	if err != nil {
		return Result{}, err
	}
	if row.slowCopying {
		r.flags = append(r.flags, slowRate)
	}
	if row.prepare != nil {
		if err := row.prepare(ctx, r); err != nil {
			return Result{}, err
		}
	}
	if err := r.start(ctx); err != nil {
		return Result{}, fmt.Errorf("founding a cluster: %w", err)
	}
	res, err = perform(ctx, r, row)
	res.Row, res.Took = row.Name, time.Since(began)
	return res, err
}

// keepLogs moves the nodes' logs to where they outlive the row.
func (c Config) keepLogs(dir, row string, failed bool) error {
	if !failed || c.Logs == "" {
		return nil
	}
	to := filepath.Join(c.Logs, strings.ReplaceAll(row, " ", "-"))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, log := range logs {
		content, readErr := os.ReadFile(log)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(to, filepath.Base(log)), content, 0o644))
	}
	return err
}

// perform runs the load, the fault and the checks.
func perform(ctx context.Context, r *rig, row Row) (Result, error) {
	l := newLoad(r)
	if row.slowCopying {
		if err := l.writeHistory(ctx); err != nil {
			return Result{}, err
		}
	}
	u := l.use(ctx)
	defer u.abandon()
	if err := sleep(ctx, warmUp); err != nil {
		return Result{}, err
	}
	var res Result
	var failures []string
	fail := func(err error) {
		if err != nil {
			failures = append(failures, err.Error())
		}
	}
	err := row.harm(ctx, r)
	if _, ok := errors.AsType[*violation](err); err != nil && !ok {
		return Result{}, fmt.Errorf("the fault: %w", err)
	}
	fail(err)
	res.Converged, err = r.converge(ctx, convergeTimeout)
	fail(err)
	if err := sleep(ctx, coolDown); err != nil {
		return Result{}, err
	}
	fail(u.finish())
	now := time.Now()
	res.WritesDown, res.WorstWrites = l.writes.longest(now)
	res.ReadsDown, res.WorstReads = l.reads.longest(now)
	if len(failures) == 0 {
		_, err := r.converge(ctx, convergeTimeout)
		fail(err)
	}
	fail(l.readAll(ctx, senderCount))
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	copies, err := r.killAndRead()
	if err != nil {
		return Result{}, err
	}
	owners, err := r.owners()
	if err != nil {
		return Result{}, err
	}
	l.ledger.CheckCopies(copies, owners, writeQuorum-row.copiesLost, replicas-row.copiesLost)
	failures = append(failures, r.crashes()...)
	l.sum(&res, row)
	res.Failures = append(failures, res.Failures...)
	return res, nil
}

// sum fills in what the ledger found, and the failures.
func (l *load) sum(res *Result, row Row) {
	res.Counts = l.ledger.Counts()
	res.Lost, res.Duplicated = l.ledger.Found(ledger.Lost), l.ledger.Found(ledger.Duplicated)
	res.Invented, res.Thin = l.ledger.Found(ledger.Invented), l.ledger.Found(ledger.Thin)
	const examples = 3
	for _, k := range []ledger.Kind{ledger.Lost, ledger.Duplicated, ledger.Invented, ledger.Thin} {
		if n := l.ledger.Found(k); n > 0 {
			res.Failures = append(res.Failures, fmt.Sprintf("%d samples are %s", n, k))
			res.Failures = append(res.Failures, l.ledger.Examples(k, examples)...)
		}
	}
	violations, refusal := l.outcome()
	res.Failures = append(res.Failures, violations...)
	if refusal != "" && !row.RefusalsAllowed {
		res.Failures = append(res.Failures, fmt.Sprintf("%d valid samples were refused: %s", res.Counts.Refused, refusal))
	}
	if res.Counts.Acknowledged == 0 {
		res.Failures = append(res.Failures, "nothing was acknowledged at all")
	}
}

// usage is the goroutines of a load.
type usage struct {
	load *load
	// stopAsking ends scrapes, probes and readers; give up ends senders too.
	stopAsking, giveUp context.CancelFunc
	asking, sending    sync.WaitGroup
}

// use starts senders, probes and readers.
func (l *load) use(ctx context.Context) *usage {
	u := &usage{load: l}
	l.writes, l.reads = newAvailability(time.Now(), len(l.nodes)), newAvailability(time.Now(), len(l.nodes))
	ctx, u.giveUp = context.WithCancel(ctx)
	asking, stop := context.WithCancel(ctx)
	u.stopAsking = stop
	for i := range senderCount {
		s := l.newSender(i)
		u.asking.Go(func() { s.scrape(asking) })
		u.sending.Go(func() { s.send(ctx) })
	}
	for i := range l.nodes {
		u.asking.Go(func() { l.probe(asking, i) })
		u.asking.Go(func() { l.read(asking, i, senderCount) })
	}
	return u
}

// finish stops asking, and returns when all queues are empty.
func (u *usage) finish() error {
	u.stopAsking()
	u.asking.Wait()
	late := time.AfterFunc(drainTimeout, u.giveUp)
	u.sending.Wait()
	u.load.echoes.Wait()
	if !late.Stop() {
		return fmt.Errorf("senders still had full queues %s after the heal", drainTimeout)
	}
	return nil
}

// abandon ends everything; after finish it does nothing.
func (u *usage) abandon() {
	u.giveUp()
	u.asking.Wait()
	u.sending.Wait()
	u.load.echoes.Wait()
}

// crashes returns the lines of the nodes' logs that tell of a crash of the program.
func (r *rig) crashes() []string {
	var found []string
	for _, n := range r.places {
		f, err := os.Open(n.log)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was never started
		}
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "panic: ") || strings.HasPrefix(lines.Text(), "fatal error: ") {
				found = append(found, fmt.Sprintf("node %d: %s", n.number, lines.Text()))
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			found = append(found, err.Error())
		}
	}
	return found
}
